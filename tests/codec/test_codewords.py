"""Codecs of residual heads and of computed codewords: their files hold the codes, and what cannot be is refused."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from vistok import Tokenizer
from vistok.__main__ import main
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.codec import Codec
from vistok.codec.codec_folder import load
from vistok.codec.codewords import codewords_of, computed, with_codewords
from vistok.formats import native
from vistok.quantizers import FSQ, BinaryQuantizer, JanusQuantizer, MultiScaleQuantizer, ResidualQuantizer
from vistok.quantizers.vq import plain


def depths(*sizes, **arguments):
    torch.manual_seed(0)
    heads = [plain(torch.randn(size, 4)) for size in sizes]
    return ResidualQuantizer(heads, **arguments)


def tokenizer_of(head):
    torch.manual_seed(0)
    size = {"channels": 8, "multipliers": (1, 2, 2), "num_blocks": 1, "attention": (), "dim": 8}
    into, out = nn.Conv2d(8, head.dim, 1), nn.Conv2d(head.dim, 8, 1)
    nn.init.normal_(into.weight, std=2.0)  # codes that differ
    return Tokenizer(CNNEncoder(**size), head, CNNDecoder(**size), into, out).eval().requires_grad_(False)


@pytest.mark.parametrize(
    "head",
    [
        depths(20, 9),
        depths(20, depth=3, factors=0.5),
        FSQ([5, 4, 3]),
        BinaryQuantizer(10, spherical=False),
        BinaryQuantizer(12, num_codebooks=2),
        ResidualQuantizer([FSQ([5, 4]), FSQ([3, 3])]),
    ],
    ids=["residual", "shared", "fsq", "lfq", "bsq of two codes", "residual of fsq"],
)
def test_files_of_the_commands(head, photos, picture, tmp_path, capsys):
    tokenizer, folder = tokenizer_of(head), tmp_path / "codec"
    native.save(tokenizer, tmp_path / "tokenizer")
    words = ["--images", str(photos), "--out", str(folder), "--image-size", "32"]
    main(["codec", "build", str(tmp_path / "tokenizer"), *words])
    assert f"rate 0: {' + '.join(f'{size:,}' for size in head.codebook_sizes)} codewords" in capsys.readouterr().out
    assert json.loads((folder / "codec.json").read_text())["rates"] == [list(head.codebook_sizes)]
    codec, padded = load(folder), nn.functional.pad(picture[None] / 127.5 - 1, (0, 3, 0, 2), mode="replicate")
    expected = tokenizer.tokenize(padded)
    assert expected.unique().numel() > 4
    for coding in ("fixed", "static", "context"):
        header, codes, known = codec.read(codec.compress(picture, coding=coding))
        assert known.all() and np.array_equal(codes, expected[0])
    image = tokenizer.detokenize(expected)[0, :, :30, :45]
    decoded = codec.decompress(codec.compress(picture))
    assert (decoded - (image + 1) * 127.5).abs().max() <= 1.01
    cut = codec.compress(picture, num_packets=8)[:-2]
    assert codec.decompress(cut, conceal=True).shape == picture.shape
    with pytest.raises(SystemExit):
        main(["codec", "train-concealment", str(folder), "--images", str(photos), "--image-size", "64"])
    assert f"a {type(head).__name__} cannot have a concealment model: it is neither" in capsys.readouterr().err


def test_codewords_by_hand():
    table = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    head = ResidualQuantizer([plain(table)], depth=2, factors=0.5)
    assert all(map(torch.equal, codewords_of(head), (table, table / 2)))
    corners = torch.tensor([[-1.0, -1, -1, -1], [1, -1, -1, -1], [-1, 1, -1, -1], [1, 1, -1, -1]])
    assert torch.equal(computed(BinaryQuantizer(4, spherical=False, num_codebooks=2), 0), corners)


@pytest.mark.parametrize(
    "head, reason",
    [
        (MultiScaleQuantizer(plain(torch.randn(8, 4)), (1, 2)), "its codes are not one grid of any size"),
        (JanusQuantizer(16, 8), "it searches other codewords than those that it returns"),
        (BinaryQuantizer(19, group=None), "524,288 computed codewords is too large to count; at most 262,144"),
    ],
)
def test_other_heads_are_refused(head, reason):
    with pytest.raises(ValueError, match=f"a {type(head).__name__} cannot be reduced or stored in files: .*{reason}"):
        Codec(tokenizer_of(head), [])


def test_tables_that_would_change_are_refused():
    head = depths(20, depth=2, factors=0.3).for_inference()
    with pytest.raises(ValueError, match="codebook 1: rounding changes a table that has a factor"):
        with_codewords(head, codewords_of(head))
    with pytest.raises(ValueError, match="a FSQ cannot be stored .* codebook 0: it computes other codewords"):
        with_codewords(FSQ([3, 3]), [torch.zeros(9, 2)])
