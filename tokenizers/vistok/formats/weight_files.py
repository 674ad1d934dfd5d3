"""Files of published weights: the one in a folder, and those that an index joins."""

import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from vistok.untrusted.bounded_json import one_line, read_json, read_object, short
from vistok.untrusted.file_kinds import HEAD, kind
from vistok.untrusted.torch_files import Contents, read_tensors

INDEX = ".index.json"
MAX_INDEX, MAX_FILES = 16 * 2**20, 1_000  # bytes of an index; files that it may name
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")  # of diffusers and transformers
SAFE, TORCH = (".safetensors",), (".bin", ".ckpt", ".pt", ".pth")
END = re.compile(r"\.\w+(\.index\.json)?$")
OTHERS = re.compile(r"(optimizer|scheduler|training_args|rng_state|random_states|scaler)\b.*|.*optim_states\.pt")
NUMBERED = re.compile(r"-\d+-of-(?P<all>\d+)\.")  # one of several parts of a file


def weights_in(folder: Path) -> Path | None:
    """The file of weights in a folder, or the index of its parts; None if there is none.

    Safetensors are preferred to other files, the names of diffusers and transformers to other names, ``last.ckpt`` to
    other checkpoints. A folder of a pipeline has its VQModel in a folder, one of DeepSpeed its newest weights, one of
    Lightning its ``checkpoints``.

    Raises:
        ValueError: Nothing tells which of several files is meant.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    for suffixes in (SAFE, TORCH):
        ends = tuple(f"{suffix}{INDEX}" for suffix in suffixes)
        indices = [path for path in files if path.name.endswith(ends)]
        own = [path for path in files if path.suffix in suffixes and not OTHERS.fullmatch(path.name)]
        if indices:
            own = [path for path in own if not NUMBERED.search(path.name)]
        usual = [path for stem in STEMS for path in (*own, *indices) if re.sub(END, "", path.name) == stem]
        found = usual[:1] or indices or [path for path in own if path.name == "last.ckpt"] or own
        if len(found) > 1:
            names = ", ".join(one_line(path.name, 80) for path in found[:8])
            raise ValueError(f"{folder} has several files of weights: name one of {names}")
        if found:
            return found[0]
    for inner in inner_folders(folder):
        found_inside = weights_in(inner)
        if found_inside is not None:
            return found_inside
    return None


def inner_folders(folder: Path) -> Iterable[Path]:
    """Folders within a folder of a pipeline, of DeepSpeed or of Lightning in which its weights are."""
    pipeline, latest = folder / "model_index.json", folder / "latest"
    names: list[Any] = []
    if pipeline.is_file():
        parts = read_object(pipeline)
        names += [name for name, part in parts.items() if type(part) is list and part[1:] == ["VQModel"]]
    if latest.is_file() and latest.stat().st_size < HEAD:
        names.append(latest.read_text(errors="replace").strip())
    if not (folder / "config.yaml").is_file():  # an unfinished run of vistok has one
        names.append("checkpoints")
    return [folder / name for name in names if re.fullmatch(r"\w[\w.-]*", name) and (folder / name).is_dir()]


def other_kinds(folder: Path) -> str:
    """Description of what a folder has instead of weights, for a message; empty if nothing is known of it."""
    for path in sorted(folder.iterdir())[:100]:
        if path.name in ("_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt"):
            return "; it is a checkpoint of Orbax: read it with JAX, and save safetensors under published names"
        if path.suffix in (".pb", ".onnx", ".h5", ".msgpack", ".gguf", ".index", ".npz", ".tflite"):
            with path.open("rb") as file:
                found = kind(path.name, file.read(HEAD))
            if found is not None:
                return f"; {one_line(path.name, 80)} is {found}"
    return ""


def read_weights(path: Path, wanted: Callable[[Collection[str]], Collection[str]] = lambda names: names) -> Contents:
    """Contents of a file of weights, or of the files of an index.

    Args:
        path: The file, or the index.
        wanted: Those of an index's names that are needed; files that have none of them are not read.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A file is unreadable, or not what the index says.
    """
    if not path.name.endswith(INDEX) or not path.is_file():
        return read_tensors(path)
    places = places_of(path)
    needed = {name: places[name] for name in wanted(places) or places}
    files = sorted(set(needed.values()))
    missing = [file for file in files if not (path.parent / file).is_file()]
    if missing:
        raise ValueError(f"{path} names {len(files)} files, but {', '.join(missing[:3])} is not there: download it too")
    found: dict[str, Tensor] = {}
    stubs: set[str] = set()
    for file in files:
        contents = read_tensors(path.parent / file)
        stubs.update(contents.stubs)
        for name in (name for name, place in needed.items() if place == file):
            tensor = contents.tree.get(name) if type(contents.tree) is dict else None
            if not isinstance(tensor, Tensor):
                raise ValueError(f"{path} says that {file} has {one_line(name, 80)}, which it has not")
            found[name] = tensor
    return Contents(found, tuple(sorted(stubs)))


def places_of(index: Path) -> dict[str, str]:
    """Names of tensors and the file of each, from an index.

    Raises:
        ValueError: It is no index, or names files elsewhere or too many; the message names it.
    """
    content = read_json(index, MAX_INDEX)
    places = content.get("weight_map") if type(content) is dict else None
    if type(places) is not dict or not places or not all(type(place) is str for place in places.values()):
        raise ValueError(f"{index} is not an index of weights: it has no weight_map of names and files")
    files = {*places.values()}
    strange = [file for file in files if not re.fullmatch(r"\w[\w.=+ -]{0,200}", file)]
    if strange:
        raise ValueError(f"{index} names {short(min(strange))}, which is no file beside it")
    if len(files) > MAX_FILES:
        raise ValueError(f"{index} names {len(files):,} files, more than {MAX_FILES:,}")
    return places


def files_of(index: Path) -> list[str]:
    """Files that an index names."""
    return sorted({*places_of(index).values()})


def part_of(path: Path) -> str:
    """Hint for a file that is one of several parts; empty for others."""
    match = NUMBERED.search(path.name)
    return f"; it is one of {int(match['all'][:9])} parts: give their folder or index" if match else ""
