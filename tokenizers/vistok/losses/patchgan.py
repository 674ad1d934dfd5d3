"""PatchGAN: a discriminator that classifies overlapping patches (pix2pix, arXiv:1611.07004, section 3.2.2)."""

import math
from typing import Literal

from torch import Tensor, nn

NORMS = {
    "batch": nn.BatchNorm2d,
    "group": lambda width: nn.GroupNorm(math.gcd(32, width), width),
    "none": lambda width: nn.Identity(),
}


class PatchGAN(nn.Module):
    """Maps images (b, 3, H, W) in [-1, 1] to one logit for each patch, (b, 1, h, w): high for real ones.

    With the defaults it has the 2,765,633 parameters of VQGAN's and LlamaGen's discriminator and patches of 70 pixels.

    Args:
        channels: Channels of the first layer; each further layer doubles them, up to eight times.
        num_layers: Number of layers of stride 2.
        in_channels: Channels of the images.
        norm: ``batch`` as published. With ``group`` (up to 32 groups) or ``none`` an image's logits do not depend on
            the other images of the batch, and are the same with one process and several.
    """

    repeatable = True  # see Adversary.repeatable

    def __init__(
        self,
        channels: int = 64,
        num_layers: int = 3,
        in_channels: int = 3,
        norm: Literal["batch", "group", "none"] = "batch",
    ):
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, not {norm!r}")
        self.independent = norm != "batch"  # see Adversary.independent
        widths = [channels * min(2**i, 8) for i in range(num_layers + 1)]
        layers = [nn.Conv2d(in_channels, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i, (before, width) in enumerate(zip(widths, widths[1:], strict=False), start=1):
            stride = 2 if i < num_layers else 1
            layers += [
                nn.Conv2d(before, width, 4, stride=stride, padding=1, bias=norm == "none"),
                NORMS[norm](width),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def _initialise(module: nn.Module) -> None:
    """Initialises by pix2pix's normal distribution."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
