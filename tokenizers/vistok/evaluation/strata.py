"""Scores by class, by spatial frequency and by local contrast: of an image's parts, and of parts of the set."""

import math
from array import array
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from vistok.evaluation.config_check import STRATA
from vistok.metrics.contrast_thirds import THIRDS, contrast_errors
from vistok.metrics.frequency_bands import BANDS, band_powers
from vistok.metrics.states import Accumulator, Reduction

HIGHEST = 100.0  # dB of a part without any error, as for psnr


class Strata(Accumulator):
    """Errors of parts of each image, computed for each image alone and thus equal on any number of ranks.

    Args:
        kinds: Names among ``class``, ``frequency`` and ``contrast``.

    Attributes:
        names: Names of the images.
        classes: Class of each image, see ``class_of``; empty if not wanted.
        values: Values of each image, by KIND/QUANTITY/PART.

    Raises:
        ValueError: A kind is unknown.
    """

    names: list[str]
    classes: list[str]
    values: dict[str, array]

    def __init__(self, kinds: Collection[str]):
        super().__init__()
        if unknown := set(kinds) - set(STRATA):
            raise ValueError(f"metrics.strata={sorted(unknown)} must be among {', '.join(STRATA)}")
        self.kinds = tuple(kind for kind in STRATA if kind in kinds)
        keys = [f"frequency/{own}/{i}" for own in ("error", "image", "reconstruction") for i in range(len(BANDS))]
        keys += [f"contrast/{own}/{i}" for own in ("error", "contrast") for i in range(len(THIRDS))]
        self.declare("names", [], Reduction.CONCATENATION)
        self.declare("classes", [], Reduction.CONCATENATION)
        values = {key: array("d") for key in keys if key.partition("/")[0] in self.kinds}
        self.declare("values", values, Reduction.CONCATENATION)

    def update(
        self, names: Sequence[str], reconstruction: Tensor, images: Tensor, labels: Tensor | None = None
    ) -> None:
        """Adds a batch.

        Args:
            names: Names of the images.
            reconstruction: (b, 3, H, W) uint8.
            images: The same shape.
            labels: (b,) class of each image; None takes the folder in its name.
        """
        self.names += names
        if "class" in self.kinds:
            self.classes += map(class_of, names) if labels is None else map(str, labels.tolist())
        for kind, measure in (("frequency", band_powers), ("contrast", contrast_errors)):
            if kind in self.kinds:
                for quantity, values in measure(reconstruction, images)._asdict().items():
                    for i, own in enumerate(values.T.tolist()):
                        self.values[f"{kind}/{quantity}/{i}"].extend(own)

    def gather(self) -> "Strata":
        """Merges the values of all ranks, on every rank, with images sorted by name."""
        super().gather()
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        self.names = [self.names[i] for i in order]
        self.classes = [self.classes[i] for i in order] if self.classes else []
        self.values = {key: array("d", [own[i] for i in order]) for key, own in self.values.items()}
        return self

    def arrays(self) -> dict[str, np.ndarray]:
        """Values of each image: ``class`` (n,), and KIND/QUANTITY (n, parts) float64."""
        found = {"class": np.array(self.classes)} if self.classes else {}
        for key in dict.fromkeys(key.rpartition("/")[0] for key in self.values):
            parts = [own for name, own in self.values.items() if name.rpartition("/")[0] == key]
            found[key] = np.array(parts).T
        return found

    def summary(self, values: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
        """Content of the JSON. Call it after ``gather``.

        Args:
            values: Values of each image by protocol and distance, sorted by the images' names.
        """
        arrays, content = self.arrays(), {}
        if "class" in self.kinds:
            content["class"] = by_class(self.classes, values)
        if "frequency" in self.kinds:
            error, image, own = (arrays[f"frequency/{name}"] for name in ("error", "image", "reconstruction"))
            content["frequency"] = [
                {
                    "from": low,
                    "to": high,
                    "psnr": psnr_of(error[:, i]),
                    "power_ratio_db": ratio_db(own[:, i].sum(), image[:, i].sum()),
                }
                for i, (low, high) in enumerate(BANDS)
            ]
        if "contrast" in self.kinds:
            error, contrast = arrays["contrast/error"], arrays["contrast/contrast"]
            content["contrast"] = [
                {"third": third, "psnr": psnr_of(error[:, i]), "contrast": float(np.nanmean(contrast[:, i]))}
                for i, third in enumerate(THIRDS)
                if not np.isnan(contrast[:, i]).all()
            ]
        return content


def class_of(name: str) -> str:
    """Class of an image: the folder directly above it, in its data set or its shard; empty if there is none."""
    member = name.rpartition(":")[2]
    return member.rpartition("/")[0].rpartition("/")[2]


def by_class(classes: Sequence[str], values: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Any]]:
    """Number of images of each class, and by protocol the mean of each distance over those that have it."""
    known, places = np.unique(np.array(classes), return_inverse=True)
    counts = np.bincount(places, minlength=len(known))
    content: dict[str, dict[str, Any]] = {
        name: {"images": int(n)} for name, n in zip(known.tolist(), counts, strict=True)
    }
    for protocol, distances in values.items():
        for distance, own in distances.items():
            numbers = own.double().numpy()
            has = ~np.isnan(numbers)  # an image that is too small for the distance does not
            having = np.bincount(places[has], minlength=len(known))
            sums = np.bincount(places[has], numbers[has], len(known))
            for name, total, count in zip(content, sums.tolist(), having.tolist(), strict=True):
                if count:
                    content[name].setdefault(protocol, {})[distance] = total / count
    return content


def psnr_of(errors: np.ndarray) -> float:
    """Mean over images of 10 log₁₀(255² / mean squared error) in dB, without images that lack the part."""
    with np.errstate(divide="ignore"):
        values = 20 * math.log10(255) - 10 * np.log10(errors[~np.isnan(errors)])
    return float(values.clip(max=HIGHEST).mean()) if len(values) else math.nan


def ratio_db(power: float, reference: float) -> float | None:
    """10 log₁₀ of the ratio of two sums; None if either is 0."""
    return 10 * math.log10(power / reference) if power > 0 and reference > 0 else None
