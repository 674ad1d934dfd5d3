"""Selection of the images that a report shows, in one pass over all images."""

import hashlib
import math
from bisect import insort
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from vistok.distributed.collectives import gather_objects
from vistok.metrics.states import Accumulator, Saved
from vistok.metrics.units import better
from vistok.quantizers import Codes, Quantized

DRAWN, WORST, BEST = "drawn", "worst", "best"
BLOCK = 32  # side in pixels of the blocks whose mean error is compared
LARGEST_PICTURE = 1024  # side in pixels of the largest picture of a report


class Example(NamedTuple):
    """An image with its reconstruction."""

    image: Tensor  # (3, H, W) uint8
    reconstruction: Tensor  # the same
    codes: Tensor | None = None  # (k, *positions) int64; None if nothing but the reconstruction is known
    keep: Tensor | None = None  # (*positions) bool, positions that are tokens; None keeps all
    part: bool = False  # True of a large image, of which only the part with the greatest error is kept, without codes


class Examples(Accumulator):
    """Keeps images drawn by a hash of their names, and the worst and the best by each distance.

    The selection does not depend on the order of images, so that any number of ranks, and a resumed evaluation, select
    the same. Memory holds ``count`` drawn images and about as many others, however many pass by.

    Args:
        count: Number of images that the report shows.

    Attributes:
        kept: The images by name.
        ranked: Sort keys and names, smallest first, by the reason for which they are kept: ``drawn``,
            ``worst DISTANCE``, ``best DISTANCE``.
    """

    def __init__(self, count: int = 60):
        super().__init__()
        self.count = count
        self.kept: dict[str, Example] = {}
        self.ranked: dict[str, list[tuple[float | str, str]]] = {DRAWN: []}

    def update(
        self,
        names: Sequence[str],
        distances: Mapping[str, Tensor],
        images: Tensor,
        reconstruction: Tensor,
        emitted: Codes | Quantized | None = None,
    ) -> None:
        """Adds a batch.

        Args:
            names: Names of the images.
            distances: (b,) values of each image by the name of the distance.
            images: (b, 3, H, W) uint8.
            reconstruction: The same.
            emitted: The codes that were decoded to the reconstruction.
        """
        signs = {name: {"higher": -1, "lower": 1}.get(better(name)) for name in distances}
        values = {name: distances[name].tolist() for name, sign in signs.items() if sign}
        for distance in values:
            self.ranked.setdefault(f"{WORST} {distance}", [])
            self.ranked.setdefault(f"{BEST} {distance}", [])
        for i, name in enumerate(names):
            keys: dict[str, float | str] = {DRAWN: hashlib.sha256(name.encode()).hexdigest()}
            for distance, own in values.items():
                if not math.isnan(own[i]):
                    keys[f"{BEST} {distance}"] = signs[distance] * own[i]
                    keys[f"{WORST} {distance}"] = -signs[distance] * own[i]
            if any([self._rank(reason, key, name) for reason, key in keys.items()]):
                codes, keep = (None, None) if emitted is None else (emitted.codes, emitted.keep)
                sides = (None if side is None else side[i].cpu() for side in (images, reconstruction, codes, keep))
                self.kept[name] = example_of(*sides)
        self._forget()

    @classmethod
    def merged(cls, parts: Sequence["Examples"]) -> "Examples":
        """Examples that would have been selected from the images of all ranks."""
        merged = cls(parts[0].count)
        for part in parts:
            merged.ranked |= {reason: [] for reason in part.ranked}
        for part in parts:
            for reason, ranked in part.ranked.items():
                for key, name in ranked:
                    merged._rank(reason, key, name)
            merged.kept |= part.kept
        merged._forget()
        return merged

    def gather(self) -> "Examples":
        merged = self.merged(gather_objects(self))
        self.kept, self.ranked = merged.kept, merged.ranked
        return self

    def save(self) -> Saved:
        tensors = {
            f"{i}/{part}": tensor
            for i, example in enumerate(self.kept.values())
            for part, tensor in example._asdict().items()
            if isinstance(tensor, Tensor)
        }
        about = {
            "kept": [[name, example.part] for name, example in self.kept.items()],
            "ranked": {reason: [list(own) for own in ranked] for reason, ranked in self.ranked.items()},
        }
        return Saved(tensors, about)

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        self.ranked = {reason: [(key, name) for key, name in ranked] for reason, ranked in about["ranked"].items()}
        self.kept = {
            name: Example(*(tensors.get(f"{i}/{side}") for side in Example._fields[:-1]), part)
            for i, (name, part) in enumerate(about["kept"])
        }

    def _rank(self, reason: str, key: float | str, name: str) -> bool:
        """Ranks an image among those of a reason; False if it is not kept for it."""
        ranked = self.ranked[reason]
        limit = self.count if reason == DRAWN else max(1, self.count // (len(self.ranked) - 1))
        if len(ranked) == limit and (key, name) > ranked[-1]:
            return False
        insort(ranked, (key, name))
        del ranked[limit:]
        return True

    def _forget(self) -> None:
        needed = {name for ranked in self.ranked.values() for _, name in ranked}
        self.kept = {name: example for name, example in self.kept.items() if name in needed}


def example_of(image: Tensor, reconstruction: Tensor, codes: Tensor | None, keep: Tensor | None) -> Example:
    """Copies of an image, its reconstruction and its codes; of a large image only of the part with the worst error."""
    sides = [min(side, LARGEST_PICTURE) for side in image.shape[1:]]
    if sides == list(image.shape[1:]):
        return Example(*(None if side is None else side.clone() for side in (image, reconstruction, codes, keep)))
    error = (reconstruction.float() - image.float()).abs().mean(0)
    blocks = F.avg_pool2d(error[None, None], BLOCK, ceil_mode=True)[0, 0]
    place = divmod(int(blocks.argmax()), blocks.shape[1])
    starts = [
        min(max(BLOCK * at + BLOCK // 2 - side // 2, 0), full - side)
        for at, side, full in zip(place, sides, image.shape[1:], strict=True)
    ]
    rows, columns = (slice(start, start + side) for start, side in zip(starts, sides, strict=True))
    return Example(image[:, rows, columns].clone(), reconstruction[:, rows, columns].clone(), part=True)


def selected_names(of_tokenizers: Sequence[Examples]) -> tuple[list[str], int]:
    """Names of the images to show, at most ``count``, and the number of them at the front that were drawn.

    Half of them or more are drawn by the hash of their names. The others are the worst and the best of all tokenizers
    by all distances in turn, the most extreme first.
    """
    count = of_tokenizers[0].count
    drawn = [name for _, name in of_tokenizers[0].ranked[DRAWN]]
    kinds = dict.fromkeys(reason for own in of_tokenizers for reason in own.ranked if reason != DRAWN)
    extremes = [own.ranked.get(kind, []) for kind in kinds for own in of_tokenizers]
    in_turn = dict.fromkeys(own[1] for turn in zip_longest(*extremes) for own in turn if own)
    front = (count + 1) // 2
    others = [name for name in in_turn if name not in drawn[:front]][: count - front]
    while front < len(drawn) and len({*drawn[: front + 1], *others}) <= count:
        front += 1
    drawn = drawn[:front]
    return drawn + [name for name in others if name not in drawn], len(drawn)


def reasons(name: str, examples: Examples) -> list[str]:
    """Reasons for which a tokenizer's examples have an image, such as ``worst psnr``, without ``drawn``."""
    return [
        reason
        for reason, ranked in examples.ranked.items()
        if reason != DRAWN and any(own == name for _, own in ranked)
    ]
