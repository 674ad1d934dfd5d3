"""Kinds of files that are given as checkpoints by mistake, found by their first bytes and the names in an archive.

Nothing is unpacked or run. Each description says what the file is and what to do.
"""

import re
from collections.abc import Collection
from pathlib import PurePath

HEAD = 1_024  # bytes that are looked at
AGAIN = "download it again"
LFS = "a Git LFS pointer, a text in place of the weights: run git lfs pull where it was cloned, or download the file"
CONVERT = "read it with its own library, rename its tensors to those of the authors' torch code, and save safetensors"
UNPACK = "unpack it, and give the checkpoint in it"
SAVE_STATE = "where you trust it, load it with its own code and save its state_dict by torch.save"

STARTS = (
    (b"version https://git-lfs", LFS),
    (b"version https://hawser", LFS),
    (b"/annex/objects/", "a git-annex pointer, a text in place of the weights: run git annex get"),
    (b"\x89HDF\r\n\x1a\n", f"HDF5, as Keras writes (.h5): {CONVERT}"),
    (b"GGUF", f"GGUF, the format of llama.cpp: take the original weights, or {CONVERT}"),
    (b"\x93NUMPY", "an array of NumPy, without names: no checkpoint"),
    (b"\x1f\x8b", f"compressed by gzip: {UNPACK}"),
    (b"BZh", f"compressed by bzip2: {UNPACK}"),
    (b"\xfd7zXZ", f"compressed by xz: {UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"compressed by zstd: {UNPACK}"),
    (b"7z\xbc\xaf\x27\x1c", f"a 7z archive: {UNPACK}"),
    (b"Rar!", f"a RAR archive: {UNPACK}"),
    (b"\x89PNG", "a PNG image, no checkpoint"),
    (b"\xff\xd8\xff", "a JPEG image, no checkpoint"),
    (b"%PDF", "a PDF document, no checkpoint"),
    (b"model_checkpoint_path:", f"the list of a TensorFlow checkpoint: {CONVERT}"),
    (b"(dp", f"a Python pickle as text: {SAVE_STATE}"),
    (b"\x08\x01\x12", f"a SavedModel of TensorFlow: {CONVERT}"),
)
HTML = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml|error|!--)", re.IGNORECASE)
ONNX = re.compile(rb"\x08[\x02-\x20]([\x12\x3a\x42]|\x1a)", re.DOTALL)  # version of the format, then another field
MSGPACK = re.compile(rb"([\x81-\x8f]|\xde..|\xdf....)([\xa1-\xbf]|\xd9.)[ -~]", re.DOTALL)  # a map, then a name
TENSORFLOW = re.compile(r"\.(data-\d{5}-of-\d{5}|index|meta|pb)$")
INDEX = bytes.fromhex("57fb808b247547db")  # the end of a table of TensorFlow


def kind(name: str, head: bytes, tail: bytes = b"") -> str | None:
    """Description of a file that does not begin as a checkpoint does, and what to do; None if unknown.

    Args:
        name: Its name.
        head: Its first bytes, ``HEAD`` or fewer.
        tail: Its last bytes.
    """
    for start, meaning in STARTS:
        if head.startswith(start):
            return meaning
    if HTML.match(head):
        return f"an HTML page, such as a login or an error: {AGAIN}, signed in or by the direct link to the file"
    if head[257:262] == b"ustar":
        return f"a tar archive (torch before 0.2 wrote such files too): {UNPACK}"
    if head[4:8] == b"TFL3":
        return f"a model of TensorFlow Lite: {CONVERT}"
    if tail.endswith(INDEX) or TENSORFLOW.search(name):
        return f"a part of a TensorFlow checkpoint: {CONVERT}"
    if ONNX.match(head) or name.endswith(".onnx"):
        return "an ONNX graph, which has no names of a published layout: take the torch weights that it was made from"
    if MSGPACK.match(head):
        return f"msgpack, as flax writes: take the repository's torch weights, or {CONVERT}"
    if head and not head.strip(b"\0"):
        return f"zeros at its start: a download that broke off, {AGAIN}"
    if not head.strip():
        return f"empty: {AGAIN}"
    text = _text(head)
    if text is not None:
        return f"a text that begins with {text[:60]!r}, no checkpoint"
    return None


def archive_kind(names: Collection[str]) -> str | None:
    """Description of a zip file that ``torch.save`` did not write, and what to do; None if it wrote it.

    Args:
        names: Names of its members.
    """
    paths = [PurePath(name) for name in names]
    files = {path.name for path in paths}
    parts = {part for path in paths for part in path.parts[:-1]}
    if "constants.pkl" in files and ("code" in parts or "data.pkl" in files):
        return f"TorchScript, which is code: {SAVE_STATE}"
    if {"archive_format", "models"} & (files | parts) and "data.pkl" not in files:
        return f"a program of torch.export, which is code: {SAVE_STATE}"
    if "data.pkl" in files:
        return None
    if files & {"model.weights.h5", "keras_metadata.pb"} or {"saved_model.pb"} & files:
        return f"a model of Keras or TensorFlow: {CONVERT}"
    if paths and all(path.suffix == ".npy" for path in paths):
        return "an archive of NumPy arrays (.npz): save them as safetensors under the names of a published layout"
    if paths:
        return f"a zip archive of {', '.join(sorted(files)[:3])}{', ...' * (len(files) > 3)}: {UNPACK}"
    return "an empty zip archive"


def _text(head: bytes) -> str | None:
    """First line of a text; None if it is none."""
    try:
        text = head[:HEAD].decode("utf-8", errors="strict" if len(head) < HEAD else "ignore")
    except UnicodeDecodeError:
        return None
    return text.strip().split("\n")[0] if text.isprintable() or re.fullmatch(r"[\s!-~\u00a0-\uffff]*", text) else None
