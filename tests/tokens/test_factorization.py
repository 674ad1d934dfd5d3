"""Codes of many bits in parts of fewer: the authors' parts, and the same images from them."""

import json

import numpy as np
import pytest
import torch

from vistok.__main__ import main
from vistok.formats.native import save
from vistok.quantizers import BinaryQuantizer
from vistok.tokens import TokenDataset, TokenStore
from vistok.tokens.exchange import READERS
from vistok.tokens.factorization import join_codes, split_codes


def test_open_magvit2(golden):
    """5 + 3 bits by ``LFQ(token_factorization=True)`` of the authors."""
    values = golden("binary", "lfq_factorized")
    codes = BinaryQuantizer(8, spherical=False).encode(values["z"]).codes
    parts = split_codes(codes, (5, 3))
    assert torch.equal(parts, torch.stack([values["codes.pre"], values["codes.post"]], dim=1))
    assert torch.equal(join_codes(parts, (5, 3)), codes)


def test_by_hand():
    codes = torch.tensor([[[[0b110101, 0b000010]], [[0b011111, 0b100000]]]])
    parts = split_codes(codes, (1, 3, 2))
    assert parts[0, :, 0, 0].tolist() == [0b1, 0b010, 0b11, 0b1, 0b111, 0b01]
    assert parts[0, :, 0, 1].tolist() == [0, 0b001, 0, 0, 0, 0b10]
    assert torch.equal(join_codes(parts, (1, 3, 2)), codes)
    large = torch.tensor([[[[2**62 - 1, 2**61 + 5]]]])
    assert torch.equal(join_codes(split_codes(large, (31, 31)), (31, 31)), large)


def test_reading_in_parts(stores, make):
    store = stores["lfq"]
    parts = TokenStore(store.folder, (6, 12))
    assert parts.header.codebook_sizes == (64, 4096) and parts.header.layout.codebooks == 2
    codes, found = store.codes(3), parts.codes(3)
    assert np.array_equal(found[:, 0], codes[:, 0] % 64) and np.array_equal(found[:, 1], codes[:, 0] // 64)
    own, read = (torch.from_numpy(codes) for codes in (codes, found))
    assert torch.equal(parts.decode(make("lfq"), read), store.decode(make("lfq"), own))
    assert list(parts.verify()) == [4, 7]
    item = TokenDataset(store.folder, view=1, split_bits=[6, 12])[3]
    assert torch.equal(item.codes, read[1]) and TokenDataset(store.folder, split_bits=(6, 12)).vocabulary == 4160
    assert item.ids[:2].tolist() == [found[1, 0, 0, 0], 64 + found[1, 1, 0, 0]]


def test_sequences_in_parts(stores):
    store, parts = stores["dq"], TokenStore(stores["dq"].folder, (2, 3))
    assert np.array_equal(parts.codes(2)[:, 0] + 4 * parts.codes(2)[:, 1], store.codes(2)[:, 0])
    assert np.array_equal(parts.view(2)[1], store.view(2)[1])
    found = parts.sequences([0, 1], codebook=1).contents[0][0]
    expected = store.sequences([0, 1]).contents[0][0]
    assert found[:-1].tolist() == (expected[:-1] // 4).tolist()


def test_the_commands(make, stores, classes, tmp_path, capsys):
    """Stored in parts or exported in parts, the files are the same, and they decode."""
    save(make("lfq"), tmp_path / "tokenizer")
    tokenizer, out = str(tmp_path / "tokenizer"), str(tmp_path / "tokens")
    words = ["--images", str(classes), "--out", out, "--image-size", "32", "--views", "flip", "--batch-size", "3"]
    main(["tokenize", tokenizer, *words, "--num-workers", "0", "--split-bits", "6", "12"])
    store = TokenStore(out)
    assert store.shards[0].tokens.shape == (7, 2, 2, 8, 8) and store.shards[0].tokens.dtype == np.uint16
    assert all(np.array_equal(store.codes(i), TokenStore(stores["lfq"].folder, (6, 12)).codes(i)) for i in range(7))
    main(["tokens", "check", out, "--tokenizer", tokenizer, "--out", str(tmp_path / "sheet.png"), "--num-images", "2"])
    assert "64 + 4,096 codewords" in capsys.readouterr().out
    for form in ("llamagen", "fqgan", "jsonl", "webdataset"):
        whole = str(stores["lfq"].folder)
        main(["tokens", "export", whole, "--to", form, "--out", str(tmp_path / form), "--split-bits", "6", "12"])
        records = list(READERS[form](tmp_path / form))
        assert all(np.array_equal(record.codes, store.codes(i)) for i, record in enumerate(records))
    assert json.loads((tmp_path / "jsonl" / "header.json").read_text())["split_bits"] == [6, 12]
    probe = ["--updates", "1", "--seeds", "1", "--tokenizer", tokenizer, "--out", str(tmp_path / "probe.json")]
    main(["probe", out, *probe])
    assert json.loads((tmp_path / "probe.json").read_text())["tokens_per_image"] == 128


@pytest.mark.parametrize(
    "kind, bits, message",
    [
        ("lfq", (6, 6), "split-bits 6 6 are 12 bits, but a codebook has 262,144 codewords, not 4,096"),
        ("fq", (2, 3), "a codebook has 16 codewords, not 32"),
        ("vq", (5,), "split-bits 5 must be at least two numbers"),
        ("vq", (5, 0), "split-bits 5 0 must be at least two numbers, each at least 1"),
    ],
)
def test_codes_of_other_sizes_are_refused(stores, kind, bits, message):
    with pytest.raises(ValueError, match=message):
        TokenStore(stores[kind].folder, bits)


def test_parts_have_no_other_parts(stores):
    header = stores["lfq"].header.factorized((6, 12))
    assert header.factorized((6, 12)) is header and header.factorized(None) is header
    with pytest.raises(ValueError, match="split-bits 9 9: these tokens are in parts of 6 12 bits"):
        header.factorized((9, 9))
