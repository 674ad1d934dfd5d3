"""Controls above the example images of a report: search, order, comparison and maps.

They are hidden until ``examples.js`` runs.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from vistok.evaluation.report.example_values import Values
from vistok.evaluation.report.labels import with_direction


def controls(labels: Sequence[str], values: Values, tokens: Sequence[Sequence[dict[str, Any] | None]]) -> str:
    """Controls as HTML.

    Args:
        labels: Tokenizers.
        values: Values of the images.
        tokens: Codes of each image by each tokenizer, as ``token_data`` returns them.
    """
    having = [own for of_image in tokens for own in of_image if own]
    sides = list(enumerate(["image", *labels], 0))
    several = len(labels) > 1
    over = [("none", "nothing"), ("errors", "errors")]
    over += [("codes", "codes")] * bool(having)
    over += [("granularity", "granularity")] * any(own["keep"] for own in having)
    find = [
        '<label>Search by name<input type="search" id="search" autocomplete="off" spellcheck="false"></label>',
        select("show", "Show", [("all", "all"), ("drawn", "drawn by hash")]),
    ]
    if values.columns:
        orders = [("none", "drawn by hash"), ("name", "name")]
        orders += [("worst", "worst first"), ("median", "nearest the median first"), ("best", "best first")]
        find += [select("order", "Order", orders), metrics(values)]
        if several:
            find.append(select("of", "Of", [*enumerate(labels), ("difference", "right minus left")]))
    else:
        find.append(select("order", "Order", [("none", "drawn by hash"), ("name", "name")]))
    look = [select("view", "View", [("slider", "slider"), ("panels", "side by side")])]
    if several:
        look += [select("left", "Left", sides), select("right", "Right", sides[1:])]
    look.append(select("over", "Map over it", over))
    codebooks, scales = (
        max((of(own) for own in having), default=1)
        for of in (lambda own: own["codebooks"], lambda own: len(own["grids"]))
    )
    if codebooks > 1:
        look.append(select("codebook", "Codebook", [(i, i + 1) for i in range(codebooks)]))
    if scales > 1:
        look.append(select("scale", "Scale", [(i, i + 1) for i in range(scales)]))
    look.append('<label class="check"><input type="checkbox" id="zoom">Zoom to the greatest error</label>')
    return (
        "<noscript><p>Search, order, sliders and maps of codes need scripts, which are off.</p></noscript>"
        f'<div class="controls" hidden><div role="search">{"".join(find)}'
        '<output id="count" for="search show"></output></div>'
        f'<div role="group" aria-label="Comparison">{"".join(look)}</div>'
        "</div>"
    )


def select(name: str, label: str, options: Iterable[tuple[Any, Any]]) -> str:
    rendered = "".join(f'<option value="{value}">{escape(str(text))}</option>' for value, text in options)
    return f'<label>{label}<select id="{name}">{rendered}</select></label>'


def metrics(values: Values) -> str:
    """Choice of a metric, grouped by protocol."""
    groups: dict[str, str] = {}
    for c, (protocol, metric) in enumerate(values.columns):
        option = f'<option value="{c}">{escape(with_direction(metric))}</option>'
        groups[protocol] = groups.get(protocol, "") + option
    rendered = "".join(f'<optgroup label="{escape(protocol)}">{own}</optgroup>' for protocol, own in groups.items())
    return f'<label>Metric<select id="by">{rendered}</select></label>'
