"""Differences between tokenizers in words, for a terminal and an HTML page."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from rich.console import Console

from vistok.evaluation.intervals import FEWEST
from vistok.evaluation.report.labels import distinct
from vistok.evaluation.report.score_table import INTERVAL
from vistok.metrics.units import _with_unit, rounded
from vistok.terminal import say

MARKS = {"better": "▲", "worse": "▼", "not separated": "="}
COLOURS = {"better": "green", "worse": "red", "not separated": ""}  # of a terminal
ABOUT = (
    "95 % intervals: of a mean over images by a paired bootstrap, of a score of the whole set by a jackknife over ten "
    "groups of images. An interval says what other images of the same kind would change, not another training run. "
    "Each is for one comparison: where two tokenizers are equally good, one in twenty comparisons still finds a "
    "difference."
)
NONE = f"no interval of a difference: fewer than {FEWEST} images have a value of any metric"


class Comparison(NamedTuple):
    """Sentences about one tokenizer against another under one protocol."""

    heading: str
    sentences: Sequence[tuple[str, str]]  # verdict and text


def comparisons(report: Mapping[str, Any]) -> Iterator[Comparison]:
    """Every pair of a report's ``differences``, in its order."""
    paths = [own["tokenizer"] for own in report["tokenizers"]]
    names = dict(zip(paths, distinct(paths), strict=True))
    for pair in report.get("differences", []):
        one, other = names[pair["tokenizer"]], names[pair["against"]]
        yield Comparison(
            f"{one} against {other}, {pair['protocol']} {pair['hash']}",
            [(own["verdict"], sentence(name, one, other, own)) for name, own in pair["metrics"].items()],
        )


def sentence(name: str, one: str, other: str, difference: Mapping[str, Any]) -> str:
    """One difference in words.

    Args:
        name: Name of the metric.
        one: Name of the tokenizer.
        other: Name of the tokenizer that it is compared with.
        difference: Description with ``difference``, ``interval`` and ``verdict``.
    """
    value, (low, high) = difference["difference"], difference["interval"]
    unit = f" {unit}" if (unit := _with_unit(name, value)[1]) else ""
    metric = name.replace("_", " ")
    if difference["verdict"] == "not separated":
        value, low, high = rounded((value, low, high), high - low)
        return (
            f"{metric}: the data do not separate {one} from {other} (difference {value}{unit}, 95 % interval {low} to "
            f"{high})"
        )
    direction, sign = ("higher", 1) if value > 0 else ("lower", -1)
    low, high = sorted((sign * low, sign * high))
    size, low, high = rounded((abs(value), low, high), high - low)
    return (
        f"{metric}: {one} is {direction} than {other} by {size}{unit} (95 % interval {low} to {high}), which is "
        f"{difference['verdict']}"
    )


def say_all(report: Mapping[str, Any], console: Console) -> None:
    """Prints all differences, and the tokenizers that have none."""
    pairs = list(comparisons(report))
    for heading, sentences in pairs:
        say(f"{heading}:{'' if sentences else f' {NONE}'}", "bold", console=console)
        for verdict, text in sentences:
            say(f"  {MARKS[verdict]} {text}", COLOURS[verdict], console=console)
    for text in not_compared(report):
        say(text, "yellow", console=console)
    if any(sentences for _, sentences in pairs):
        say(ABOUT, console=console)


def section(report: Mapping[str, Any]) -> str:
    """HTML of all differences; empty without any."""
    parts, pairs = [], list(comparisons(report))
    for heading, sentences in pairs:
        items = "".join(f"<li>{MARKS[verdict]} {escape(text)}</li>" for verdict, text in sentences)
        parts.append(f'<h3>{escape(heading)}</h3><ul class="verdicts">{items or f"<li>{NONE}</li>"}</ul>')
    about = [ABOUT] if any(sentences for _, sentences in pairs) else []
    parts += [f"<p>{escape(text)}</p>" for text in not_compared(report) + about]
    return f"<h2>Differences</h2>{''.join(parts)}\n" if parts else ""


def not_compared(report: Mapping[str, Any]) -> list[str]:
    """Sentences about tokenizers of a comparison that have no differences, with the reason."""
    return [f"{label} is not compared: {reason}" for label, reason in report.get("not_compared", {}).items()]


def caption_of(comparison: Mapping[str, Any]) -> str:
    """The images of a comparison's tokenizers, and the meaning of its intervals, if it has any."""
    sets: dict[str, list[str]] = {}
    for own in comparison["tokenizers"]:
        side = own.get("image_size")  # None for images of native size
        about = f"{own['images']:,} images of {f'{side} px' if side is not None else 'their own sizes'}"
        hashes = [own[key] for key in sorted(own) if key.startswith("sha256_of")]
        sets.setdefault(f"{about}, SHA-256 {hashes[0][:8]}" if hashes else about, []).append(own["tokenizer"])
    parts = [about if len(sets) == 1 else f"{', '.join(names)}: {about}" for about, names in sets.items()]
    return f"{'; '.join(parts)}." + (
        f" {INTERVAL}" if any(own.get("intervals") for own in comparison["scores"]) else ""
    )
