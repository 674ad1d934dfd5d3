"""Parts of files in memory, and tokenizers that take them as they are."""

import os
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from vistok import Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.formats import load
from vistok.formats.importers import from_taming
from vistok.formats.importers.key_map import to_theirs
from vistok.quantizers import VectorQuantizer
from vistok.untrusted import file_bytes
from vistok.untrusted.bounded_network import unshared
from vistok.untrusted.torch_files import bytes_in_memory, read_tensors

STATE = {"a": torch.arange(300_000.0), "b": torch.arange(7.0), "c": torch.zeros(0)}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("limit", [0, 2**30])
def test_a_file_that_is_overwritten_changes_nothing_in_memory(tmp_path, monkeypatch, zipped, limit):
    monkeypatch.setattr(file_bytes, "MAX_READ", limit)
    monkeypatch.setattr("vistok.untrusted.torch_files.MAX_READ", limit)
    path = tmp_path / "a.pt"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    read = read_tensors(path).tree
    assert all(torch.equal(read[name], STATE[name]) for name in STATE)
    assert bytes_in_memory(path) == (path.stat().st_size if limit else 0)
    if limit:
        os.truncate(path, 10)
        assert all(torch.equal(read[name], STATE[name]) for name in STATE)


def test_every_member_has_its_checksum(tmp_path):
    """Those of storages that no tensor uses too, in chunks and in small parts."""
    torch.save(STATE, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
        archive.writestr("a/data/99", b"unused")
    content = (tmp_path / "a.pt").read_bytes()
    assert read_tensors(tmp_path / "a.pt").tree["b"][3] == 3
    for part in (STATE["a"].numpy().tobytes()[600_000:600_100], STATE["b"].numpy().tobytes(), b"unused"):
        at = content.index(part)
        (tmp_path / "b.pt").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(ValueError, match="checksum differs"):
            read_tensors(tmp_path / "b.pt")


def test_safetensors_are_mapped(tmp_path):
    save_file({"a": STATE["a"]}, tmp_path / "a.safetensors")
    assert bytes_in_memory(tmp_path / "a.safetensors") == 0


def test_tensors_that_share_or_are_parts_are_copied():
    base = torch.zeros(4, 4)
    assert unshared({"all": base, "row": torch.zeros(4, 4)[0], "own": torch.zeros(2), "e": base.view(-1)}) == {"own"}


def test_weights_of_a_file_are_taken_or_copied(tmp_path):
    """Taken where they fill the file's memory; copied where a training's other tensors would stay with them."""
    torch.manual_seed(0)
    encoder, decoder = (kind(channels=32, multipliers=(1,), dim=4, num_blocks=1, attention=())
                        for kind in (CNNEncoder, CNNDecoder))  # fmt: skip
    model = Tokenizer(encoder, VectorQuantizer(8, 4), decoder, torch.nn.Conv2d(4, 4, 1), torch.nn.Conv2d(4, 4, 1))
    theirs = to_theirs(from_taming.RULES, model.state_dict())
    sums = []
    for more in (0, 2_000_000):
        torch.save({"state_dict": theirs, "optimizer": torch.zeros(more)}, tmp_path / f"{more}.ckpt")
        read = load.load(tmp_path / f"{more}.ckpt", "taming")
        os.truncate(tmp_path / f"{more}.ckpt", 10)
        assert all(torch.equal(own, model.state_dict()[name]) for name, own in read.state_dict().items())
        sums.append({own.untyped_storage().resizable() for own in read.state_dict().values()})
    assert sums == [{False}, {True}]  # resizable: memory of torch's own
