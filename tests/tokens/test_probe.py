"""The probe on a source of known entropy, on stores of tokens, and from the command line."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from vistok.__main__ import main
from vistok.data import folder as vistok_folder
from vistok.evaluation import Protocol, ScoringNetworks
from vistok.evaluation.learnability import generation
from vistok.evaluation.learnability.baselines import Frequencies
from vistok.evaluation.learnability.id_sequences import IdBatch, IdSpace
from vistok.evaluation.learnability.probe_report import probe, split_tokens
from vistok.evaluation.learnability.probe_training import SIZES, ProbeSettings, held_out_bits, train_probe
from vistok.evaluation.set_metrics import SetMetrics
from vistok.formats.native import save
from vistok.metrics.feature_networks import FeatureNetwork
from vistok.tokens import Header
from vistok.tokens.dataset import TokenItem

ROW = (0.85, 0.05, 0.05, 0.05)  # of the code that follows, the codes turned by the code before


def chain(count: int, seed: int) -> list[TokenItem]:
    """Images of 4 x 4 codes: a Markov chain in raster order that begins uniformly."""
    rng = np.random.default_rng(seed)
    steps = rng.choice(4, (count, 16), p=ROW)
    steps[:, 0] = rng.integers(4, size=count)
    codes = torch.from_numpy((np.cumsum(steps + 1, axis=1)) % 4).view(count, 1, 4, 4)
    keep = torch.ones(4, 4, dtype=torch.bool)
    return [TokenItem(own, -1, own.flatten(), keep) for own in codes]


@pytest.fixture(scope="module")
def header(stores) -> Header:
    return replace(stores["vq"].header, grid=(4, 4), codebook_sizes=(4,), classes=None)


def true_bits(items: list[TokenItem]) -> float:
    """Bits of an image under the source itself, which no model is below on average."""
    ids = torch.stack([item.ids for item in items])
    steps = (ids[:, 1:] - ids[:, :-1] - 1) % 4
    return 2 - torch.tensor(ROW).log2()[steps].sum(1).mean().item()


def test_a_markov_source_has_its_entropy(header, monkeypatch):
    monkeypatch.setitem(SIZES, "tiny", (1, 32, 2))
    train, test = chain(2000, 0), chain(500, 1)
    model = train_probe(IdSpace(header), train, ProbeSettings(updates=150), seed=3)
    bits = held_out_bits(model, test) / 500
    assert true_bits(test) - 0.05 < bits < 1.03 * true_bits(test) < 16  # alone, the ids have 32
    sampled = model.sample(torch.zeros(200, dtype=torch.int64), torch.Generator().manual_seed(0)).flatten(1)
    followed = ((sampled[:, 1:] - sampled[:, :-1] - 1) % 4 == 0).float().mean().item()
    assert followed == pytest.approx(ROW[0], abs=0.04)


def test_frequencies_of_a_markov_source(header):
    space, test = IdSpace(header), chain(500, 1)
    order0, bigram = Frequencies(space, batches(space, chain(2000, 0))).bits(batches(space, test))
    assert order0 / 500 == pytest.approx(32, abs=0.05)
    assert bigram / 500 == pytest.approx(true_bits(test), abs=0.1)


def batches(space: IdSpace, items: list[TokenItem]) -> list[IdBatch]:
    return [space.sequences(*(torch.stack([getattr(item, name) for item in items]) for name in ("codes", "keep")))]


def test_frequencies_by_hand(header):
    """Of the ids 0 0 0 1: four of eight smoothed counts are of 0, which 0 followed twice and 1 once."""
    space, keep = IdSpace(replace(header, grid=(1, 4))), torch.ones(1, 1, 4, dtype=torch.bool)
    train, test = (space.sequences(torch.tensor([[[own]]]), keep) for own in ([0, 0, 0, 1], [0, 1, 2, 3]))
    order0, bigram = Frequencies(space, [train]).bits([test])
    alone = [4 / 8, 2 / 8, 1 / 8, 1 / 8]
    assert order0 == pytest.approx(-sum(map(math.log2, alone)))
    after = [(1 + alone[0]) / 2, (1 + 2 * alone[1]) / 5, alone[2], alone[3]]  # nothing followed 1 or 2
    assert bigram == pytest.approx(-sum(map(math.log2, after)))


@pytest.mark.parametrize("kind", ["vq", "fq", "dq", "ms"])
def test_a_report_of_a_store(stores, kind):
    split = split_tokens(str(stores[kind].folder))
    assert (len(split.train), len(split.held_out)) == (6, 1)
    report = probe(split, ProbeSettings(updates=2, batch_size=3), (5, 6)).report
    assert probe(split, ProbeSettings(updates=2, batch_size=3), (5, 6)).report == report
    rows = report["bits"]
    assert list(rows) == ["fixed length", "order 0", "bigram", "probe", "probe, class given"]
    length = {"vq": (64, 64 * 5), "fq": (128, 64 * 9), "dq": (40, 40 * 5 + 16), "ms": (85, 85 * 5)}[kind]
    assert (report["tokens_per_image"], rows["fixed length"]["per_image"]) == pytest.approx(length)
    for row in rows.values():
        assert row["per_image"] == pytest.approx(row["per_token"] * length[0]) == pytest.approx(row["per_pixel"] * 1024)
    first, second = rows["probe"]["per_image_of_seeds"]
    assert first != second and rows["probe"]["per_image"] == pytest.approx((first + second) / 2)


class Means(FeatureNetwork):
    """Features in place of a network's: the mean of each channel."""

    name, dim = "means", 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean((2, 3))


def photos(folder, count: int, level: int):
    """Images of one level."""
    folder.mkdir()
    for i in range(count):
        Image.fromarray(np.full((32, 32, 3), level, dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def test_samples_are_compared_with_images(stores, make, tmp_path, monkeypatch):
    tokenizer, store = make("dq"), stores["dq"]
    level = torch.tensor([40.0, 80, 120])
    plain = lambda own, codes: (level / 127.5 - 1).view(1, 3, 1, 1).expand(len(codes), 3, 32, 32)  # noqa: E731
    monkeypatch.setattr(type(store), "decode", lambda self, own, codes: plain(own, codes))
    data = vistok_folder(str(photos(tmp_path / "images", 9, 100)), 32, 4)
    codes = [torch.zeros(n, 1, 8, 8, dtype=torch.int64) for n in (2, 5)]
    protocols = {"one": Protocol(), "other": Protocol(crop="bicubic", frechet="float")}
    scores = generation.generation_scores(codes, tokenizer, store, data, protocols, ScoringNetworks((Means(),)))
    distance = 60**2 + 20**2 + 20**2
    assert scores == {
        name: {"frechet_means": pytest.approx(distance, abs=1e-2), "images": 7} for name in ("one", "other")
    }
    asked = SetMetrics(precision_recall=True)
    networks = ScoringNetworks((Means(),))
    scores = generation.generation_scores(codes, tokenizer, store, data, {"one": Protocol()}, networks, asked=asked)[
        "one"
    ]
    assert scores["precision_means"] == scores["recall_means"] == 0  # samples and images are two points
    with pytest.raises(ValueError, match="has 9 images, fewer than the 10 samples"):
        generation.generation_scores([codes[1]] * 2, tokenizer, store, data, protocols, ScoringNetworks((Means(),)))


def test_the_command(make, classes, tmp_path, capsys):
    save(make("vq"), tmp_path / "tokenizer")
    main(["tokenize", str(tmp_path / "tokenizer"), "--images", str(classes), "--out", str(tmp_path / "tokens"),
          "--image-size", "32", "--num-workers", "0"])  # fmt: skip
    out = tmp_path / "reports" / "probe.json"
    words = ["probe", str(tmp_path / "tokens"), "--out", str(out), "--updates", "2", "--seeds", "1"]
    main([*words, "--tokenizer", str(tmp_path / "tokenizer"), "--images", str(classes), "--num-images", "3",
          "--eval", "feature_network=none", "protocol=[canonical,titok]"])  # fmt: skip
    report = json.loads(out.read_text())
    assert list(report["bits"]) == ["fixed length", "order 0", "bigram", "probe", "probe, class given"]
    assert report["generation"] == {"canonical": {"images": 3}, "titok": {"images": 3}}
    printed = capsys.readouterr().out
    assert "bits per token" in printed and "probe, class given" in printed
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.width > 3 * 32
    compared = ["--tokenizer", str(tmp_path / "tokenizer"), "--images", str(classes)]
    for wrong, message in (
        (["--out", str(out)], "exists already"),
        (compared[2:], "needs --tokenizer"),
        ([*compared, "--eval", "protocl=titok"], "Could not override 'protocl'"),
        ([*compared, "--eval", "protocol=[canonical,native]"], "protocol=native has images of any size, but samples"),
    ):
        with pytest.raises(SystemExit):
            main([*words[:2], "--out", str(tmp_path / "other.json"), *wrong])
        assert message in capsys.readouterr().err
