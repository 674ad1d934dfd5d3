"""Range of the values in image files: that of their type, given by the user, or measured on the training images."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vistok.images.bands import full_range
from vistok.images.rgb import UnreadableImage
from vistok.images.values import FileValues

MEASURED = 200  # images, spread evenly over the training set
PERCENTILES = (0.1, 99.9)
FIRST = 8  # images that tell whether a warning is due
PER_IMAGE = 2**16  # values of an image that are measured
ReadValues = Callable[[Any], FileValues]
MOSTLY_UNUSED = 1 / 8  # share of the range of 16-bit images below which a note is worth while


class ValueRange(NamedTuple):
    """Values that become -1 and 1; None for those of the files' type."""

    low_high: tuple[float, float] | None
    note: str = ""  # sentence about a measured range, or about one that is mostly unused

    @classmethod
    def of(cls, values: Sequence[Any]) -> "ValueRange":
        """Range of its fields, as JSON has them."""
        low_high, note = values
        return cls(low_high and (low_high[0], low_high[1]), note)


def asked_range(value: Any) -> tuple[float, float] | str | None:
    """The user's ``data.range``: ``auto``, two numbers, or None for ``dtype``.

    Raises:
        ValueError: It is something else.
    """
    if value in (None, "dtype"):
        return None
    if value == "auto":
        return "auto"
    numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if len(numbers) != 2 or not all(type(v) in (int, float) and np.isfinite(v) for v in numbers):
        raise ValueError(f"data.range must be dtype, auto or [LOW, HIGH], not {value!r}")
    if not numbers[0] < numbers[1]:
        raise ValueError(f"data.range={numbers}: the first number must be smaller than the second")
    return float(numbers[0]), float(numbers[1])


def value_range(
    asked: tuple[float, float] | str, files: Sequence[Any], read: Callable[[Any], FileValues]
) -> ValueRange:
    """Range of the values in files.

    Args:
        asked: Result of ``asked_range``.
        files: Training images.
        read: Reads the values of an image.

    Raises:
        ValueError: No image can be read, or all values are equal.
    """
    if isinstance(asked, tuple):
        return ValueRange(asked)
    chosen = [files[i * len(files) // MEASURED] for i in range(MEASURED)] if len(files) > MEASURED else files
    parts, count, problem = [], 0, "there are none"
    for file in chosen:
        try:
            values = read(file)
        except UnreadableImage as error:
            problem = f"{file}: {error}"
            continue
        levels = values.levels[..., :-1] if values.has_opacity else values.levels
        flat = levels.reshape(-1)
        parts.append(flat[:: max(1, len(flat) // PER_IMAGE)].astype(np.float64))
        count += 1
    if not parts:
        raise ValueError(f"data.range=auto: no image can be read; {problem}")
    low, high = np.percentile(np.concatenate(parts), PERCENTILES).tolist()
    if not low < high:
        raise ValueError(f"data.range=auto: all values of {count} images are {low:g}")
    text = f"data.range=auto is [{low:g}, {high:g}]: {PERCENTILES[0]:g} % of the values of {count} images are below it"
    return ValueRange((low, high), f"{text}, as many above")


def unused_note(files: Sequence[Any], read: ReadValues) -> str:
    """Sentence about 16-bit images that use a small part of their range, by the first files; empty if they do not."""
    largest = 0.0
    for file in files[:FIRST]:
        try:
            values = read(file)
        except UnreadableImage:
            continue
        if values.levels.dtype != np.uint16 or values.window:
            return ""
        largest = max(largest, float(values.levels.max()))
    share = largest / full_range(np.dtype(np.uint16))[1]
    if not 0 < share < MOSTLY_UNUSED:
        return ""
    return (
        f"warning: the first images are 16-bit and use {share:.0%} of their range, values up to {largest:,.0f}: they "
        f"will be nearly black. data.range=auto or data.range=[0, {largest:.0f}] makes {largest:,.0f} white"
    )
