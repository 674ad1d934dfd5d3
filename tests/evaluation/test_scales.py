"""Usage at each scale of a multi-scale head, in the report of an evaluation."""

import json

import pytest
import torch
from torch import nn

from vistok import Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.data import folder
from vistok.evaluation.evaluate import evaluate
from vistok.formats.native import save
from vistok.images.ranges import to_float
from vistok.quantizers import MultiScaleQuantizer, VectorQuantizer


@pytest.fixture
def tokenizer() -> Tokenizer:
    """An f8 tokenizer of the scales 1, 2 and 4, with 16 codewords."""
    torch.manual_seed(0)
    size = {"channels": 8, "multipliers": (1, 1, 1, 1), "num_blocks": 1, "attention": (), "dim": 4}
    head = VectorQuantizer(16, 4)
    nn.init.normal_(head.codewords)
    own = Tokenizer(CNNEncoder(**size), MultiScaleQuantizer(head, (1, 2, 4), phi=1), CNNDecoder(**size))
    return own.eval().requires_grad_(False)


def test_usage_at_each_scale(compose, tokenizer, photos, tmp_path, capsys):
    save(tokenizer, tmp_path / "tokenizer")
    words = [f"tokenizer={tmp_path / 'tokenizer'}", f"run.out={tmp_path / 'report.json'}", f"data.root={photos}"]
    words += ["data.image_size=32", "data.num_workers=0", "metrics.lpips=null", "feature_network=none"]
    report = evaluate(compose("eval", *words))
    assert json.loads((tmp_path / "report.json").read_text())["scales"] == report["scales"]
    (own,) = report["scales"]
    images = folder(str(photos), image_size=32, batch_size=1).test
    codes = torch.cat([tokenizer.tokenize(to_float(images[0, i].image[None])) for i in range(12)])
    for scale, chosen, side in zip(own["scales"], codes.flatten(1).split([1, 4, 16], dim=1), (1, 2, 4), strict=True):
        assert (scale["grid"], scale["tokens"]) == ([side, side], 12 * side**2)
        assert scale["usage"] == len(chosen.unique()) / 16
        shares = chosen.flatten().bincount().double() / chosen.numel()
        assert scale["perplexity"] == pytest.approx(torch.special.entr(shares).sum().exp().item())
    assert not any("scale" in name for name in report["scores"][0]["metrics"])
    printed, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    assert "By scale: " in printed
    assert "By scale: " in page and "<th>4x4</th><td>192</td>" in page
