"""PUT's networks: parameter counts, separate patches, and known pixels by hand. For models see formats/importers."""

from typing import Any, cast

import pytest
import torch
from torch.nn import functional as F

from vistok import PixelMap, Tokenizer
from vistok.backbones import PUTDecoder, PUTEncoder
from vistok.backbones.put import RectifiedBlock
from vistok.formats import plain
from vistok.formats.exporters import graphs
from vistok.quantizers import Context, MaskedQuantizer, VectorQuantizer

SMALL: dict[str, Any] = {"dim": 6, "width": 8, "num_blocks": 1}
B: dict[str, Any] = {"num_blocks": 2, "level_blocks": 2, "upsample": "nearest"}


def block(width, kernel):
    """Parameters of a block, by hand."""
    half = width // 2
    return width * half * kernel**2 + half + half * width + width


def conv(before, after, kernel):
    return before * after * kernel**2 + after


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_by_hand():
    """Sizes of the configurations put_cvpr2022 and put_tpami2024 for 256 pixels, and of the latter for 512."""
    with torch.device("meta"):
        encoder, first, second = PUTEncoder(), PUTDecoder(), PUTDecoder(**B)
        large = PUTDecoder(**B, num_levels=4)
    assert parameters(encoder) == conv(192, 256, 1) + 8 * block(256, 1) + conv(256, 256, 1)
    ends = conv(256, 256, 3) + conv(64, 3, 3) + conv(3, 64, 3)
    side = conv(64, 128, 4) + conv(128, 256, 4) + conv(256, 256, 4)
    assert parameters(first) == ends + 8 * block(256, 3) + side + conv(256, 256, 4) + conv(256, 128, 4) + conv(
        128, 64, 4
    )
    levels = 2 * 2 * (block(256, 3) + block(128, 3) + block(64, 3))
    wide = conv(256, 256, 3) + conv(256, 128, 3) + conv(128, 64, 3)
    assert parameters(second) == ends + 2 * block(256, 3) + side + wide + levels
    assert (parameters(encoder), parameters(first), parameters(second)) == (642_560, 6_627_075, 5_636_227)
    assert [layer.out_channels for layer in large.up if not isinstance(layer, RectifiedBlock)] == [512, 256, 128, 64]
    assert large.factor == 16


def test_the_skip_carries_the_rectified_input():
    own = RectifiedBlock(2)
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.zero_()
        own.conv1.weight[0, 0, 1, 1], own.conv2.weight[1, 0] = 3, 5
    x = torch.tensor([[[[2.0]], [[-7.0]]]])
    assert own(x).flatten().tolist() == [2, 30]  # relu(-7) + 5 * 3 * 2


def test_patches_do_not_see_each_other():
    encoder = PUTEncoder(**SMALL, patch=4)
    images = torch.randn(1, 3, 12, 8)
    latent = encoder(images)
    assert latent.shape == (1, 6, 3, 2) and encoder.grid(12, 8) == (3, 2)
    images[:, :, 4:8, :4] += 1
    changed = (encoder(images) != latent).any(1)[0]
    assert changed.tolist() == [[False, False], [True, False], [False, False]]


@pytest.mark.parametrize("generation", [{}, {"level_blocks": 1, "upsample": "nearest"}])
def test_hidden_pixels_do_not_reach_the_decoder(generation: Any):
    """Two images that differ where they are hidden decode alike; without a mask only the latent decides."""
    torch.manual_seed(0)
    decoder = PUTDecoder(**SMALL, channels=4, num_levels=2, **generation)
    tokenizer = Tokenizer(PUTEncoder(**SMALL, patch=4), VectorQuantizer(16, 6), decoder, pixels=PixelMap(0.5, 0.5))
    mask = torch.ones(1, 1, 8, 12, dtype=torch.bool)
    mask[..., 2:6, 3:9] = False
    images = torch.rand(1, 3, 8, 12) * 2 - 1
    latent = torch.rand(1, 6, 2, 3)

    def decoded(images, mask):
        return tokenizer.decode(latent, context=Context(images=images, mask=mask))

    with torch.no_grad():
        seen = decoded(images, mask)
        assert torch.equal(decoded(torch.where(mask, images, 0.7), mask), seen)
        assert not torch.equal(decoded(torch.where(mask, 0.7, images), mask), seen)
        alone = tokenizer.decode(latent)
        assert torch.equal(decoded(images, torch.zeros_like(mask)), alone) and alone.shape == images.shape
        assert not torch.equal(alone, seen)
        whole, quantized = tokenizer(images, context=Context(mask=mask))
        again = tokenizer.decode(quantized.latent, context=Context(images=images, mask=mask))
        assert torch.equal(whole, again)
        assert torch.equal(tokenizer.reconstruct(images, Context(mask=mask))[0], whole)


def test_mixing_by_hand():
    """With no weights but the side encoder's first, its map is the image where known; the rest is 0."""
    decoder: Any = PUTDecoder(dim=2, width=2, num_blocks=0, channels=2, num_levels=1, out_channels=1)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
        decoder.side[0].weight[0, 0, 1, 1] = 2
        decoder.conv_out.weight[0, 0, 1, 1] = 3
        decoder.conv_out.bias.fill_(0.5)
    image = torch.tensor([[[[1.0, 2.0], [-4.0, 5.0]]]])
    mask = torch.tensor([[[[True, False], [True, True]]]])
    context = Context(images=torch.where(mask, image, -1), mask=mask)
    expected = 0.5 + 6 * F.relu(image) * mask
    torch.testing.assert_close(decoder(torch.randn(1, 2, 1, 1), context=context), expected, rtol=0, atol=1e-6)


def test_errors():
    decoder, latent = PUTDecoder(**SMALL, channels=4, num_levels=1), torch.zeros(1, 6, 2, 2)
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="give the images too"):
        decoder(latent, context=Context(mask=mask))
    with pytest.raises(ValueError, match=r"context's mask must have the shape \(1, 1, 4, 4\), not \(1, 1, 4, 2\)"):
        decoder(latent, context=Context(images=torch.zeros(1, 3, 4, 4), mask=mask[..., :2]))
    with pytest.raises(ValueError, match="upsample must be transposed or nearest, not 'bilinear'"):
        PUTDecoder(upsample=cast(Any, "bilinear"))
    tokenizer = Tokenizer(PUTEncoder(**SMALL, patch=2), VectorQuantizer(16, 6), decoder)
    with pytest.raises(ValueError, match="mask of 4x2 is not of the size of its images, 4x4"):
        tokenizer(torch.zeros(1, 3, 4, 4), context=Context(mask=mask[..., :2]))


def test_parts_that_lack_the_mask_refuse_them():
    head = MaskedQuantizer(VectorQuantizer(8, 6), VectorQuantizer(8, 6))
    tokenizer = Tokenizer(PUTEncoder(**SMALL, patch=2), head, PUTDecoder(**SMALL, channels=4, num_levels=1)).eval()
    with pytest.raises(ValueError, match="a MaskedQuantizer reads mask beside the latent"):
        tokenizer.tokenize(torch.zeros(1, 3, 64, 64), tile=32)
    with pytest.raises(ValueError, match="MaskedQuantizer.* mask"):
        graphs.programs(tokenizer, 16)
    tokenizer.quantizer = head.known
    with pytest.raises(ValueError, match="a PUTDecoder that reads mask"):
        graphs.programs(tokenizer, 16)
    with pytest.raises(ValueError, match="a MaskedQuantizer: its codes depend on the mask"):
        plain.check_table(head, "VQGAN's layout")
