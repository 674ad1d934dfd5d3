"""Which regions of an image get few codes and which get many: the routers of DQ-VAE (arXiv:2305.11718).

A router takes maps of the same image at G resolutions, the coarsest first and each twice as fine as the one before,
and the head's context. It returns a gate (b, G, h, w) on the coarsest grid, 1 for the grain that a region gets and 0
for the others. In training the gate of a learned router carries gradients. It has ``grains``, and may have
``context_fields``, as a head has them.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from vistok.quantizers.base import Context, called_in_float32
from vistok.quantizers.estimators import with_gradient_of

GREY = (0.2989, 0.5870, 0.1140)  # of red, green, blue
BINS = 32
BANDWIDTH = 0.01  # deviation of the Gaussian that each pixel spreads over the bins
ROWS_AT_ONCE = 2**22  # floats of scratch


class FeatureRouter(nn.Module):
    """A small network over the maps' features decides (section 3.2 and code, ``2layer-fc-SiLu``, ``group-32``).

    In training it draws from its logits by Gumbel-softmax at temperature 1, straight-through; in evaluation it takes
    the largest. With ``context.rate`` evaluation gives the finer grains that share of regions, those worth most to it.

    Args:
        dim: Channels of every map.
        grains: G.
        groups: Groups of the norms, which must divide ``dim``.
    """

    context_fields = frozenset()

    def __init__(self, dim: int, grains: int = 2, groups: int = 32):
        super().__init__()
        self.dim, self.grains, self.groups = dim, grains, groups
        if dim % groups:
            raise ValueError(f"groups={groups} does not divide the {dim} channels of the maps")
        self.norms = nn.ModuleList(nn.GroupNorm(groups, dim, eps=1e-6) for _ in range(grains))
        width = grains * dim
        self.gate = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, grains))

    def logits(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (b, dim, 2^g h, 2^g w), coarsest first, to logits (b, G, h, w).

        Raises:
            ValueError: They are not one for each grain.
        """
        if len(maps) != self.grains:
            raise ValueError(f"maps are {len(maps)}, but grains={self.grains} need one each")
        normed = [called_in_float32(norm, m) for norm, m in zip(self.norms, maps, strict=True)]
        pooled = torch.cat([F.avg_pool2d(m, 2**g) for g, m in enumerate(normed)], dim=1)
        return rearrange(called_in_float32(self.gate, rearrange(pooled, "b d h w -> b h w d")), "b h w g -> b g h w")

    def forward(self, maps: Sequence[Tensor], context: Context) -> Tensor:
        logits = self.logits(maps)
        if self.training:
            soft = F.gumbel_softmax(logits, tau=1.0, dim=1)
            return with_gradient_of(one_hot(soft.argmax(1), self.grains), soft)
        if context.rate is None:
            return one_hot(logits.argmax(1), self.grains)
        worth = (logits.softmax(1) * torch.arange(self.grains, device=logits.device)[:, None, None]).sum(1)
        return one_hot(grains_by_rank(worth, context.rate, self.grains), self.grains)


class EntropyRouter(nn.Module):
    """Regions with more entropy get more codes; nothing is learned (the authors' "better version", code and README).

    With ``context.rate`` each image gives that share of its regions, those with most entropy, to the finer grains;
    otherwise the thresholds decide, and an image gets as many codes as it needs.

    Args:
        thresholds: G - 1 entropies in nats, rising: a region above the first gets the second grain, and so on. They
            depend on the data, the patch and the bins: ``python -m vistok data thresholds`` computes them.
        patch: Pixels along each side of a region.
        low: Pixel value of the first of the 32 bins.
        high: Pixel value of the last one.
    """

    context_fields = frozenset({"images"})

    def __init__(self, thresholds: Sequence[float], patch: int, low: float = -1.0, high: float = 1.0):
        super().__init__()
        thresholds = list(thresholds)
        if not thresholds or sorted(set(thresholds)) != thresholds:
            raise ValueError(f"thresholds must be one or more rising entropies, not {thresholds}")
        self.thresholds, self.patch, self.low, self.high = thresholds, patch, low, high
        self.grains = len(thresholds) + 1

    def forward(self, maps: Sequence[Tensor], context: Context) -> Tensor:
        if context.images is None:
            raise ValueError("context.images is None: an entropy router reads the images")
        height, width = context.images.shape[-2:]
        if (height, width) != tuple(side * self.patch for side in maps[0].shape[-2:]):
            grid = "x".join(map(str, maps[0].shape[-2:]))
            raise ValueError(f"patch={self.patch} does not make regions of {grid} from images of {height}x{width}")
        entropies = patch_entropy(context.images, self.patch, self.low, self.high)
        if context.rate is not None:
            return one_hot(grains_by_rank(entropies, context.rate, self.grains), self.grains)
        above = [(entropies > threshold).long() for threshold in self.thresholds]
        return one_hot(cast(Tensor, sum(above)), self.grains)


def one_hot(grain: Tensor, grains: int) -> Tensor:
    """Grains (b, h, w) int64 to a gate (b, grains, h, w) float32."""
    return rearrange(F.one_hot(grain, grains), "b h w g -> b g h w").float()


def grains_by_rank(worth: Tensor, rate: Tensor, grains: int) -> Tensor:
    """Give each image's most worthy regions the finest grain, the next ones the next.

    Args:
        worth: (b, h, w).
        rate: Shares of the regions for grain 1 and, with more grains, 2 and so on: (b,) for two grains, else
            (b, grains - 1), each row with a sum of at most 1.
        grains: G.

    Returns:
        Grains (b, h, w) int64; 0 is the coarsest.
    """
    _, h, w = worth.shape
    rank = worth.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    finest_first = rate.to(worth.device).reshape(len(worth), grains - 1).flip(1).cumsum(1)
    limits = (finest_first * (h * w)).round()
    return rearrange((rank[:, None] < limits[:, :, None]).sum(1), "b (h w) -> b h w", h=h)


@torch.no_grad()
def patch_entropy(images: Tensor, patch: int, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Entropy in nats of the grey values of each patch, from a soft histogram of 32 bins (DQ-VAE's code).

    Args:
        images: (b, 3, H, W) or grey (b, 1, H, W), in the range that ``low`` and ``high`` bound; H and W multiples of
            ``patch``.
        patch: Pixels along each side.
        low: Pixel value of the first bin.
        high: Pixel value of the last one.

    Returns:
        (b, H / patch, W / patch) float32, from 0 to ln 32. A patch with all values far from any bin counts 0.
    """
    with torch.autocast(images.device.type, enabled=False):
        grey = _grey(images.float())
        h = grey.shape[1] // patch
        pixels = rearrange(grey, "b (h p) (w q) -> (b h w) (p q)", p=patch, q=patch)
        bins = torch.linspace(low, high, BINS, device=images.device)
        rows = max(1, ROWS_AT_ONCE // (pixels.shape[1] * BINS))
        histograms = []
        for part in pixels.split(rows):
            away = (part[:, :, None] - bins) / BANDWIDTH
            histograms.append((-0.5 * away.square()).exp().mean(1))
        histogram = torch.cat(histograms)
        # The authors divide by the sum + 1e-40; the smallest normal number does not depend on denormals.
        frequency = histogram / histogram.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        return rearrange(torch.special.entr(frequency).sum(1), "(b h w) -> b h w", b=len(images), h=h)


def _grey(images: Tensor) -> Tensor:
    """Images (b, 3, H, W) or (b, 1, H, W) to (b, H, W)."""
    channels = images.unbind(1)
    if len(channels) == 1:
        return channels[0]
    if len(channels) != 3:
        raise ValueError(f"images have {len(channels)} channels; the entropy of regions is of grey or colour images")
    return cast(Tensor, sum(share * channel for share, channel in zip(GREY, channels, strict=True)))


def spread(cells: Tensor, size: int) -> Tensor:
    """Repeat each cell of (b, c, h, w) over size × size positions."""
    return repeat(cells, "b c h w -> b c (h p) (w q)", p=size, q=size)
