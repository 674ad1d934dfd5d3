"""Example images of a report with their reconstructions, errors, codes and values.

Without scripts the page shows all pictures and values one after the other. ``examples.js`` makes a slider of them, and
searches and sorts.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import torch.nn.functional as F
from matplotlib import colormaps
from torch import Tensor

from vistok.evaluation.accumulator import Scores
from vistok.evaluation.examples import Example, reasons, selected_names
from vistok.evaluation.report import charts as report_charts
from vistok.evaluation.report.example_controls import controls
from vistok.evaluation.report.example_tables import caption
from vistok.evaluation.report.example_values import content, values_of
from vistok.evaluation.report.labels import distinct
from vistok.evaluation.report.thumbnails import SMALL, fitted
from vistok.evaluation.report.token_data import token_data
from vistok.files import encodable, json_text
from vistok.images.evaluation_crops import crop_text

ERROR_RANGE = 64  # levels: the error map's brightest colour
ERRORS = (colormaps["magma"](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)
ROOM = 27_000_000  # bytes of all examples: with the other sections the page has at most 30 MB


def examples(labels: Sequence[str], report: Mapping[str, Any], results: Sequence[Mapping[str, Scores]]) -> str:
    """Images of the first protocol's crop with all tokenizers side by side, and controls to search, sort and compare.

    Args:
        labels: Tokenizers.
        report: Content of the JSON.
        results: Scores of each tokenizer by preparation.
    """
    preparation = next(iter(report["protocols"].values()))["preparation"]
    selected = [scores[preparation] for scores in results]
    if any(scores.examples is None for scores in selected):
        return ""
    names, drawn = selected_names([scores.examples for scores in selected])
    labels = distinct(labels) if len(labels) > 1 else ["reconstruction"]
    values = values_of(names, report["protocols"], results)
    room, tokens, captions = ROOM / len(names), [], []
    for i, name in enumerate(names):
        own = [scores.examples.kept.get(name) for scores in selected]
        parts = zip(selected, own, strict=True)
        tokens.append([example and token_data(scores, example, room / 4 / len(own)) for scores, example in parts])
        why = {label: reasons(name, scores.examples) for label, scores in zip(labels, selected, strict=True)}
        captions.append(caption(name, why, i < drawn, values, i))
    block = script_data({"labels": labels, "names": names, "drawn": drawn, **content(values), "tokens": tokens})
    room = (ROOM - sum(map(length, [block, *captions]))) / len(names)
    figures = []
    for i, name in enumerate(names):
        of_image = [scores.examples.kept.get(name) for scores in selected]
        first = next(own for own in of_image if own)
        of_image = [own if own is first or not first.part else None for own in of_image]  # parts are of other places
        having = [label if own else "" for label, own in zip(labels, of_image, strict=True)]
        own = [example for example in of_image if example]
        errors = [error_of(example) for example in own]
        pictures = [pixels_of(own[0].image), *(pixels_of(example.reconstruction) for example in own)]
        pictures += map(error_colours, errors)
        size, window = own[0].image.shape[1:], worst_window(sum(errors))
        bare = stage(name, having, size, window, [""] * len(pictures))
        pictured = stage(name, having, size, window, fitted(pictures, room - length(bare)))
        figures.append(f'<figure class="example" data-index="{i}">{pictured}{captions[i]}</figure>\n')
    sentences = (
        f"{selection(len(names), drawn, values.images)} {escape(crop_text(preparation))}. "
        f"↑ higher is better, ↓ lower is better. Pictures above {SMALL} px are compressed here (WebP); "
        "values and errors are of the images themselves."
    )
    return (
        f'<h2 id="examples">Images and reconstructions</h2><p>{sentences}</p>'
        f"{controls(labels, values, tokens)}{keys()}"
        f'<div class="examples {"single" if len(labels) == 1 else "several"}">{"".join(figures)}</div>'
        f'<script type="application/json" id="example-data">{block}</script>\n'
    )


def selection(selected: int, drawn: int, total: int) -> str:
    if selected == total:
        return f"All {total:,} images."
    return (
        f"{selected:,} of {total:,} images: {drawn:,} are drawn by a hash of their names, the others are the worst and "
        "the best by each metric."
    )


def keys() -> str:
    """Meaning of the colours of each map; without scripts only errors are shown."""
    ramp = report_charts.ramp(ERRORS[::4], ("no error", f"{ERROR_RANGE} of 255 levels or more"))
    return (
        f'<div class="key" data-over="errors"><p>Mean absolute difference of the channels.</p>{ramp}</div>'
        '<div class="key" data-over="codes" hidden><p>A colour for each code. Point at a square for the '
        "number of its code.</p></div>"
        '<div class="key" data-over="granularity" hidden><p>Cells of one code: yellow for the smallest, blue for the '
        "largest.</p></div>"
    )


def script_data(data: Mapping[str, Any]) -> str:
    """JSON that is safe within a script element: no markup can begin in it."""
    text = json_text(data, indent=None)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def stage(
    name: str, labels: Sequence[str], size: tuple[int, int], window: tuple[int, int, int], uris: Sequence[str]
) -> str:
    """An image and its reconstructions with their errors.

    Args:
        name: Name of the image.
        labels: Tokenizers; empty for those without the image.
        size: Height and width of the image.
        window: Top, left and side of the square with the greatest error.
        uris: Data URIs of the image, the reconstructions and their errors.
    """
    (height, width), (top, left, side) = size, window
    x, y = (100 * (at + side / 2) / length for at, length in ((left, width), (top, height)))
    pixels = " pixels" if max(height, width) <= SMALL else ""

    def img(uri: str, label: str, kind: str = "picture") -> str:
        text = escape(f"{label}: {name}")
        size = f'width="{width}" height="{height}"'
        return f'<img class="{kind}{pixels}" src="{uri}" {size} alt="{text}" decoding="async">'

    def panel(number: int, label: str, content: str) -> str:
        text = escape(label)
        return (
            f'<div class="panel" data-panel="{number}"><div class="frame">{content}</div>'
            f'<span title="{text}">{text}</span></div>'
        )

    rendered = [panel(0, "image", img(uris[0], "image"))]
    having = [(number, label) for number, label in enumerate(labels, 1) if label]
    pairs = zip(uris[1 : 1 + len(having)], uris[1 + len(having) :], strict=True)
    for (number, label), (reconstruction, error) in zip(having, pairs, strict=True):
        content = img(reconstruction, label) + img(error, f"error of {label}", "error")
        rendered.append(panel(number, label, content))
    return f'<div class="stage" data-x="{x:.1f}" data-y="{y:.1f}"><div class="panels">{"".join(rendered)}</div></div>'


def length(text: str) -> int:
    """Number of bytes of a text on the page."""
    return len(encodable(text).encode())


def error_of(example: Example) -> Tensor:
    """Mean absolute difference of the channels in levels, (H, W)."""
    return (example.reconstruction.float() - example.image.float()).abs().mean(0)


def error_colours(error: Tensor) -> np.ndarray:
    """Colours of an error map (H, W) in levels, at half its size where it is large."""
    if max(error.shape) > SMALL and min(error.shape) > 1:
        error = F.avg_pool2d(error[None, None], 2)[0, 0]
    return ERRORS[(error * (255 / ERROR_RANGE)).clamp(max=255).round().byte().numpy()]


def pixels_of(image: Tensor) -> np.ndarray:
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def worst_window(error: Tensor) -> tuple[int, int, int]:
    """Square with the greatest error (H, W), a quarter of the shorter side: its top, left and side."""
    side = max(min(error.shape) // 4, min(12, *error.shape))
    stride = max(side // 4, 1)
    means = F.avg_pool2d(error[None, None], side, stride)[0, 0]
    at = int(means.argmax())
    return at // means.shape[1] * stride, at % means.shape[1] * stride, side
