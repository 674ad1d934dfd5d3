"""Selection of the few images that a report shows, in one pass over all images."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vistok.distributed.collectives import gather_objects
from vistok.metrics.states import Accumulator, Saved

WORST, BEST, DRAWN = "worst", "best", "drawn"


class Example(NamedTuple):
    """An image with its reconstruction."""

    key: tuple[float | str, str]  # sort key of the selection, smallest first; the name breaks ties
    distance: float
    image: Tensor  # (3, H, W) uint8
    reconstruction: Tensor  # the same

    @property
    def name(self) -> str:
        return self.key[1]


class Examples(Accumulator):
    """Selects the images at the greatest and the smallest distance, and some by a hash of their names.

    The selection does not depend on the order of images, so that any number of ranks, and a resumed evaluation, select
    the same; memory does not grow with the number of images.

    Args:
        count: Number of images of each kind.
    """

    def __init__(self, count: int = 6):
        super().__init__()
        self.count = count
        self.chosen: dict[str, list[Example]] = {WORST: [], BEST: [], DRAWN: []}

    def update(self, names: Sequence[str], distances: Tensor, images: Tensor, reconstruction: Tensor) -> None:
        """Adds a batch.

        Args:
            names: Names of the images.
            distances: (b,) distance of each reconstruction from its image.
            images: (b, 3, H, W) uint8.
            reconstruction: The same.
        """
        for i, (name, distance) in enumerate(zip(names, distances.tolist(), strict=True)):
            keys = {WORST: -distance, BEST: distance, DRAWN: hashlib.sha256(name.encode()).hexdigest()}
            for kind, key in keys.items():
                own = self.chosen[kind]
                if len(own) < self.count or (key, name) < own[-1].key:
                    pair = (side[i].cpu().clone() for side in (images, reconstruction))  # not the full batch
                    self._add(kind, Example((key, name), distance, *pair))

    @classmethod
    def merged(cls, parts: Sequence["Examples"]) -> "Examples":
        """Examples that would have been selected from the images of all ranks."""
        merged = cls(parts[0].count)
        for part in parts:
            for kind, examples in part.chosen.items():
                for example in examples:
                    merged._add(kind, example)
        return merged

    def gather(self) -> "Examples":
        self.chosen = self.merged(gather_objects(self)).chosen
        return self

    def save(self) -> Saved:
        saved = Saved({}, {})
        for kind, own in self.chosen.items():
            if own:
                pairs = [torch.stack([example.image, example.reconstruction]) for example in own]
                saved.tensors[kind] = torch.stack(pairs)
            saved.about[kind] = [[*example.key, example.distance] for example in own]
        return saved

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        for kind, own in about.items():
            pairs = tensors.get(kind, ())
            self.chosen[kind] = [
                Example((key, name), distance, *pair) for (key, name, distance), pair in zip(own, pairs, strict=True)
            ]

    def _add(self, kind: str, example: Example) -> None:
        self.chosen[kind] = sorted([*self.chosen[kind], example], key=lambda own: own.key)[: self.count]
