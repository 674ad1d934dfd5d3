"""Residual discriminator of StyleGAN2 (arXiv:1912.04958), and LlamaGen's simpler variant."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

VARIANTS = ("stylegan2", "llamagen")


class StyleGAN(nn.Module):
    """Maps square images (b, 3, size, size) in [-1, 1] to one logit each, (b, 1): high for real ones.

    * ``stylegan2``: equalised learning rates (arXiv:1710.10196, section 4.1), activations times √2, blur with [1, 3, 3,
      1] before each stride (arXiv:1904.11486), the minibatch standard deviation as a last channel.
    * ``llamagen``: of these only a blur, with [1, 2, 1]; each block has a third convolution.

    Args:
        size: Side of the images in pixels: 4 · 2^n, n ≥ 1.
        channels: Channels at ``size``, ``size / 2``, ..., 4; None takes the paper's min(512, 32768 / side).
        variant: ``stylegan2`` or ``llamagen``.
        group: Number of images over which ``stylegan2`` takes the standard deviation; the whole batch if it is smaller.
        in_channels: Channels of the images.
    """

    repeatable = True  # see Adversary.repeatable

    def __init__(
        self,
        size: int,
        channels: Sequence[int] | None = None,
        variant: Literal["stylegan2", "llamagen"] = "stylegan2",
        group: int = 4,
        in_channels: int = 3,
    ):
        super().__init__()
        if size < 8 or size & (size - 1):
            raise ValueError(f"size must be a power of 2 of at least 8, not {size}")
        sides = [size >> i for i in range(size.bit_length() - 2)]  # size, ..., 4
        widths = list(channels) if channels is not None else [min(512, 32768 // side) for side in sides]
        if len(widths) != len(sides):
            raise ValueError(f"channels must have {len(sides)} numbers, for sides {sides}, not {widths}")
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
        self.independent = variant == "llamagen"  # see Adversary.independent
        self.size, self.only_size = size, (size, size)  # the latter: see Adversary.check_sizes
        pairs, last = list(zip(widths, widths[1:], strict=False)), widths[-1]
        if variant == "stylegan2":
            self.stem = nn.Sequential(EqualConv(in_channels, widths[0], 1), ScaledLeakyReLU())
            self.blocks = nn.Sequential(*(EqualBlock(before, after) for before, after in pairs))
            self.spread = MinibatchSpread(group)
            self.last = nn.Sequential(EqualConv(last + 1, last, 3, padding=1), ScaledLeakyReLU())
            self.head = nn.Sequential(EqualLinear(last * 16, last), ScaledLeakyReLU(), EqualLinear(last, 1))
        else:
            self.stem = nn.Sequential(nn.Conv2d(in_channels, widths[0], 3, padding=1), nn.LeakyReLU(0.2))
            self.blocks = nn.Sequential(*(PlainBlock(before, after) for before, after in pairs))
            self.spread = nn.Identity()
            self.last = nn.Sequential(nn.Conv2d(last, last, 3, padding=1), nn.LeakyReLU(0.2))
            self.head = nn.Sequential(nn.Linear(last * 16, last), nn.LeakyReLU(0.2), nn.Linear(last, 1))

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (self.size, self.size):
            raise ValueError(f"this discriminator is for {self.size} x {self.size} images, not {tuple(images.shape)}")
        features = self.last(self.spread(self.blocks(self.stem(images))))
        return self.head(rearrange(features, "b c h w -> b (c h w)"))


class EqualBlock(nn.Module):
    """Halves the side: two convolutions beside a 1x1 shortcut, their sum divided by √2."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.first = nn.Sequential(EqualConv(before, before, 3, padding=1), ScaledLeakyReLU())
        self.blur = Blur((1, 3, 3, 1), padding=2)
        self.second = nn.Sequential(EqualConv(before, after, 3, stride=2), ScaledLeakyReLU())
        self.skip_blur = Blur((1, 3, 3, 1), padding=1)
        self.skip = EqualConv(before, after, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.blur(self.first(x))) + self.skip(self.skip_blur(x))) / math.sqrt(2)


class PlainBlock(nn.Module):
    """Halves the side: three convolutions beside a 1x1 shortcut of stride 2, their sum divided by √2."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(after, after, 3, padding=1),
            nn.LeakyReLU(0.2),
            Blur((1, 2, 1), padding=1, mode="reflect"),
            nn.Conv2d(after, after, 3, stride=2, padding=1),
        )
        self.skip = nn.Conv2d(before, after, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return (self.layers(x) + self.skip(x)) / math.sqrt(2)


class EqualConv(nn.Conv2d):
    """Convolution with weights from N(0, 1), scaled by 1 / √fan-in when used; its bias starts at 0."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, padding: int = 0, bias: bool = True):
        super().__init__(before, after, kernel, stride, padding, bias=bias)
        equalise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * scale(self.weight), self.bias)


class EqualLinear(nn.Linear):
    """Linear map with equalised learning rate, like ``EqualConv``."""

    def __init__(self, before: int, after: int):
        super().__init__(before, after)
        equalise(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * scale(self.weight), self.bias)


def equalise(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.normal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def scale(weight: Tensor) -> float:
    """1 / √fan-in."""
    return weight[0].numel() ** -0.5


class ScaledLeakyReLU(nn.Module):
    """``√2 · leaky_relu``, slope 0.2: keeps the variance of its input about the same."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.2) * math.sqrt(2)


class Blur(nn.Module):
    """Filters every channel by the same small kernel, normalised to sum 1.

    Args:
        taps: Row and column of the kernel.
        padding: Padding on each side in pixels.
        mode: Padding mode, as in ``torch.nn.functional.pad``.
        stride: Distance in pixels between outputs.
    """

    kernel: Tensor  # (h, w)

    def __init__(self, taps: Sequence[float], padding: int, mode: str = "constant", stride: int = 1):
        super().__init__()
        row = torch.tensor(taps, dtype=torch.float32)
        self.register_buffer("kernel", torch.outer(row, row) / row.sum() ** 2, persistent=False)
        self.padding, self.mode, self.stride = padding, mode, stride

    def forward(self, x: Tensor) -> Tensor:
        padded = rearrange(F.pad(x, [self.padding] * 4, mode=self.mode), "b c h w -> (b c) 1 h w")
        # Channels as images, not as groups: R1's second derivative of a convolution in groups loops over them.
        blurred = F.conv2d(padded, self.kernel.to(x.dtype)[None, None], stride=self.stride)
        return rearrange(blurred, "(b c) 1 h w -> b c h w", b=len(x))


class MinibatchSpread(nn.Module):
    """Appends a channel: the standard deviation over a group of images, averaged over channels and positions.

    (arXiv:1710.10196, section 3, in groups as in StyleGAN's code.) With n images and groups of g, images j, j + n / g,
    j + 2 n / g and so on make a group. A batch whose size is not a multiple of g is one group.

    Args:
        group: g.
    """

    def __init__(self, group: int):
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        members = self.group if b % self.group == 0 else b
        groups = rearrange(x.float(), "(g n) c h w -> g n c h w", g=members)
        spread = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
        return torch.cat([x, repeat(spread.to(x.dtype), "n -> (g n) 1 h w", g=members, h=h, w=w)], dim=1)
