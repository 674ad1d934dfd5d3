"""The two StyleGAN discriminators against the authors' own code and by hand."""

import re

import pytest
import torch

from vistok.losses import R1, StyleGAN
from vistok.losses.adversarial import hinge, linear, non_saturating, vanilla
from vistok.losses.stylegan import EqualConv, MinibatchSpread

CHANNELS = [8, 12, 16, 16]  # at 32, 16, 8 and 4 pixels

ENHANCING = [
    (r"blocks\.0\.0\.weight", "stem.0.weight"),
    (r"blocks\.0\.1\.bias", "stem.0.bias"),
    (r"blocks\.(\d)\.conv1\.0\.weight", r"blocks.\1.first.0.weight"),
    (r"blocks\.(\d)\.conv1\.1\.bias", r"blocks.\1.first.0.bias"),
    (r"blocks\.(\d)\.conv2\.1\.weight", r"blocks.\1.second.0.weight"),
    (r"blocks\.(\d)\.conv2\.2\.bias", r"blocks.\1.second.0.bias"),
    (r"blocks\.(\d)\.skip\.1\.weight", r"blocks.\1.skip.weight"),
    (r"final_conv\.0\.weight", "last.0.weight"),
    (r"final_conv\.1\.bias", "last.0.bias"),
    (r"final_linear\.0\.(\w+)", r"head.0.\1"),
    (r"final_linear\.1\.(\w+)", r"head.2.\1"),
]
LLAMAGEN = [
    (r"blocks\.0\.(\w+)", r"stem.0.\1"),
    (r"blocks\.(\d)\.net\.(\d)\.(\w+)", r"blocks.\1.layers.\2.\3"),
    (r"blocks\.(\d)\.downsample\.1\.(\w+)", r"blocks.\1.layers.5.\2"),
    (r"blocks\.(\d)\.conv_res\.(\w+)", r"blocks.\1.skip.\2"),
    (r"final_conv\.0\.(\w+)", r"last.0.\1"),
    (r"final_linear\.(\d)\.(\w+)", r"head.\1.\2"),
]


def from_authors(values, variant):
    """The authors' weights under our names; their blocks begin at 1 or 2, ours at 0."""
    table, first = (ENHANCING, 1) if variant == "stylegan2" else (LLAMAGEN, 2)
    state = {}
    for key, tensor in values.items():
        name = key.removeprefix("state.")
        if name == key or name.endswith((".kernel", ".f")):
            continue
        (ours,) = {re.sub(pattern, new, name) for pattern, new in table if re.fullmatch(pattern, name)}
        state[re.sub(r"^blocks\.(\d)", lambda match: f"blocks.{int(match[1]) - first}", ours)] = tensor
    discriminator = StyleGAN(32, CHANNELS, variant)
    discriminator.load_state_dict(state)
    return discriminator


def test_enhancing_transformers(golden, close):
    values = golden("discriminators", "stylegan_enhancing")
    discriminator = from_authors(values, "stylegan2")
    logits = discriminator(values["images"])
    close(logits, values["logits"])
    fake, real = logits[:2], logits[2:]
    close(hinge(real, fake), values["loss.hinge_d"])
    close(vanilla(real, fake), values["loss.vanilla_d"])
    close(linear(logits), values["loss.hinge_g"])
    close(non_saturating(logits), values["loss.vanilla_g"])
    close(R1(every=2)(discriminator, values["images"], real, fake), values["r1"])


def test_llamagen(golden, close):
    values = golden("discriminators", "stylegan_llamagen")
    discriminator = from_authors(values, "llamagen")
    close(discriminator(values["images"]), values["logits"])


@pytest.mark.parametrize("variant", ["stylegan2", "llamagen"])
def test_gradients_are_finite_differences(variant):
    torch.manual_seed(0)
    discriminator = StyleGAN(8, [3, 4], variant).double()
    images = torch.randn(4, 3, 8, 8, dtype=torch.double, requires_grad=True)

    def in_float64(images):  # the spread over the minibatch is made in float32
        return discriminator(images).sum()

    (gradient,) = torch.autograd.grad(in_float64(images), images)
    step = 1e-3 * torch.randn_like(images)
    with torch.no_grad():
        slope = (in_float64(images + step) - in_float64(images - step)) / 2
    assert slope.item() == pytest.approx((gradient * step).sum().item(), rel=1e-2)


def test_size_at_256_pixels():
    """28,864,129 at 256 pixels, from the channels, kernels and biases that the paper's network has."""
    widths = [128, 256, 512, 512, 512, 512, 512]
    blocks = sum(
        9 * a * a + a + 9 * a * b + b + a * b for a, b in zip(widths, widths[1:], strict=False)
    )  # two convolutions with biases, a skip without
    expected = 3 * 128 + 128 + blocks + 9 * 513 * 512 + 512 + 8192 * 512 + 512 + 512 + 1
    with torch.device("meta"):
        assert sum(p.numel() for p in StyleGAN(256).parameters()) == expected == 28_864_129


def test_equalised_weights_have_the_scale_of_their_fan_in():
    torch.manual_seed(0)
    convolution = EqualConv(64, 256, 3)
    assert convolution.weight.std().item() == pytest.approx(1, rel=0.02)
    out = convolution(torch.randn(4, 64, 9, 9))
    assert out.std().item() == pytest.approx(1, rel=0.05)


def test_the_spread_of_a_group_by_hand():
    x = torch.tensor([0.0, 10.0, 2.0, 16.0]).reshape(4, 1, 1, 1)
    out = MinibatchSpread(2)(x)  # groups are images 0 and 2, 1 and 3
    torch.testing.assert_close(out[:, 1].flatten(), torch.tensor([1.0, 3.0, 1.0, 3.0]))
    odd = MinibatchSpread(4)(x[:3])  # no multiple of 4: one group
    torch.testing.assert_close(odd[:, 1].flatten(), x[:3].std(unbiased=False).expand(3))


@pytest.mark.parametrize("arguments, message", [
    ({"size": 48}, "size must be a power of 2 of at least 8, not 48"),
    ({"size": 32, "channels": [8, 8]}, r"channels must have 4 numbers, for sides \[32, 16, 8, 4\], not \[8, 8\]"),
    ({"size": 8, "channels": [4, 4], "variant": "stylegan3"}, "variant must be one of stylegan2, llamagen"),
])  # fmt: skip
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        StyleGAN(**arguments)


def test_images_of_another_size():
    with pytest.raises(ValueError, match="this discriminator is for 8 x 8 images"):
        StyleGAN(8, [4, 4])(torch.zeros(1, 3, 16, 16))
