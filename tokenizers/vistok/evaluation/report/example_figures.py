"""Example images of a report with their reconstructions and error maps."""

from collections.abc import Sequence
from html import escape

import numpy as np
import torch.nn.functional as F
from matplotlib import colormaps
from torch import Tensor

from vistok.evaluation.accumulator import Scores
from vistok.evaluation.examples import BEST, DRAWN, WORST, Example
from vistok.evaluation.report import charts as report_charts
from vistok.evaluation.report.labels import distinct

ERROR_RANGE = 64  # levels: the error map's brightest colour
ERRORS = (colormaps["magma"](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)


def examples(labels: Sequence[str], selected: Sequence[Scores], crop: str) -> str:
    """Images selected by a hash of their names with all tokenizers side by side, then the worst and best of each."""
    distance = selected[0].example_distance
    names = distinct(labels)
    by_name = [{own.name: own for own in scores.examples.chosen[DRAWN]} for scores in selected]
    drawn = [
        figure(f"e{i}", name, [(label, own[name]) for label, own in zip(names, by_name, strict=True)], distance)
        for i, name in enumerate(own.name for own in selected[0].examples.chosen[DRAWN])
    ]
    layout = "figures" if len(names) == 1 else "comparisons"
    parts = [
        f"<h2>Reconstructions</h2><p>{escape(crop)} crops of images drawn by a hash of their names. Below each picture "
        f"is an enlarged view of the framed square, where the error is greatest. Error maps show the mean absolute "
        f"difference of the channels; pictures above {report_charts.SMALL} px are JPEG here, numbers are of the images "
        f"themselves.</p>"
        f'{error_ramp()}<div class="{layout}">{"".join(drawn)}</div>\n'
    ]
    for kind, heading in ((WORST, "Worst images"), (BEST, "Best images")):
        parts.append(f"<h2>{heading}</h2><p>By {escape(distance)} of 8-bit images.</p>")
        for i, (label, scores) in enumerate(zip(labels, selected, strict=True)):
            figures = [
                figure(f"{kind}{i}-{j}", own.name, [("reconstruction", own)], distance)
                for j, own in enumerate(scores.examples.chosen[kind])
            ]
            heading = f"<h3>{escape(label)}</h3>" if len(labels) > 1 else ""
            parts.append(f'{heading}<div class="figures">{"".join(figures)}</div>\n')
    return "".join(parts)


def error_ramp() -> str:
    stops = ", ".join(f"rgb({r},{g},{b})" for r, g, b in ERRORS[::32].tolist() + ERRORS[-1:].tolist())
    return (
        f'<div style="max-width:320px;margin-bottom:12px"><div class="ramp" style="background:linear-gradient(90deg,'
        f'{stops})"></div><div class="ends"><span>no error</span><span>{ERROR_RANGE} of 255 levels or more</span>'
        "</div></div>"
    )


def figure(key: str, name: str, reconstructions: Sequence[tuple[str, Example]], distance: str) -> str:
    """An image, its reconstructions and their errors, each with an enlarged square.

    Args:
        key: Prefix of the ids in the page.
        name: Name of the image.
        reconstructions: Labels and examples, one for each tokenizer.
        distance: Name of the examples' distance.
    """
    image = reconstructions[0][1].image
    errors = [(own.reconstruction.float() - own.image.float()).abs().mean(0) for _, own in reconstructions]  # (H, W)
    window = worst_window(sum(errors))
    panels = [("image", report_charts.picture(pixels_of(image)))]
    for (label, own), error in zip(reconstructions, errors, strict=True):
        indices = (error * (255 / ERROR_RANGE)).clamp(max=255).round().byte().numpy()
        panels.append(
            (
                label if len(reconstructions) > 1 else "reconstruction",
                report_charts.picture(pixels_of(own.reconstruction)),
            )
        )
        panels.append(("error", report_charts.palette_picture(indices, ERRORS)))
    height, width = image.shape[1:]
    rendered = "".join(
        panel(f"{key}-{i}", label, uri, width, height, window, name) for i, (label, uri) in enumerate(panels)
    )
    values = ", ".join(f"{own.distance:.3f}" for _, own in reconstructions)
    caption = f"<figcaption><b>{escape(name)}</b> · {escape(distance)} {values}</figcaption>"
    return f'<figure>{caption}<div class="panels" style="--columns:{len(panels)}">{rendered}</div></figure>'


def panel(key: str, label: str, uri: str, width: int, height: int, window: tuple[int, int, int], name: str) -> str:
    """A picture with the framed square, and the square enlarged. The page contains the pixels once."""
    top, left, side = window
    square = f'x="{left}" y="{top}" width="{side}" height="{side}"'
    return (
        f'<div><span title="{escape(label)}">{escape(label)}</span>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(f"{label}: {name}")}">'
        f'<image id="{key}" width="{width}" height="{height}" href="{uri}"{pixelated(width)}/>'
        f'<rect class="window under" {square}/><rect class="window" {square}/></svg>'
        f'<svg class="zoom" viewBox="{left} {top} {side} {side}" aria-hidden="true"><use href="#{key}"/></svg></div>'
    )


def pixelated(width: int) -> str:
    return ' style="image-rendering:pixelated"' if width <= report_charts.SMALL else ""


def pixels_of(image: Tensor) -> np.ndarray:
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def worst_window(error: Tensor) -> tuple[int, int, int]:
    """Square with the greatest error (H, W), a quarter of the shorter side: its top, left and side."""
    side = max(min(error.shape) // 4, min(12, *error.shape))
    stride = max(side // 4, 1)
    means = F.avg_pool2d(error[None, None], side, stride)[0, 0]
    at = int(means.argmax())
    return at // means.shape[1] * stride, at % means.shape[1] * stride, side
