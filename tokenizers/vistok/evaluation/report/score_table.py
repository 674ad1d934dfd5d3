"""Table of an evaluation's scores for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from vistok.evaluation.report.labels import without_common_folders
from vistok.metrics.units import INTERVALS, _with_unit, rounded
from vistok.terminal import lines, visible

INTERVAL = "[low, high]: 95 % interval, for other images of the same kind."
SIDE_BY_SIDE = 4  # columns in which intervals stand beside their scores; with more they stand below


def caption_of(report: Mapping[str, Any]) -> str:
    """The images and versions of an evaluation, and the meaning of its intervals."""
    data, versions = report["data"], report["versions"]
    caption = (
        f"{data['images']:,} images{not_scored(data)} of {sizes_of(data)}, SHA-256 {data['sha256_of_images'][:8]}, "
        f"from {data['source']}; {report['dtype']}, vistok {versions['vistok']}, torch {versions['torch']}"
    )
    caption += f". {INTERVAL}" if any(score.get("intervals") for score in report["scores"]) else ""
    caption += "".join(f"\n{name}: {text}" for name, text in report.get("partial", {}).items())
    return caption + "".join(f"\nwarning: {text}" for text in report.get("warnings", ()))


def not_scored(data: Mapping[str, Any]) -> str:
    """Numbers of images and of members of tars that were not scored, in brackets; nothing if there are none."""
    counts = [f"{len(data['unreadable']):,} unreadable"] if data.get("unreadable") else []
    counts += [f"{data['passed_over']:,} members of tars passed over"] if data.get("passed_over") else []
    return f" ({', '.join(counts)})" if counts else ""


def scores_table(report: Mapping[str, Any], caption: str | None = None) -> Table:
    """Table of scores above a caption; None for that of an evaluation.

    With several protocols it has a column for each protocol and a section for each tokenizer; with a single protocol it
    has a column for each tokenizer.
    """
    scores = report["scores"]
    table = Table(caption=Text(lines(caption or caption_of(report))), caption_justify="left")
    single = len(report["protocols"]) == 1
    if single:
        table.add_column("{protocol}\n{hash}".format(**scores[0]), no_wrap=True)
        names = without_common_folders([score["tokenizer"] for score in scores])
        columns, sections = [Text(visible(name)) for name in names], {"": scores}
    else:
        table.add_column("", no_wrap=True)
        columns = [f"{name}\n{protocol['hash']}" for name, protocol in report["protocols"].items()]
        paths = [own["tokenizer"] for own in report["tokenizers"]]
        sections = {path: [score for score in scores if score["tokenizer"] == path] for path in paths}
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    table.add_column("", no_wrap=True)
    for path, section in sections.items():
        if path:
            table.add_section()
            table.add_row(Text(visible(path), "bold"))
        for name in row_names(report, section):
            cells = [cell(report, score, name) for score in section]
            if len(columns) > SIDE_BY_SIDE:
                cells = [(text.replace(" [", "\n["), unit) for text, unit in cells]
            table.add_row(
                name.replace("_", " "), *(text for text, _ in cells), max((unit for _, unit in cells), key=len)
            )
    return table


def row_names(report: Mapping[str, Any], section: Sequence[Mapping[str, Any]]) -> list[str]:
    """Metrics of a section's scores, in order and each once, then those that are unavailable."""
    names = dict.fromkeys([name for score in section for name in score["metrics"]] + list(report["unavailable"]))
    return [name for name in names if name != INTERVALS]


def cell(report: Mapping[str, Any], score: Mapping[str, Any], name: str) -> tuple[str, str]:
    """A score as text with its interval, and its unit; empty where the protocol does not have it."""
    if name in score["metrics"]:
        text, unit = _with_unit(name, score["metrics"][name])
        if limits := score.get("intervals", {}).get(name):
            text += " [{}, {}]".format(*rounded(limits, limits[1] - limits[0]))
        return text, unit
    distances = {own for protocol in report["protocols"].values() for own in protocol["distances"]}
    asked = name not in distances or name in report["protocols"][score["protocol"]]["distances"]
    return ("unavailable" if asked and name in report["unavailable"] else "", "")


def sizes_of(data: dict[str, Any]) -> str:
    """Sizes of the images of a report, as text."""
    square = f"{data['image_size']} px" if data["image_size"] is not None else ""
    native = data.get("native_sizes")
    if not native:
        return square
    (low_h, low_w), (high_h, high_w) = native["smallest"], native["largest"]
    own = f"their own sizes, {low_w}x{low_h}" + (f" to {high_w}x{high_h} px" if native["different"] > 1 else " px")
    return f"{square} and {own}" if square else own
