"""The next-scale model: its inputs, what each scale can see, what it learns, and its rows in a report."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

from vistok.__main__ import main
from vistok.evaluation.learnability.next_scale import NextScaleModel, ScaleSpace
from vistok.evaluation.learnability.probe_report import probe, split_tokens
from vistok.evaluation.learnability.probe_training import SIZES, ProbeSettings, held_out_bits, train_probe
from vistok.formats.native import save
from vistok.tokens.dataset import TokenItem

ENDS = (1, 5, 21, 85)  # of the scales 1, 2, 4 and 8


@pytest.fixture
def space(stores, make) -> ScaleSpace:
    return ScaleSpace(stores["ms"].header, make("ms").quantizer)


def model_of(space: ScaleSpace, classes: int = 2) -> NextScaleModel:
    torch.manual_seed(0)
    return NextScaleModel(space, classes, layers=2, width=16, heads=2).eval()


def test_the_input_of_a_scale_is_the_latent_after_the_one_before(space):
    codes = torch.randint(32, (3, 1, 1, 85), generator=torch.Generator().manual_seed(0))
    batch = space.sequences(codes)
    assert torch.equal(batch.ids, codes[:, 0, 0, :, None]) and batch.inputs.shape == (3, 84, 4)
    for end, following, side in zip(ENDS, ENDS[1:], (2, 4, 8), strict=False):
        latent = space.quantizer.lookup(codes[..., :end], space.layout)
        pooled = latent.unflatten(2, (side, -1)).unflatten(4, (side, -1)).mean((3, 5))
        own = batch.inputs[:, end - 1 : following - 1]
        torch.testing.assert_close(own, pooled.flatten(2).mT, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", range(4))
def test_a_scale_sees_those_before_it_alone(space, scale):
    model, labels = model_of(space), torch.tensor([0, 1])
    codes = torch.randint(32, (2, 1, 1, 85), generator=torch.Generator().manual_seed(0))
    changed = codes.clone()
    start, end = (0, *ENDS)[scale : scale + 2]
    changed[..., start:end] = (codes[..., start:end] + 7) % 32
    with torch.no_grad():
        one, other = (model(space.sequences(own).inputs, labels) for own in (codes, changed))
    torch.testing.assert_close(one[:, :end], other[:, :end], rtol=0, atol=1e-6)
    for first, last in zip(ENDS[scale:], ENDS[scale + 1 :], strict=False):
        assert ((one - other)[:, first:last].abs() > 1e-4).any()
    with torch.no_grad():
        prefix = model(space.inputs(codes[..., :start]), labels) if start else model(torch.zeros(2, 0, 4), labels)
        assert not torch.allclose(model(space.sequences(codes).inputs, 1 - labels), one)  # the class counts
    torch.testing.assert_close(prefix, one[:, :end], rtol=0, atol=1e-5)  # what sampling computes


def test_it_learns_what_the_first_code_tells(space, monkeypatch):
    """One of four codes, which all positions of all scales repeat: 2 bits, where equal chances have 425."""
    monkeypatch.setitem(SIZES, "tiny", (1, 32, 2))
    keep = torch.ones(1, 85, dtype=torch.bool)
    items = [TokenItem(torch.full((1, 1, 85), i % 4), -1, torch.full((85,), i % 4), keep) for i in range(64)]
    model = train_probe(space, items, ProbeSettings(updates=100, batch_size=8), seed=1)
    assert 2 - 1e-3 < held_out_bits(model, items) / 64 < 40
    codes = model.sample(torch.zeros(40, dtype=torch.int64), torch.Generator().manual_seed(0), temperature=0.3)
    assert (codes == codes[..., :1]).float().mean() > 0.95 and set(codes.unique().tolist()) >= {0, 1, 2, 3}


def test_samples(space):
    model, labels = model_of(space), torch.tensor([0, 1, 1])
    settings = {"temperature": 0.9, "top_k": 3, "guidance": 1.5}
    codes = model.sample(labels, torch.Generator().manual_seed(0), **settings)
    assert codes.shape == (3, 1, 1, 85) and codes.min() >= 0 and codes.max() < 32
    assert torch.equal(codes, model.sample(labels, torch.Generator().manual_seed(0), **settings))
    likeliest = model.sample(labels, torch.Generator(), top_k=1)
    with torch.no_grad():
        logits = model(space.sequences(likeliest).inputs, labels)
    assert torch.equal(logits.argmax(-1), likeliest[:, 0, 0])


def test_bits_of_a_large_codebook_stand_side_by_side(stores, make):
    header = stores["ms"].header
    space = ScaleSpace(type(header)(**{**vars(header), "codebook_sizes": (2**20, 3)}), make("ms").quantizer)
    assert [part.size for part in space.parts] == [2**10, 2**10, 3] and space.vocabulary == 2**11 + 3
    inputs = torch.zeros(1, 84, 4)
    space.inputs = lambda codes: inputs[:, : codes.shape[3] * 4]
    codes = torch.full((1, 2, 1, 85), 2)
    codes[:, 0] = 5 + 7 * 2**10
    ids = space.sequences(codes).ids
    assert ids[0, 0].tolist() == [5, 7, 2]
    model = model_of(space, 0)
    nats = model.nats(space.sequences(codes), torch.zeros(1, dtype=torch.int64))
    assert nats.shape == (1, 85, 3)
    logits = model(inputs, torch.zeros(1, dtype=torch.int64))[..., 2**10 : 2**11]
    torch.testing.assert_close(nats[..., 1], -F.log_softmax(logits, -1)[..., 7])
    drawn = model.sample(torch.zeros(1, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert drawn[:, 0].max() > 2**10 and drawn[:, 1].max() == 2


def test_a_report_has_its_rows_where_there_are_scales(stores, make, space):
    settings = ProbeSettings(updates=2, batch_size=3)
    report = probe(split_tokens(str(stores["ms"].folder)), settings, quantizer=space.quantizer).report
    assert list(report["bits"])[3:] == ["probe", "probe, class given", "next scale", "next scale, class given"]
    row = report["bits"]["next scale"]
    assert row["per_image"] == pytest.approx(85 * row["per_token"]) and 200 < row["per_image"] < 85 * math.log2(32) + 60
    report = probe(split_tokens(str(stores["vq"].folder)), settings, quantizer=make("vq").quantizer).report
    assert list(report["bits"])[3:] == ["probe", "probe, class given"]
    with pytest.raises(ValueError, match="a next-scale model needs tokens of a multi-scale head"):
        ScaleSpace(stores["vq"].header, make("vq").quantizer)


def test_the_command(stores, make, classes, tmp_path, capsys):
    save(make("ms"), tmp_path / "tokenizer")
    main(["probe", str(stores["ms"].folder), "--out", str(tmp_path / "probe.json"), "--updates", "1", "--seeds", "1",
          "--tokenizer", str(tmp_path / "tokenizer"), "--images", str(classes), "--num-images", "3",
          "--eval", "feature_network=none"])  # fmt: skip
    report = json.loads((tmp_path / "probe.json").read_text())
    assert report["generation"] == report["next_scale"]["generation"] == {"canonical": {"images": 3}}
    assert (tmp_path / "probe.png").is_file() and (tmp_path / "probe-next-scale.png").is_file()
    assert "3 samples of the next-scale model, canonical: no feature network" in " ".join(
        capsys.readouterr().out.split()
    )
