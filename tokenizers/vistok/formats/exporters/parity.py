"""Comparison of an exported tokenizer, loaded by its consumer, with the original."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vistok.tokenizer import Tokenizer

TOLERANCE = 1e-4  # of latents and images, relative to their largest absolute value where that is above 1


class ParityError(RuntimeError):
    """Exported files differ from the tokenizer and were removed; the message names the difference."""


class Encoded(NamedTuple):
    """Output of a consumer for images; None for values that it does not return."""

    codes: Tensor  # (b, k, h, w)
    latent: Tensor | None = None  # (b, d, h, w), before quantization
    keep: Tensor | None = None  # (b, h, w)


class Parity(NamedTuple):
    """Result of a comparison: its extent, and the largest differences."""

    sizes: tuple[tuple[int, int], ...]  # sizes (H, W) of the images
    codes: int
    near_ties: int  # codes that differ but are equally near within the precision of float32
    pixels: float  # largest difference between decoded images
    by_metric: int | None = None  # codes that differ because the consumer does not know the tokenizer's metric

    def __str__(self) -> str:
        sizes = " and ".join(f"{height}x{width}" for height, width in self.sizes)
        ties = f"all but {self.near_ties} near-ties of" if self.near_ties else "all"
        text = f"{ties} {self.codes:,} codes of images of {sizes} agree; pixels differ by at most {self.pixels:.1e}"
        if self.by_metric is None:
            return text
        return (
            f"{text}; {self.by_metric:,} codes are not those of the tokenizer, which compares by cosine: here they are "
            "chosen by L2, which for latents near zero is another choice"
        )


@torch.no_grad()
def check(
    tokenizer: Tokenizer,
    encode: Callable[[Tensor], Encoded],
    decode: Callable[[Tensor, tuple[int, int]], Tensor],
    sizes: Sequence[tuple[int, int]],
    clamped: bool = False,
    original: Tokenizer | None = None,
) -> Parity:
    """Compares a consumer of exported files with the tokenizer, on random images and codes.

    Args:
        tokenizer: The folded tokenizer in evaluation mode.
        encode: The consumer's function from images (b, c, H, W) in [-1, 1] to codes.
        decode: The consumer's function from codes (b, k, h, w) to images of a size (H, W).
        sizes: Sizes (H, W) of the images; the first is a batch of two, the others single images.
        clamped: True if the consumer clamps images to [-1, 1].
        original: The tokenizer with its own metric, if ``tokenizer`` is a version with another metric that the consumer
            knows; codes that differ from the original's are counted.

    Raises:
        ParityError: The consumer and the tokenizer differ.
    """
    head, generator = tokenizer.quantizer, torch.Generator().manual_seed(0)
    total = ties = by_metric = 0
    furthest = 0.0
    for i, size in enumerate(sizes):
        images = random_images(1 if i else 2, tokenizer.encoder.in_channels, size, generator)
        ours, theirs = tokenizer.to_codes(images), encode(images)
        if theirs.codes.shape != ours.codes.shape:
            raise ParityError(f"codes have the shape {tuple(theirs.codes.shape)}, not {tuple(ours.codes.shape)}")
        if theirs.latent is not None:
            _difference("latents", theirs.latent, tokenizer.encode(images))
        if ours.keep is not None and (theirs.keep is None or not torch.equal(theirs.keep, ours.keep)):
            raise ParityError("the positions to keep differ")
        differing = theirs.codes != ours.codes
        tied = differing & head.near_ties(tokenizer.encode(images), ours.codes, theirs.codes)
        if not torch.equal(tied, differing):
            wrong = int((differing & ~tied).sum())
            raise ParityError(f"{wrong} of {differing.numel()} codes of images of {size[0]}x{size[1]} differ")
        total, ties = total + differing.numel(), ties + int(differing.sum())
        if original is not None:
            by_metric += int((original.to_codes(images).codes != theirs.codes).sum())
        drawn = [torch.randint(n, ours.codes[:, :1].shape, generator=generator) for n in head.codebook_sizes]
        for codes in (ours.codes, torch.cat(drawn, dim=1)):
            expected = tokenizer.decode(tokenizer.lookup(codes, size), size)
            expected = expected.clamp(-1, 1) if clamped else expected
            furthest = max(furthest, _difference("decoded images", decode(codes, size), expected))
    return Parity(tuple(sizes), total, ties, furthest, None if original in (None, tokenizer) else by_metric)


def _difference(what: str, theirs: Tensor, ours: Tensor) -> float:
    if theirs.shape != ours.shape:
        raise ParityError(f"{what} have the shape {tuple(theirs.shape)}, not {tuple(ours.shape)}")
    difference = float((theirs - ours).abs().max())
    bound = TOLERANCE * max(1.0, float(ours.abs().max()))
    if not difference <= bound:  # NaN as well
        raise ParityError(f"{what} differ by {difference:.1e}, more than {bound:.1e}")
    return difference


def random_images(number: int, channels: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Images (number, channels, H, W) in [-1, 1] of smooth blobs with noise, so that their codes vary."""
    coarse = torch.rand(number, channels, 5, 5, generator=generator) * 3 - 1.5
    noise = torch.rand(number, channels, *size, generator=generator) * 0.6 - 0.3
    return (F.interpolate(coarse, size, mode="bilinear") + noise).clamp(-1, 1)


def sizes_of(tokenizer: Tokenizer) -> tuple[tuple[int, int], ...]:
    """Small sizes (H, W) for a check, of different shapes, and the training size of a transformer."""
    if tokenizer.only_size is not None:
        return (tokenizer.only_size,)
    multiple = tokenizer.quantizer.grid_multiple  # a region of a dynamic head; graphs need two on each side
    side = tokenizer.factor * multiple * max(2, -(-4 // multiple))
    own = getattr(tokenizer.encoder, "image_size", None)
    return ((side, 2 * side), (2 * side, side), *([(own, own)] if own else []))
