"""Checkpoints of strangers are data: what is in them comes out, nothing in them runs."""

import argparse
import collections
import functools
import io
import os
import pathlib
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from safetensors.torch import save, save_file

from vistok import __main__ as command_line
from vistok.untrusted import safe_pickle
from vistok.untrusted.safe_pickle import Stub
from vistok.untrusted.torch_files import read_tensors

BASE = torch.arange(24, dtype=torch.float32).reshape(4, 6)
GOOD = {
    "state_dict": collections.OrderedDict(
        base=BASE, tied=BASE, view=BASE[1:3, ::2], turned=BASE.T, scalar=torch.tensor(3.5), empty=torch.empty(0, 4)
    ),
    "dtypes": [
        torch.arange(5).to(dtype)
        for dtype in (torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint8, torch.float64)
    ],
    "parameter": torch.nn.Parameter(torch.ones(3)),
    "plain": (1, -2.5, "text", None, True, b"bytes", 2**70, torch.Size([2, 3]), torch.float16),
    3: {"nested": [[], {}, ()]},
}


def same(ours, theirs):
    if isinstance(theirs, torch.Tensor):
        return ours.dtype == theirs.dtype and ours.stride() == theirs.stride() and torch.equal(ours, theirs.detach())
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return type(ours) is type(theirs) and ours == theirs


@pytest.mark.parametrize("zipped", [True, False])
def test_good_files_read_as_torch_reads_them(tmp_path, zipped):
    path = tmp_path / "model.ckpt"
    good = GOOD | ({"newer": torch.arange(5).to(torch.uint16)} if zipped else {})  # the older format cannot hold it
    torch.save(good, path, _use_new_zipfile_serialization=zipped)
    tree, stubs = read_tensors(path)
    assert same(tree, torch.load(path, weights_only=True)) and stubs == ()
    state = tree["state_dict"]
    assert state["base"].data_ptr() == state["tied"].data_ptr() == state["turned"].data_ptr()
    state["base"][0, 0] = 7  # memory, not the file
    assert read_tensors(path).tree["state_dict"]["base"][0, 0] == 0


def test_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": BASE, "b": torch.ones(2, dtype=torch.bfloat16)}, path)
    assert same(read_tensors(path).tree, {"a": BASE, "b": torch.ones(2, dtype=torch.bfloat16)})
    path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:])
    with pytest.raises(ValueError, match=r"model.safetensors .* header claims 1,152,921,504,606,846,976 bytes"):
        read_tensors(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_objects_of_lightning_and_others_become_stubs(tmp_path, zipped, protocol):
    others = {
        "callback": pl.callbacks.ModelCheckpoint(dirpath=tmp_path),
        "args": argparse.Namespace(codebook_size=16384),
        "config": OmegaConf.create({"model": {"dim": 8}}),
        "partial": functools.partial(print, "no"),
        "path": pathlib.PurePosixPath("a/b"),
        "set": {1, 2},
        "array": np.arange(3),
        "type": pl.LightningModule,
    }
    numbers = {"score": np.float64(0.25), "step": np.int64(7), "flag": np.bool_(True)}
    path = tmp_path / "lightning.ckpt"
    torch.save({**others, **numbers, "w": BASE}, path, pickle_protocol=protocol,
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    tree, stubs = read_tensors(path)
    assert all(type(tree[name]) is Stub for name in others), tree
    assert {"argparse.Namespace", "omegaconf.dictconfig.DictConfig", "functools.partial"} <= set(stubs)
    assert [tree[name] for name in numbers] == [0.25, 7, True] and torch.equal(tree["w"], BASE)


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def evils(marker):
    touch = Evil(os.system, (f"touch {marker}",))
    yield "system", touch
    yield "eval", Evil(eval, (f"open({str(marker)!r}, 'w')",))
    yield "state", Evil(argparse.Namespace, (), {"inner": touch})
    yield "list items", Evil(list, (), None, iter([touch]))
    yield "key", {touch: 1}
    yield "size", Evil(torch.Size, (touch,))
    yield "dict", Evil(collections.OrderedDict, (touch,))
    yield "exec", Evil(exec, (f"__import__('os').mknod('{marker}')",))
    yield "load", Evil(torch.load, (str(marker),))
    yield "nested pickle", Evil(pickle.loads, (pickle.dumps(touch),))


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_runs(tmp_path, zipped):
    marker, path = tmp_path / "marker", tmp_path / "evil.ckpt"
    for name, evil in evils(marker):
        torch.save({"state_dict": {"w": BASE}, "evil": evil}, path, _use_new_zipfile_serialization=zipped)
        tree, stubs = read_tensors(path)
        assert torch.equal(tree["state_dict"]["w"], BASE), name
        assert stubs and not marker.exists(), name
    torch.save(Evil(os.system, (f"touch {marker}",)), path)
    torch.load(path, weights_only=False)
    assert marker.exists()  # the file is as evil as it is meant to be


def archive(path, program, members=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", program)
        for name, content in members:
            file.writestr(name, content)
    return path


def text(string):
    return b"X" + struct.pack("<I", len(string)) + string.encode()


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def storage(numel, kind="torch FloatStorage", key="0"):
    return b"(" + text("storage") + f"c{kind}\n".replace(" ", "\n").encode() + text(key) + text("cpu") + number(
        numel) + b"tQ"  # fmt: skip


def tensor(numel, offset, shape, strides, held=b""):
    counts = [b"(" + b"".join(map(number, values)) + b"t" for values in (shape, strides)]
    held = held or storage(numel)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + held + number(offset) + b"".join(counts) + b"\x89}tR"


DATA = [("archive/data/0", bytes(16))]
NEST = b"\x80\x02)" + b"\x85" * 100_000 + b"."  # (((...)))
BLOWUP = b"\x80\x02]" + b"2\x86" * 40 + b"."  # each a pair of the former one: 2**40 lists
CYCLE = b"\x80\x02]q\x00h\x00a."


@pytest.mark.parametrize("program, message", [
    (tensor(2**40, 0, [4], [1]), "claims 1099511627776 x torch.float32, its member has 16 bytes"),
    (tensor(-1, 0, [4], [1]), "unknown kind, key or size"),
    (storage(4, "os system"), "unknown kind, key or size"),
    (storage(4, key="../../etc/passwd"), "is not in the file"),
    (tensor(4, 0, [2**40], [0]), "in a storage of 4 values"),
    (tensor(4, 1, [4], [1]), "at 1 in a storage of 4 values"),
    (tensor(4, 0, [2, 2], [2, 2**40]), "in a storage of 4 values"),
    (tensor(4, 0, [2], [-1]), "offset, sizes or strides are not counts"),
    (tensor(4, -1, [2], [1]), "offset, sizes or strides are not counts"),
    (tensor(4, 0, [2], [1], held=b"cos\nsystem\n"), "something else than a storage"),
    (tensor(4, 0, [2], [1], held=tensor(4, 0, [2], [1])), "something else than a storage"),
    (b"Pos.system\n", "opcode PERSID"),
    (b"\x82\x01", "opcode EXT1"),
    (b"\x97", "opcode NEXT_BUFFER"),
    (b"\x8b\xff\xff\xff\x7f", "not enough data in stream"),
    (NEST[2:-1], "nested more than 100 deep"),
    (BLOWUP[2:-1], "unfolded more than"),
    (CYCLE[2:-1], "hold themselves"),
    (b"Nr\xff\xff\xff\xff0h\x07", "damaged pickle: KeyError"),
    (b"0", "stack is empty"),
    (b"N" * 2_000_001, "more than 2,000,000 steps"),
    (b"S" + b"x" * 5_000 + b"\n", "no string quotes"),  # pickletools quotes all of it
    (b"N", "no end|is not|exhausted"),
])  # fmt: skip
def test_absurd_programs_are_refused(tmp_path, program, message):
    end = b"" if program == b"N" else b"."
    path = archive(tmp_path / "model.pt", b"\x80\x02" + program + end, DATA)
    with pytest.raises(ValueError, match=message) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < len(str(path)) + 500


def test_nested_keys_are_not_hashed(tmp_path):
    key = b")" + b"2\x86" * 60  # hashing it would take 2**60 steps
    path = archive(tmp_path / "model.pt", b"\x80\x02}" + key + b"Ns.")
    assert [type(key) for key in read_tensors(path).tree] == [Stub]


@pytest.mark.parametrize("members, compression, message", [
    ([("archive/data/../../../x", b"")], zipfile.ZIP_STORED, "is not safe"),
    ([("/etc/x", b"")], zipfile.ZIP_STORED, "is not safe"),
    ([("archive/constants.pkl", b"")], zipfile.ZIP_STORED, "TorchScript"),
    ([("other/data.pkl", b"")], zipfile.ZIP_STORED, "2 data.pkl"),
    ([("archive/byteorder", b"big")], zipfile.ZIP_STORED, "little-endian"),
    ([("archive/data/0", bytes(10**6))], zipfile.ZIP_DEFLATED, "compressed or encrypted"),
])  # fmt: skip
def test_absurd_archives_are_refused(tmp_path, members, compression, message):
    path = archive(tmp_path / "model.pt", b"\x80\x02N.", members, compression)
    with pytest.raises(ValueError, match=message):
        read_tensors(path)


def test_members_that_lie_about_themselves(tmp_path):
    path = archive(tmp_path / "model.pt", b"\x80\x02" + tensor(4, 0, [4], [1]) + b".", DATA)
    whole = path.read_bytes()
    entry = whole.rindex(b"PK\x01\x02")
    for at, value, message in [(20, 2**30, "beyond the file's end"), (42, 0, "overlap|checksum"), (16, 1, "checksum")]:
        lying = bytearray(whole)
        struct.pack_into("<I", lying, entry + at, value)
        if at == 20:
            struct.pack_into("<I", lying, entry + 24, value)
        path.write_bytes(lying)
        with pytest.raises(ValueError, match=message):
            read_tensors(path)


def test_files_that_are_none(tmp_path):
    for content in (b"", b"PK\x03\x04" + bytes(50), b"<html>404 not found", b"\x80\x02}q\x00.      "):
        (tmp_path / "model.ckpt").write_bytes(content)
        with pytest.raises(ValueError, match="model.ckpt"):
            read_tensors(tmp_path / "model.ckpt")
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none.ckpt")


def saved(**options):
    stream = io.BytesIO()
    torch.save({"w": BASE, "half": BASE.half()[1:], "n": argparse.Namespace(a=1)}, stream, **options)
    return stream.getvalue()


SEEDS = {
    "zip.pt": saved(),
    "older.pt": saved(_use_new_zipfile_serialization=False),
    "weights.safetensors": save({"w": BASE, "half": BASE.half()}),
}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(SEEDS)), st.data())
def test_damage_is_a_clean_error(tmp_path, name, data):
    content = bytearray(SEEDS[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path / name
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        read_tensors(path)
    except ValueError as error:
        assert str(path) in str(error)


def test_inspect(tmp_path, capsys):
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"encoder.[red]a": BASE, "encoder.[red]b": BASE}, "args": argparse.Namespace()}, path)
    command_line.main(["inspect", str(path)])
    out = capsys.readouterr().out
    assert "2 tensors, 48 values" in out and "state_dict" in out and "argparse.Namespace" in out
    command_line.main(["inspect", str(path), "--depth", "3"])
    assert "state_dict.encoder.[red]a" in capsys.readouterr().out
    for words in (["inspect", str(tmp_path / "none")], ["nothing"], []):
        with pytest.raises(SystemExit, match="2"):
            command_line.main(words)


def test_the_time_of_a_call_counts(tmp_path):
    pairs = b"(](" + b"(NNt" * 1000 + b"e"  # OrderedDict(pairs) of the same thousand pairs, again and again
    program = pairs[1:] + b"q\x00" + b"ccollections\nOrderedDict\nh\x00\x85R" * 5000
    path = archive(tmp_path / "model.pt", b"\x80\x02" + program + b".")
    with pytest.raises(ValueError, match="more than 2,000,000 steps"):
        read_tensors(path)


def long(value):
    digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(digits)]) + digits


PRIME = 2**61 - 1  # numbers that differ by it have one hash


@pytest.mark.parametrize("program, message", [
    (b"}(" + b"".join(long(k * PRIME) + b"N" for k in range(1, 60_000)) + b"u", "more than 1,000 keys that are"),
    (b"}(" + b"".join(long(k * PRIME) + b"\x85N" for k in range(1, 60_000)) + b"u", "more than 1,000 keys"),
    (b"}(" + b"".join(b"G" + struct.pack(">d", 2.0**e * m) + b"N" for m in range(1, 999) for e in range(-900, 900, 61))
     + b"u", "more than 1,000 keys"),
    (b"N" + b"".join(b"p%d\n" % (k * PRIME) for k in range(1, 60_000)), "under a number that no pickle needs"),
    (b"N" + b"".join(b"0cm\nn%06d\n" % k for k in range(60_000)), "more than 10,000 objects by name"),
], ids=["numbers", "tuples", "floats", "memo", "stubs"])  # fmt: skip
def test_keys_that_collide_take_no_time(tmp_path, program, message):
    path = archive(tmp_path / "model.pt", b"\x80\x02" + program + b".")
    begin = time.process_time()
    with pytest.raises(ValueError, match=message):
        read_tensors(path)
    assert time.process_time() - begin < 1


def test_keys_of_other_kinds_are_read(tmp_path):
    tree = {3: 1, -1: 2, 2.5: 3, None: 4, b"a": 5, ("a", 1): 6, True: 7, **{i: i for i in range(5, 3000)}}
    torch.save(tree, tmp_path / "model.pt")
    assert read_tensors(tmp_path / "model.pt").tree == tree


def test_members_that_are_one_another_are_not_summed_up(tmp_path):
    path = archive(tmp_path / "model.pt", b"\x80\x02N.", [("archive/data/0", bytes(2**20))])
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    entry = whole[whole.rindex(b"PK\x01\x02") : whole.rindex(b"PK\x05\x06")]
    copies = b"".join(entry.replace(b"data/0", b"dat%03d" % i)[: len(entry)] for i in range(1_000))
    number = struct.pack("<HHII", 1_000, 1_000, len(copies), directory)
    path.write_bytes(whole[:directory] + copies + b"PK\x05\x06\0\0\0\0" + number + b"\0\0")
    begin = time.process_time()
    with pytest.raises(ValueError, match="overlap"):
        read_tensors(path)
    assert time.process_time() - begin < 0.5


def test_limits_leave_room_for_real_files():
    assert safe_pickle.MAX_STEPS > 60 * 20_000  # steps of a tensor in a pickle, tensors


@pytest.mark.parametrize("name, family, said", [
    ("fvq_dit", "fvq", "410,579 parameters, VQBridge of 256 codewords of 16 channels, one code for each 2 x 2 pixels"),
    ("dqvae_dual_entropy", "dqvae_dual", "its keys do not determine the entropy thresholds"),
    ("titok", "titok", "its keys do not determine encoder.heads"),
])  # fmt: skip
def test_inspect_says_what_load_makes_of_a_file(family_file, capsys, name, family, said):
    command_line.main(["inspect", str(family_file(name))])
    output = capsys.readouterr().out
    assert f"family: {family}\n" in output and said in output
