"""Images in tiles: equal to the full image where networks have a reach, else with a number that says how far off."""

import pytest
import torch

from vistok import Tokenizer
from vistok.backbones import noise
from vistok.images.ranges import to_uint8
from vistok.quantizers import (
    Context,
    DynamicQuantizer,
    FactorizedQuantizer,
    FeatureRouter,
    MultiScaleQuantizer,
    VectorQuantizer,
)
from vistok.tiles import Tiles

from .conftest import Convolutions

LEVEL = 2 / 255


@pytest.fixture
def images():
    return torch.rand(2, 3, 61, 90, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("tile, overlap", [(50, None), (48, 12), (36, 12), (72, None), (512, None)])
def test_convolutions_alone_give_the_full_image(local, images, tile, overlap):
    expected, emitted = local.reconstruct(images)
    found, codes = local.reconstruct(images, tile=tile, overlap=overlap)
    assert codes.keep is None and torch.equal(codes.codes, emitted.codes)
    assert found.shape == images.shape and (found - expected).abs().max() < LEVEL / 100
    assert torch.equal(local.tokenize(images, tile=tile, overlap=overlap), emitted.codes)
    again = local.detokenize(emitted.codes, tile=tile, overlap=overlap)
    torch.testing.assert_close(again, local.detokenize(emitted.codes), rtol=0, atol=LEVEL / 100)
    tiles = Tiles(local, tile, overlap)
    assert tiles.exact and tiles.reconstruct(images).seams.largest < 0.01


def test_too_little_overlap_is_not_exact(local, images):
    tiles, (expected, emitted) = Tiles(local, 32, 4), local.reconstruct(images)
    found = tiles.reconstruct(images)
    assert tiles.reach == (12, 8) and not tiles.exact and not torch.equal(found.codes, emitted.codes)
    assert (tiles.detokenize(emitted.codes)[0][..., :61, :90] - expected).abs().max() > 1e-4
    assert found.seams.largest > 0.1


def test_norms_say_how_far_tiles_differ(make_tokenizer, images):
    """The number is that of two tiles by hand, in the pixels that both have, without the outer half of the overlap."""
    tokenizer = make_tokenizer().eval()
    tiles = Tiles(tokenizer, 64, 16)
    assert not tiles.exact and tiles.guard == 2
    strip = images[:1].repeat(1, 1, 2, 2)[..., :64, :96]
    codes = tiles.tokenize(strip)
    found, seams = tiles.detokenize(codes)
    with torch.no_grad():
        left, right = (tokenizer.decode(tokenizer.lookup(codes[..., at : at + 16])) for at in (0, 8))
    one, other = left[..., 40:56], right[..., 8:24]
    difference = (one.clamp(-1, 1) - other.clamp(-1, 1)).abs() * 127.5
    assert seams.pixels == difference.numel() == 3 * 64 * 16
    assert seams.mean == pytest.approx(difference.mean().item(), rel=1e-4) and seams.mean > 0.1
    assert seams.largest == pytest.approx(difference.max().item(), rel=1e-4)
    weight = (torch.arange(16) + 0.5) / 16  # linear from one tile to the other
    expected = torch.cat([left[..., :40], one * (1 - weight) + other * weight, right[..., 24:]], dim=3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_bytes_are_images_too(local, images):
    pixels = to_uint8(images)
    expected, emitted = local.reconstruct(pixels.float() / 127.5 - 1)
    found = Tiles(local, 64).reconstruct(pixels)
    assert torch.equal(found.codes, emitted.codes) and (found.images - expected).abs().max() < LEVEL / 100


def test_every_pass_is_counted(local, images):
    passes = []
    for module in (local.encoder, local.decoder):
        module.register_forward_hook(lambda *_: passes.append(1))
    tiles, calls = Tiles(local, 48), []
    passes.clear()
    tiles.reconstruct(images, advance=lambda: calls.append(1))
    assert len(passes) == len(calls) == tiles.count(61, 90) == 2 * 3 + 2 * 3


class Noisy(Convolutions):
    """A generative decoder."""

    context_fields = frozenset({"noise"})

    def forward(self, latent, size=None, keep=None, context=Context()):
        return super().forward(latent + noise.drawn(latent, context.noise, self.training))


@pytest.mark.parametrize("given", [None, torch.zeros(2, 8, 16, 23)])
def test_noise_is_that_of_the_full_image(local, images, given):
    tokenizer = Tokenizer(local.encoder, local.quantizer, Noisy(*local.decoder)).eval()
    context = Context(noise=given)
    expected, _ = tokenizer.reconstruct(images, context)
    found, _ = tokenizer.reconstruct(images, context, tile=48)
    assert (found - expected).abs().max() < LEVEL / 100


def test_masks_are_cut_like_the_image(local, images):
    class Masked(Convolutions):
        context_fields = frozenset({"mask"})

        def forward(self, latent, size=None, keep=None, context=Context()):
            known = context.mask if context.mask is not None else torch.ones(1)
            return super().forward(latent) * known

    tokenizer = Tokenizer(local.encoder, local.quantizer, Masked(*local.decoder)).eval()
    context = Context(mask=torch.rand(2, 1, 61, 90) < 0.5)
    expected, _ = tokenizer.reconstruct(images, context)
    found, _ = tokenizer.reconstruct(images, context, tile=48)
    assert (found - expected).abs().max() < LEVEL / 100


@pytest.mark.parametrize("tile, overlap, message", [
    (3, None, "tile=3 must be at least 4 pixels"),
    (64, 32, "overlap=32 must be 0 or more, and less than half of tile=64"),
    (64, -1, "overlap=-1 must be 0 or more"),
])  # fmt: skip
def test_tiles_that_do_not_fit(local, images, tile, overlap, message):
    with pytest.raises(ValueError, match=message):
        local.reconstruct(images, tile=tile, overlap=overlap)


def test_heads_of_the_full_image_are_refused(make_tokenizer, images):
    tokenizer = make_tokenizer().eval()
    plain = VectorQuantizer(8, 4)
    for head, reason in (
        (
            DynamicQuantizer(plain, FeatureRouter(4, 2, groups=4)),
            "DynamicQuantizer chooses granularities from the full",
        ),
        (MultiScaleQuantizer(plain), "a MultiScaleQuantizer has scales of the full image"),
        (FactorizedQuantizer([MultiScaleQuantizer(plain)], False), "a FactorizedQuantizer has scales"),
    ):
        tokenizer.quantizer = head
        with pytest.raises(ValueError, match=reason):
            tokenizer.tokenize(images, tile=48)
