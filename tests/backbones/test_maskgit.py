"""MaskGIT's networks: published sizes, the block that changes the width, and other sizes of images."""

import pytest
import torch
import torch.nn.functional as F

from vistok.backbones import MaskGITDecoder, MaskGITEncoder
from vistok.backbones.maskgit import WideningBlock


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_published_parameter_counts():
    with torch.device("meta"):
        encoder, decoder = MaskGITEncoder(), MaskGITDecoder()
    assert (parameters(encoder), len(encoder.state_dict())) == (23_775_104, 79)
    assert (parameters(decoder), len(decoder.state_dict())) == (30_478_339, 88)


def test_a_widening_block_by_hand():
    """Convolutions that pass channel 0 on: both outputs are the doubly normalised input, times 1 + the shortcut."""
    block = WideningBlock(1, 2)
    with torch.no_grad():
        for convolution in (block.conv1, block.conv2, block.shortcut):
            convolution.weight.zero_()
        middle = 1
        block.conv1.weight[:, 0, middle, middle] = 1
        block.conv2.weight[0, 0, middle, middle] = block.conv2.weight[1, 0, middle, middle] = 1
        block.shortcut.weight[0, 0] = 3
        block.shortcut.weight[1, 0] = 5
    x = torch.tensor([[[[1.0, 3.0, 5.0, 7.0]]]])

    def step(values):
        return F.silu((values - values.mean()) / values.std(unbiased=False))

    h = step(step(x))
    torch.testing.assert_close(block(x), torch.cat([4 * h, 6 * h], dim=1), rtol=0, atol=1e-4)
    torch.testing.assert_close(block(x + 100), block(x), rtol=0, atol=1e-4)  # the input has no way around


@pytest.mark.parametrize("height, width", [(32, 32), (16, 40)])
def test_shapes(height, width):
    size = {"channels": 8, "multipliers": (2, 1, 2), "num_blocks": 1, "dim": 6}
    encoder, decoder = MaskGITEncoder(**size), MaskGITDecoder(**size)
    latent = encoder(torch.randn(2, 3, height, width))
    assert encoder.factor == decoder.factor == 4 and encoder.grid(height, width) == latent.shape[-2:]
    assert latent.shape == (2, 6, height // 4, width // 4)
    assert decoder(latent).shape == (2, 3, height, width)
    assert decoder.last_layer is decoder.conv_out.weight
