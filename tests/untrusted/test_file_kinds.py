"""Files that are no checkpoints: the message says what each is and what to do; none is unpacked or run."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from vistok.untrusted.torch_files import read_tensors

STATE = {"encoder.conv_in.weight": torch.arange(24.0).reshape(2, 3, 4)}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"


def zipped(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, "x" * 100)
    return file.getvalue()


def tarred():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return file.getvalue()


def array():
    file = io.BytesIO()
    np.save(file, np.zeros(9))
    return file.getvalue()


TABLE = b"\0\0\1model/conv" + bytes(30) + bytes.fromhex("57fb808b247547db")
KINDS = [
    ("w.ckpt", POINTER, "Git LFS pointer.*git lfs pull"),
    ("w.safetensors", POINTER, "Git LFS pointer.*git lfs pull"),
    ("w.pt", b"/annex/objects/SHA256E-s14--1\n", "git-annex pointer.*git annex get"),
    ("w.pt", b"\n\n<!DOCTYPE html><html><head><title>Sign in</title>", "HTML page.*download it again, signed in"),
    ("w.safetensors", b"\xef\xbb\xbf<HTML lang='en'>\n<body>", "HTML page"),
    ("w.pt", b"<?xml version='1.0'?><Error><Code>AccessDenied", "HTML page"),
    ("w.pt", b"Invalid username or password.", "a text that begins with 'Invalid username or password.'"),
    ("w.pt", b'{"error": "Repository not found"}\n', "a text that begins with .*Repository not found"),
    ("w.pt", "émodèle: VQModel\nparams:\n".encode() * 100, "a text that begins with 'émodèle: VQModel'"),
    ("flax_model.msgpack", b"\x82\xa6params\xde\x00\x13\xa7encoder", "msgpack, as flax writes"),
    ("model.onnx", b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "an ONNX graph"),
    ("w.pt", b"\x08\x07\x12\x07pytorch\x1a\x052.1.0", "an ONNX graph"),
    ("saved_model.pb", b"\x08\x01\x12\x95\x10\x0a\x33\x0a\x05serve", "SavedModel of TensorFlow"),
    ("model.ckpt-1.data-00000-of-00001", b"\x12\x99\x8d\x3c" * 9, "part of a TensorFlow checkpoint"),
    ("model.ckpt-1", TABLE, "part of a TensorFlow checkpoint"),
    ("checkpoint", b'model_checkpoint_path: "model.ckpt-1"\n', "list of a TensorFlow checkpoint"),
    ("vq.tflite", b"\x1c\0\0\0TFL3\0\0\0\0", "TensorFlow Lite"),
    ("vq.h5", b"\x89HDF\r\n\x1a\n\0\0\0\0", "HDF5, as Keras writes"),
    ("vq.gguf", b"GGUF\x03\0\0\0\0\0\0\0", "GGUF"),
    ("vq.npy", array(), "an array of NumPy"),
    ("vq.npz", zipped("encoder.npy", "decoder.npy"), "archive of NumPy arrays"),
    ("vq.keras", zipped("config.json", "metadata.json", "model.weights.h5"), "a model of Keras or TensorFlow"),
    ("w.pt", zipped("vq/code/__torch__.py", "vq/data.pkl", "vq/constants.pkl"), "TorchScript, which is code"),
    ("w.pt2", zipped("vq/archive_format", "vq/models/model.json"), "a program of torch.export"),
    ("w.zip", zipped("vq/last.ckpt", "vq/config.yaml"), "a zip archive of config.yaml, last.ckpt: unpack it"),
    ("w.pt", tarred(), "a tar archive.*unpack it"),
    ("w.tar.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "compressed by gzip: unpack it"),
    ("w.7z", b"7z\xbc\xaf\x27\x1c\0\x04\0\0", "a 7z archive"),
    ("w.pt", bytes(5_000), "zeros at its start.*download it again"),
    ("w.pt", b"   \n\n       \n", "empty: download it again"),
    ("w.pt", b"(dp0\nS'a'\np1\nI1\ns.", "a Python pickle as text"),
    ("w.pt", b"\x89PNG\r\n\x1a\n\0\0\0\r", "a PNG image"),
    ("w.pt", b"", "it has 0 bytes; download it again"),
    ("w.pt", bytes(range(40, 140)) + b"\xff" * 9, "neither starts like torch's files"),
]


@pytest.mark.parametrize("name, content, message", KINDS, ids=[f"{i}-{kind[0]}" for i, kind in enumerate(KINDS)])
def test_what_a_file_is(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_tensors(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_truncated_files(tmp_path):
    torch.save(STATE, tmp_path / "zip.pt")
    torch.save(STATE, tmp_path / "older.pt", _use_new_zipfile_serialization=False)
    save_file(STATE, tmp_path / "w.safetensors")
    for name, message in (("zip.pt", "truncated zip file.*download it again"), ("older.pt", "holds something else"),
                          ("w.safetensors", "truncated or damaged")):  # fmt: skip
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:-20])
        with pytest.raises(ValueError, match=message):
            read_tensors(tmp_path / name)


@pytest.mark.parametrize("name", ["w.bin", "w.ckpt", "noname", "w.safetensors"])
def test_the_content_tells_the_format_not_the_name(tmp_path, name):
    (tmp_path / name).write_bytes(save(STATE))
    assert torch.equal(read_tensors(tmp_path / name).tree["encoder.conv_in.weight"], STATE["encoder.conv_in.weight"])
    torch.save(STATE, tmp_path / name)
    assert torch.equal(read_tensors(tmp_path / name).tree["encoder.conv_in.weight"], STATE["encoder.conv_in.weight"])


@pytest.mark.parametrize("name", ["step:100.pt", "epoch=49-step=250000.ckpt", "C:\\runs\\vq.pt", "a b,c {1} $x 'é'.pt"])
def test_names_of_files_with_odd_characters(tmp_path, name):
    """``torch.save`` gives the members of its archive the file's name."""
    torch.save(STATE, tmp_path / name)
    assert torch.equal(read_tensors(tmp_path / name).tree["encoder.conv_in.weight"], STATE["encoder.conv_in.weight"])


def test_a_header_whose_size_begins_like_a_pickle(tmp_path):
    """128 bytes, which begin with 0x80 0x00: a pickle begins with 0x80 and its protocol."""
    content = save({"a": torch.ones(2)}, {"comment": "x" * 37})
    assert content[:2] == b"\x80\x00"
    (tmp_path / "w.safetensors").write_bytes(content)
    assert read_tensors(tmp_path / "w.safetensors").tree["a"].tolist() == [1, 1]
