"""Conformance of every preset: what perfect reconstructions score, which grey levels survive, what a hash covers."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vistok import configuration
from vistok.evaluation import Protocol, Scores, ScoringNetworks
from vistok.evaluation.pairs import Pairs, through_jpeg, truncated, truncated_by_one_factor
from vistok.images.ranges import to_float, to_nearest_float, to_uint8
from vistok.losses import LPIPS
from vistok.metrics.feature_networks import FeatureNetwork
from vistok.quantizers.base import Quantized

PRESETS = {
    "canonical": "19b7a2c3",
    "llamagen": "d59d968b",
    "openmagvit2": "eff8a44b",
    "ibq": "820cb703",
    "titok": "580e88ce",
    "fvq": "9e5985e4",
    "vqgan_lc": "e0b450c5",
    "native": "0a27a961",
}


class Grid(FeatureNetwork):
    """Features in place of a network's: means of 4 × 4 blocks, linear in the pixels."""

    name, dim = "grid", 12

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1) / 255


class Identity(nn.Module):
    """A tokenizer that loses nothing, of so many codewords."""

    factor, num_tokens = 4, None

    def __init__(self, *codebook_sizes: int):
        super().__init__()
        self.quantizer = nn.Identity()
        self.quantizer.codebook_sizes = codebook_sizes


def presets(compose) -> dict[str, Protocol]:
    return configuration.instantiate(compose("eval", f"protocol=[{','.join(PRESETS)}]", "tokenizer=x").protocol)


def quantized(codes: Tensor) -> Quantized:
    return Quantized(torch.empty(0), codes, {})


def test_hashes_are_those_of_earlier_reports(compose):
    assert {name: protocol.hash for name, protocol in presets(compose).items()} == PRESETS


def test_a_hash_covers_every_choice():
    protocol = Protocol()
    others = {"crop": "none", "rounding": "truncate", "file": "jpeg75", "frechet": "float", "lpips": "float"}
    others |= {"decoding": "stored", "size": 8, "pixels": "float", "inception_score": None, "distances": ["psnr"]}
    assert others.keys() == {field.name for field in dataclasses.fields(protocol)}
    changed = {dataclasses.replace(protocol, **{name: value}).hash for name, value in others.items()}
    assert len(changed | {protocol.hash}) == 11
    assert Protocol(distances=["psnr", "ssim_gauss11"]).hash == protocol.hash


@pytest.mark.parametrize(
    "choice", [{"crop": "centre"}, {"inception_score": "ten"}, {"size": 0}, {"rounding": "floor"}, {"frechet": "fp16"}]
)
def test_unknown_choices(choice):
    ((name, value),) = choice.items()
    with pytest.raises(ValueError, match=f"{name}={value} must be "):
        Protocol(**choice)


def test_unknown_distances():
    with pytest.raises(ValueError, match="unknown distances \\['ssim'\\]; known are \\['l1', "):
        Protocol(distances=["psnr", "ssim"])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_tokenizer_that_loses_nothing(compose, preset):
    protocol = presets(compose)[preset]
    images = torch.randint(256, (6, 3, 64, 64), dtype=torch.uint8)
    torch.manual_seed(0)
    networks = ScoringNetworks((Grid(),), {f"lpips_{net}": LPIPS(net, "random") for net in ("alex",)})
    scores = Scores({preset: protocol}, Identity(16), networks, unavailable={"ms_ssim"})
    for batch in (slice(0, 4), slice(4, 6)):
        codes = torch.zeros(len(images[batch]), 1, 4, 4, dtype=torch.int64)
        names = [str(i) for i in range(6)[batch]]
        scores.update(names, images[batch], to_nearest_float(images[batch]), quantized(codes))
    metrics = scores.gather().metrics(preset)
    # VQGAN-LC truncates reconstructions only: even of perfect ones, 95 of 256 levels are one too low
    assert abs(metrics["frechet_grid"]) < (1e-4 if preset == "vqgan_lc" else 1e-9)
    for name in protocol.distances:
        if name in metrics:
            perfect = 100 if name.startswith("psnr") else float(name.startswith("ssim"))
            assert metrics[name] == pytest.approx(perfect, abs=1e-5), name
    assert {"psnr", "psnr_y"} & metrics.keys() or preset == "titok"


@pytest.mark.parametrize("preset", PRESETS)
def test_grey_levels(compose, preset):
    """All 256 survive where 8 bits are rounded; where they are truncated, images lose the same ones.

    SEED-Voken divides by 127.5 in float64, then rounds to float32: ``255 (x + 1) / 2`` in float32 is then below u for
    95 levels. (Floats made in float32, as by torchvision, would lose 63.) VQGAN-LC loses 95 of the same floats, but in
    reconstructions only, since its images are files.
    """
    protocol = presets(compose)[preset]
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    x = torch.from_numpy((levels.numpy() / 127.5 - 1.0).astype(np.float32))
    reconstruction, images = Pairs(levels, x).levels(protocol)
    lost = {"openmagvit2": (95, 95), "ibq": (95, 95), "vqgan_lc": (95, 0)}.get(preset, (0, 0))
    assert tuple(int((side != levels)[0, 0].sum()) for side in (reconstruction, images)) == lost
    if protocol.rounding == "truncate":
        expected = ((x + 1) / 2 * 255.0).to(torch.uint8)
        assert torch.equal(reconstruction, expected) and torch.equal(images, expected)
        assert (levels.int() - images.int()).unique().tolist() == [0, 1]
    if protocol.file == "png" and protocol.frechet != "float":
        assert torch.equal(Pairs(levels, x).network_inputs(protocol, Grid())[0], reconstruction)


def test_floats_are_those_of_numpy():
    levels = torch.arange(256, dtype=torch.uint8)
    assert np.array_equal(to_nearest_float(levels).numpy(), (levels.numpy() / 127.5 - 1.0).astype(np.float32))
    assert int((to_nearest_float(levels) != to_float(levels)).sum()) == 128
    assert torch.equal(to_uint8(to_nearest_float(levels)), levels)


def test_llamagens_formula_rounds_to_the_nearest_level():
    x = torch.linspace(-1.2, 1.2, 100_003, dtype=torch.float64)
    theirs = (127.5 * x + 128).clamp(0, 255).to(torch.uint8)
    assert (to_uint8(x) != theirs).float().mean() < 1e-4  # but for float32's last digit at a boundary


def test_truncation_by_hand():
    x = torch.tensor([-1.0, 1.0, 100.9 / 127.5 - 1, 101.1 / 127.5 - 1])
    for truncate in (truncated, truncated_by_one_factor):
        assert truncate(x).tolist() == [0, 255, 100, 101]


def test_inputs_of_distances_and_of_lpips():
    """Of one level and a reconstruction three tenths above it, or far out of range."""
    images = torch.full((1, 3, 2, 2), 100, dtype=torch.uint8)
    near, far = to_float(images) + 0.3 / 127.5, torch.full((1, 3, 2, 2), 1.5)

    def shown(reconstruction: Tensor, **choices) -> list[float]:
        pairs, protocol = Pairs(images, reconstruction), Protocol(**choices)
        sides = pairs.lpips_inputs(protocol) if "lpips" in choices else pairs.compared(protocol)
        return [round(side.float().mean().item(), 4) for side in sides]

    x = 100 / 127.5 - 1
    assert shown(near) == [100, 100] and shown(near, pixels="float") == [100.3, 100]
    assert shown(far) == [255, 100] and shown(far, pixels="float") == [255, 100]
    assert shown(near, lpips="uint8") == [round(x, 4)] * 2 and shown(far, lpips="float") == [1, round(x, 4)]
    assert shown(far, lpips="doubled") == [2, round(2 * x - 1, 4)]  # unclamped


def test_jpeg_is_pillows_default():
    images = torch.randint(256, (2, 3, 24, 40), dtype=torch.uint8)
    for image, decoded in zip(images, through_jpeg(images), strict=True):
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy().copy()).save(file, "JPEG", quality=75)
        assert np.array_equal(decoded.permute(1, 2, 0).numpy(), np.array(Image.open(file)))
    assert (images.int() - through_jpeg(images).int()).abs().float().mean() > 10  # noise does not survive


def test_networks_see_floats_only_where_the_protocol_has_them():
    images = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    reconstruction = to_float(images) + 0.3 / 127.5
    for frechet, expected in (("uint8", 100.0), ("clean", 100.0), ("float", 100.3)):
        shown, original = Pairs(images, reconstruction).network_inputs(Protocol(frechet=frechet), Grid())
        assert shown.float().mean().item() == pytest.approx(expected, abs=1e-4)
        assert original.float().mean().item() == pytest.approx(100, abs=1e-4)


def test_a_known_histogram_and_its_bits():
    """Two codebooks; 0 four times, 1 and 2 twice: 1.5 bits; 5 and 7 four times each: 1 bit."""
    scores = Scores({"p": Protocol()}, Identity(4, 8))
    codes = torch.tensor([[[0, 0, 0, 0], [1, 1, 2, 2]], [[5, 7, 5, 7], [5, 7, 5, 7]]])[None]
    images = torch.randint(256, (1, 3, 16, 16), dtype=torch.uint8)
    scores.update(["a"], images, to_float(images), quantized(codes))
    metrics = scores.gather().metrics("p")
    assert metrics["perplexity_0"] == pytest.approx(2**1.5) and metrics["perplexity_1"] == pytest.approx(2)
    assert metrics["distinct_tuples"] == 6
    assert metrics["tokens_per_image"] == 16 and metrics["bits_per_image"] == 8 * (2 + 3)
    assert metrics["bits_per_image_entropy"] == pytest.approx(8 * 2.5)
    assert metrics["bits_per_pixel"] == 40 / 256 and "tokens_per_image_std" not in metrics


def test_tokens_that_vary():
    scores = Scores({"p": Protocol()}, Identity(4))
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    keep = torch.tensor([[[True, False], [False, False]], [[True, True], [True, False]]])
    given = Quantized(torch.empty(0), torch.ones(2, 1, 2, 2, dtype=torch.int64), {}, keep)
    scores.update(["a", "b"], images, to_float(images), given)
    metrics = scores.gather().metrics("p")
    assert (metrics["tokens"], metrics["tokens_per_image"]) == (4, 2)
    assert (metrics["tokens_per_image_min"], metrics["tokens_per_image_max"]) == (1, 3)
    assert metrics["bits_per_image"] == 4


def test_reconstructions_that_are_not_finite_are_named():
    scores = Scores({"p": Protocol()}, Identity(4))
    images = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    reconstruction = to_float(images)
    reconstruction[0, 1, 2, 3], reconstruction[2, 0, 0, 0] = float("nan"), float("-inf")
    codes = torch.zeros(3, 1, 4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="NaN or infinite pixels, of a.png, c.png"):
        scores.update(["a.png", "b.png", "c.png"], images, reconstruction, quantized(codes))


def test_what_is_kept_can_be_gone_on_with():
    protocols = {"a": Protocol(), "b": Protocol(rounding="truncate", frechet="float", distances=["psnr_y"])}
    images = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8)
    reconstruction = to_float(images) + 0.1 * torch.randn(5, 3, 16, 16)
    codes = torch.randint(4, (5, 2, 4, 4))

    def scored(*parts: slice) -> Scores:
        scores = Scores(protocols, Identity(4, 4), ScoringNetworks((Grid(),)))
        for part in parts:
            scores.update(list("edcba"[part]), images[part], reconstruction[part], quantized(codes[part]))
        return scores

    resumed = scored()
    resumed.restore(*scored(slice(0, 2)).save())
    resumed.update(list("cba"), images[2:], reconstruction[2:], quantized(codes[2:]))
    whole, resumed = scored(slice(0, 2), slice(2, 5)).gather(), resumed.gather()
    assert resumed.names == list("abcde")
    for name in protocols:
        assert resumed.metrics(name) == whole.metrics(name)
        assert all(torch.equal(own, whole.values(name)[key]) for key, own in resumed.values(name).items())
