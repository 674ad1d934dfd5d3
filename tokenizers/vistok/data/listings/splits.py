"""Splits of listed images: to train on, for validation, and for a test."""

from typing import NamedTuple

from vistok.data.index_sequences import IndicesWithout, drawn
from vistok.data.listings.listing import Listing
from vistok.processes.node_files import node_value


class Splits(NamedTuple):
    """Listings of a source; without splits all images are in ``train``."""

    train: Listing
    val: Listing | None = None
    test: Listing | None = None
    notes: tuple[str, ...] = ()  # sentences about what is not read
    has_names: bool = False  # True if each image names its split, even if all are in ``train``

    @property
    def divided(self) -> bool:
        """True if the source has splits of its own."""
        return self.val is not None or self.test is not None

    def to_score(self) -> Listing:
        """Images that an evaluation scores: those for validation, else those for a test, else all."""
        return self.val or self.test or self.train


def held_out(images: Listing, count: int, seed: int) -> tuple[Listing, Listing]:
    """Splits images into those to train on and ``count`` that are held out, drawn by ``seed``, both in their order.

    Args:
        images: All images.
        count: Number of held-out images; 0 holds out a twentieth, at least 1 and at most 1,000.
        seed: Seed of the choice.

    Raises:
        ValueError: ``count`` is negative, or nothing is left to train on.
    """
    if count < 0:
        raise ValueError(f"data.val_count must be at least 0, not {count}")
    if count >= len(images) > 0:
        raise ValueError(f"data.val_count={count} leaves none of {len(images)} images to train on")
    count = count or min(1000, max(1, len(images) // 20))
    chosen = node_value(f"held out {len(images)} {count} {seed}", lambda: drawn(len(images), count, seed))
    return images.part(IndicesWithout(len(images), chosen)), images.part(chosen)
