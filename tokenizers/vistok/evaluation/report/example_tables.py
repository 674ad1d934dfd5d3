"""Names and values beneath the example images of a report."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from vistok.evaluation.report.example_values import Values
from vistok.evaluation.report.labels import arrow
from vistok.metrics.units import _with_unit, better


def caption(name: str, why: Mapping[str, Sequence[str]], drawn: bool, values: Values, i: int) -> str:
    """Name of the i-th image with its values: those of the first protocol, and folded those of the others.

    Args:
        name: Name of the image.
        why: For each tokenizer the reasons for which it has the image, such as ``worst psnr``.
        drawn: True if it was drawn by the hash of its name.
        values: Values of all images of the page.
        i: Index of the image.
    """
    labels = list(why)
    of: dict[str, list[str]] = {}
    for label, own in why.items():
        for reason in own:
            of.setdefault(reason.replace("_", " "), []).append(label)
    texts = ["drawn by hash"] if drawn else []
    texts += [reason if own == labels else f"{reason} of {', '.join(own)}" for reason, own in of.items()]
    parts = [
        f"<figcaption><b>{escape(name)}</b><small>{escape('; '.join(texts))}</small></figcaption>"
        '<p class="rank" hidden></p>'
    ]
    first, *others = dict.fromkeys(protocol for protocol, _ in values.columns) or [""]
    parts.append(table(first, labels, values, i))
    if others:
        tables = "".join(f"<p>{escape(own)}</p>{table(own, labels, values, i)}" for own in others)
        parts.append(f"<details><summary>Other protocols</summary>{tables}</details>")
    return "".join(parts)


def table(protocol: str, labels: Sequence[str], values: Values, i: int) -> str:
    """Values of the i-th image under a protocol: a row for each metric, a column for each tokenizer."""
    rows = []
    for c, (own, metric) in enumerate(values.columns):
        if own != protocol:
            continue
        of_image = values.values[:, c, i].tolist()
        texts = ["–" if np.isnan(value) else _with_unit(metric, value)[0] for value in of_image]
        unit = _with_unit(metric, 0.5)[1]
        best = {"higher": max, "lower": min}.get(better(metric))
        first = best(of_image) if best and len(of_image) > 1 else None
        cells = [
            f'<td class="best">{text}</td>' if value == first else f"<td>{text}</td>"
            for value, text in zip(of_image, texts, strict=True)
        ]
        unit = f" <small>{unit}</small>" if unit else ""
        sign = f"\u00a0{arrow(metric)}" if arrow(metric) else ""
        name = f"{escape(metric.replace('_', ' '))}{sign}{unit}"
        rows.append(f'<tr data-column="{c}"><th scope="row">{name}</th>{"".join(cells)}</tr>')
    heads = "".join(f'<th scope="col" title="{escape(label)}">{escape(label)}</th>' for label in labels)
    head = f"<thead><tr><th></th>{heads}</tr></thead>" if len(labels) > 1 else ""
    return f'<div class="wide"><table class="values">{head}<tbody>{"".join(rows)}</tbody></table></div>' if rows else ""
