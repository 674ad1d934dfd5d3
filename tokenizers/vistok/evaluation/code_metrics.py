"""Metrics of the codes of a set of images: usage of codebooks, numbers of tokens, bits."""

import math

import torch
from torch import Tensor

from vistok.metrics.usage import CodebookUsage, DistinctTuples, usages_of
from vistok.quantizers import Layout


def code_metrics(
    usage: CodebookUsage,
    tuples: DistinctTuples | None,
    tokens: Tensor,
    positions: Tensor,
    pixels: Tensor,
    granularities: int,
) -> dict[str, float]:
    """All metrics of codes by name.

    Bits are those of fixed codes, or of the entropy of their frequencies, plus those of the granularities of all
    regions. Rates are means over images, with the smallest and the largest where they vary.

    Args:
        usage: Counts of codewords.
        tuples: Distinct tuples of several codebooks.
        tokens: Positions that are tokens, of each image (n,).
        positions: Positions of each image (n,).
        pixels: Pixels of each image (n,).
        granularities: Number of granularities of a region.
    """
    tokens, k = tokens.double(), len(usage.codebook_sizes)
    use = {name: value.item() for name, value in usages_of(usage.counts).items()}
    entropy = sum(use[name] for name in use if name.startswith("entropy_bits"))
    fixed = sum(map(math.log2, usage.codebook_sizes))
    different, at = positions.unique(return_inverse=True)
    layouts = [Layout(((1, count),), k, granularities) for count in different.tolist()]
    regions = torch.tensor([layout.granularity_bits for layout in layouts], dtype=torch.float64)[at]
    bits, by_entropy = tokens * fixed + regions, tokens * entropy + regions
    del use["tokens"]
    if tuples:
        use["distinct_tuples"] = float(len(tuples.tuples()))
    return use | {
        "tokens": tokens.sum().item(),
        **_spread("tokens_per_image", k * tokens, with_deviation=True),
        "bits_per_image": bits.mean().item(),
        "bits_per_image_entropy": by_entropy.mean().item(),
        **_spread("bits_per_pixel", bits / pixels),
        "bits_per_pixel_entropy": (by_entropy / pixels).mean().item(),
    }


def _spread(name: str, values: Tensor, with_deviation: bool = False) -> dict[str, float]:
    """Mean of a value over images; where it varies, also the smallest and the largest."""
    found = {name: values.mean().item()}
    if values.min() < values.max():
        found[f"{name}_min"] = values.min().item()
        if with_deviation:
            found[f"{name}_std"] = values.std().item()
        found[f"{name}_max"] = values.max().item()
    return found
