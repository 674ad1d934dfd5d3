"""Tables by class, frequency, contrast and scale, for a terminal and for the page."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from vistok.images.evaluation_crops import crop_text
from vistok.terminal import visible

MOST = 10  # classes in a table, half of them with the lowest and half with the highest first score


class StrataTable(NamedTuple):
    """One table as text."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables_of(report: Mapping[str, Any]) -> Iterator[StrataTable]:
    """Tables of all tokenizers and crops; none if ``metrics.strata`` is empty and no head has several scales."""
    yield from map(scale_table, report.get("scales", ()))
    for own in report.get("strata", ()):
        of = f"{own['tokenizer']}, {crop_text(own['crop'])}"
        if bands := own.get("frequency"):
            rows = [(frequencies(band), f"{band['psnr']:.2f}", decibels(band["power_ratio_db"])) for band in bands]
            head = ("cycles per pixel", "PSNR, dB", "power of reconstructions over images, dB")
            yield StrataTable(f"By spatial frequency: {of}", head, tuple(rows))
        if thirds := own.get("contrast"):
            rows = [(third["third"], f"{third['psnr']:.2f}", f"{third['contrast']:.1f}") for third in thirds]
            head = ("contrast of blocks", "PSNR, dB", "mean contrast, levels")
            yield StrataTable(f"By local contrast: {of}", head, tuple(rows))
        if classes := own.get("class"):
            yield from class_tables(of, classes)


def scale_table(own: Mapping[str, Any]) -> StrataTable:
    """Usage of the codebooks at each scale of a multi-scale head."""
    names = [name for name in own["scales"][0] if name != "grid"]
    rows = [
        (
            "x".join(map(str, scale["grid"])),
            *(f"{scale[name]:,.0f}" if name == "tokens" else f"{scale[name]:.4g}" for name in names),
        )
        for scale in own["scales"]
    ]
    head = ("scale", *(name.replace("_", " ") for name in names))
    return StrataTable(f"By scale: {own['tokenizer']}, {own['crop']} crops", head, tuple(rows))


def class_tables(of: str, classes: Mapping[str, Mapping[str, Any]]) -> Iterator[StrataTable]:
    """One table for each protocol; of many classes only the lowest and the highest by the first score."""
    protocols = dict.fromkeys(name for scores in classes.values() for name in scores if name != "images")
    for protocol in protocols:
        having = {name: scores[protocol] for name, scores in classes.items() if scores.get(protocol)}
        distances = list(dict.fromkeys(own for scores in having.values() for own in scores))
        if not distances:
            continue
        names = sorted(having, key=lambda name: (having[name].get(distances[0], math.inf), name))
        about = ""
        if len(names) > MOST:
            about = f", {MOST // 2} lowest and {MOST // 2} highest of {len(names):,} by {distances[0]}"
            names = names[: MOST // 2] + names[-(MOST // 2) :]
        rows = [
            (name or "no folder", f"{classes[name]['images']:,}", *(number(having[name].get(own)) for own in distances))
            for name in names
        ]
        head = ("class", "images", *(own.replace("_", " ") for own in distances))
        yield StrataTable(f"By class: {of}, {protocol}{about}", head, tuple(rows))


def number(value: float | None) -> str:
    """A mean; a dash for a class whose images are all too small for the distance."""
    return "–" if value is None else f"{value:.4g}"


def frequencies(band: Mapping[str, float]) -> str:
    """Range of a band, in fractions of a cycle per pixel."""
    low, high = (0 if not own else f"1/{round(1 / own)}" for own in (band["from"], band["to"]))
    return f"{low} to {high}" if band["to"] < 1 else f"from {low}"


def decibels(value: float | None) -> str:
    """A ratio with its sign; a dash where there is none."""
    return "–" if value is None else f"{value:+.2f}"


def terminal_tables(report: Mapping[str, Any]) -> Sequence[Table]:
    """The tables for ``rich``."""
    found = []
    for own in tables_of(report):
        table = Table(title=Text(visible(own.title)), title_justify="left")
        for i, name in enumerate(own.head):
            table.add_column(Text(visible(name)), justify="right" if i else "left")
        for row in own.rows:
            table.add_row(*(Text(visible(cell)) for cell in row))
        found.append(table)
    return found


def strata_section(report: Mapping[str, Any]) -> str:
    """The tables as a section of the page; empty if there are none."""
    parts = []
    for own in tables_of(report):
        head = "".join(f"<th>{escape(name)}</th>" for name in own.head)
        rows = "".join(
            f"<tr><th>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>"
            for row in own.rows
        )
        parts.append(
            f'<h3>{escape(own.title)}</h3><div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )
    return f"<h2>Parts of images, and of the set</h2>{''.join(parts)}\n" if parts else ""
