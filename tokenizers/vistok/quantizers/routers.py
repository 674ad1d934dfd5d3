"""Routers of DQ-VAE: they choose which regions of an image get few codes and which many (arXiv:2305.11718).

A router takes maps of the same image at G resolutions, coarsest first, each twice as fine as the one before, and the
head's context. It returns a gate (b, G, h, w) on the coarsest grid: 1 for the granularity of a region and 0 for the
others. In training the gate of a learned router carries gradients. A router has ``grains``, the number G, and may have
``context_fields``, as a head has them.
"""

from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from vistok.quantizers.base import Context, called_in_float32
from vistok.quantizers.estimators import with_gradient_of

GREY = (0.2989, 0.5870, 0.1140)  # weights of red, green, blue
BINS = 32
ACTIVATIONS = {"silu": nn.SiLU, "relu": nn.ReLU}  # of the gate
BANDWIDTH = 0.01  # standard deviation of the Gaussian with which a pixel adds to the bins
EPSILON = 1e-40  # ε of the authors; only patches whose values are all far from any bin have sums as small
ROWS_AT_ONCE = 2**22  # floats of scratch memory


class FeatureRouter(nn.Module):
    """Chooses by a small network over the maps' features (section 3.2 and code, ``2layer-fc-SiLu``, ``group-32``).

    In training it samples from its logits by straight-through Gumbel-softmax at temperature 1; in evaluation it takes
    the largest logit. With ``context.rate``, evaluation gives finer granularities to that share of regions with the
    highest expected granularity.

    Args:
        dim: Channels of every map.
        grains: Number of granularities G.
        groups: Groups of the norms; must divide ``dim``. None leaves the norms out.
        activation: Activation of the gate, ``silu`` or ``relu``.
    """

    context_fields = frozenset()

    def __init__(
        self,
        dim: int,
        grains: int = 2,
        groups: int | None = 32,
        activation: Literal["silu", "relu"] = "silu",
    ):
        super().__init__()
        self.dim, self.grains, self.groups, self.activation = dim, grains, groups, activation
        if groups is not None and dim % groups:
            raise ValueError(f"groups={groups} does not divide the {dim} channels of the maps")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
        self.norms = nn.ModuleList(
            nn.Identity() if groups is None else nn.GroupNorm(groups, dim, eps=1e-6) for _ in range(grains)
        )
        width = grains * dim
        self.gate = nn.Sequential(nn.Linear(width, width), ACTIVATIONS[activation](), nn.Linear(width, grains))

    def logits(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (b, dim, 2^g h, 2^g w), coarsest first, to logits (b, G, h, w).

        Raises:
            ValueError: There is not one map for each granularity.
        """
        if len(maps) != self.grains:
            raise ValueError(f"there are {len(maps)} maps, but grains={self.grains} need one each")
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
        return one_hot(granularities_by_rank(worth, context.rate, self.grains), self.grains)


class EntropyRouter(nn.Module):
    """Gives more codes to regions of higher entropy; nothing is learned (the authors' "better version", code, README).

    With ``context.rate`` the regions of each image with the highest entropy get finer granularities, that share of
    them. Otherwise the thresholds decide, and the number of codes differs between images.

    Args:
        thresholds: G - 1 ascending entropies in nats: a region above the first gets the second granularity, and so on.
            They depend on the data, the patch and the bins: ``python -m vistok data thresholds`` computes them.
        patch: Side of a region in pixels.
        low: Pixel value of the first of the 32 bins.
        high: Pixel value of the last bin.
    """

    context_fields = frozenset({"images"})

    def __init__(self, thresholds: Sequence[float], patch: int, low: float = -1.0, high: float = 1.0):
        super().__init__()
        thresholds = list(thresholds)
        if not thresholds or sorted(set(thresholds)) != thresholds:
            raise ValueError(f"thresholds must be one or more ascending entropies, not {thresholds}")
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
            return one_hot(granularities_by_rank(entropies, context.rate, self.grains), self.grains)
        above = [(entropies > threshold).long() for threshold in self.thresholds]
        return one_hot(cast(Tensor, sum(above)), self.grains)


def one_hot(granularity: Tensor, grains: int) -> Tensor:
    """Granularities (b, h, w) int64 to a gate (b, grains, h, w) float32."""
    return rearrange(F.one_hot(granularity, grains), "b h w g -> b g h w").float()


def granularities_by_rank(worth: Tensor, rate: Tensor, grains: int) -> Tensor:
    """Granularities from the rank of regions within each image: the highest values get the finest granularity.

    Args:
        worth: Values of the regions, (b, h, w).
        rate: Shares of the regions for granularity 1 and, if there are more, 2 and so on: (b,) for two granularities,
            else (b, grains - 1), each row with a sum of at most 1.
        grains: Number of granularities G.

    Returns:
        Granularities (b, h, w) int64; 0 is the coarsest.
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
        images: (b, 3, H, W) or grey (b, 1, H, W), with values from ``low`` to ``high``; H and W are multiples of
            ``patch``.
        patch: Side of a patch in pixels.
        low: Pixel value of the first bin.
        high: Pixel value of the last bin.

    Returns:
        (b, H / patch, W / patch) float32, from 0 to ln 32; 0 for a patch whose values are all far from any bin.
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
        # The authors add ε in float32, where it is a denormal number; float64 has it on every device.
        histogram = torch.cat(histograms).double()
        frequency = histogram / (histogram.sum(1, keepdim=True) + EPSILON)
        return rearrange(torch.special.entr(frequency).sum(1).float(), "(b h w) -> b h w", b=len(images), h=h)


def _grey(images: Tensor) -> Tensor:
    """Images (b, 3, H, W) or (b, 1, H, W) to (b, H, W)."""
    channels = images.unbind(1)
    if len(channels) == 1:
        return channels[0]
    if len(channels) != 3:
        raise ValueError(f"images have {len(channels)} channels; the entropy of regions needs grey or colour images")
    return cast(Tensor, sum(share * channel for share, channel in zip(GREY, channels, strict=True)))


def spread(cells: Tensor, size: int) -> Tensor:
    """Repeats each cell of (b, c, h, w) over size × size positions."""
    return repeat(cells, "b c h w -> b c (h p) (w q)", p=size, q=size)
