"""Frequencies of codes in a report, by rank and as maps of codebooks."""

from collections.abc import Sequence
from html import escape

import numpy as np
import torch
from matplotlib import colormaps

from vistok.evaluation.accumulator import Scores
from vistok.evaluation.report import charts as report_charts
from vistok.evaluation.report.labels import distinct
from vistok.evaluation.report.thumbnails import palette_picture
from vistok.metrics.usage import usage_of

DEAD = (228, 87, 46)
COUNTS = np.vstack([[DEAD], (colormaps["Blues"](np.linspace(0.25, 1, 255))[:, :3] * 255).round()]).astype(np.uint8)
MOST_CODEBOOKS = 8  # drawn codebooks; the table has the numbers of all


def codes(labels: Sequence[str], selected: Sequence[Scores]) -> str:
    """Frequencies of codewords: by rank, and a map of those never chosen; empty text if there are no codes."""
    series = []
    for label, scores in zip(distinct(labels), selected, strict=True):
        if scores.usage is None:
            continue
        counts = [own.cpu().numpy() for own in scores.usage.counts]
        for part, own in list(zip(scores.usage.parts, counts, strict=True))[:MOST_CODEBOOKS]:
            series.append((", ".join(name for name in (label if len(labels) > 1 else "", part.name) if name), own))
    if not series:
        return ""
    ranks = report_charts.rank_chart(series)
    key = report_charts.legend([(name, i, 1) for i, (name, _) in enumerate(series)]) if len(series) > 1 else ""
    maps = "".join(f"<figure>{dead_map(name, counts)}</figure>" for name, counts in series)
    ramp = report_charts.ramp(COUNTS[1::8], ("never", "once → most often, logarithmic"), DEAD)
    return (
        "<h2>Codes</h2><p>How often codewords were chosen: by rank, and in a square for each codeword, row by row in "
        f'the order of its number.</p>{ramp}<div class="charts"><figure><figcaption><b>Frequencies by rank</b>'
        f"</figcaption>{key}{ranks}</figure>{maps}</div>\n"
    )


def dead_map(name: str, counts: np.ndarray) -> str:
    """Map with a square for each codeword (n,); dead codewords have their own colour."""
    columns = int(np.ceil(np.sqrt(len(counts))))
    rows = -(-len(counts) // columns)
    logs = np.log(np.maximum(counts, 1))
    scaled = np.where(counts > 0, 1 + np.round(254 * logs / max(logs.max(), 1e-9)), 0).astype(np.uint8)
    indices = np.concatenate([scaled, np.zeros(rows * columns - len(counts), np.uint8)]).reshape(rows, columns)
    uri = palette_picture(indices, COUNTS)
    filler = rows * columns - len(counts)
    use = usage_of(torch.from_numpy(counts))
    dead = int((counts == 0).sum())
    text = (
        f"{dead:,} of {len(counts):,} codewords never chosen by {int(counts.sum()):,} tokens; "
        f"uniform choices would leave {len(counts) * (1 - use['usage_ceiling'].item()):,.0f}"
    )
    title = f"<b>{escape(name)}</b> · " if name else ""
    note = f"; the last {filler} squares are no codewords" if filler else ""
    return (
        f"<figcaption>{title}{text}{note}</figcaption>"
        f'<img class="map" src="{uri}" width="{columns}" height="{rows}" alt="{escape(f"{name} {text}".strip())}">'
    )
