"""``OUTPUT.html``: the HTML page of an evaluation, one file without links to other files or hosts.

All text passes through ``html.escape``. The page's content policy refuses scripts and external content.
"""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from torch import Tensor

from vistok.evaluation.accumulator import BASELINE, Scores
from vistok.evaluation.examples import BEST, DRAWN, WORST, Example
from vistok.evaluation.report import charts as report_charts
from vistok.evaluation.report import score_table
from vistok.files import json_text
from vistok.metrics.distances import DISTANCES
from vistok.metrics.usage import usage_of

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
ERROR_RANGE = 64  # levels: the error map's brightest colour
ERRORS = (colormaps["magma"](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)
DEAD = (228, 87, 46)
COUNTS = np.vstack([[DEAD], (colormaps["Blues"](np.linspace(0.25, 1, 255))[:, :3] * 255).round()]).astype(np.uint8)
MOST_CODEBOOKS = 8  # drawn codebooks; the table has the numbers of all
GROUPS = ("Each image, mean", "All images", "Codes", "Rate")


def page(report: Mapping[str, Any], results: Sequence[Mapping[str, Scores]]) -> str:
    """The report as HTML.

    Args:
        report: Content of the JSON.
        results: Scores of each tokenizer by crop, after ``gather``.
    """
    labels = [own["tokenizer"] for own in report["tokenizers"]]
    first = next(iter(report["protocols"].values()))
    selected = [scores[first["crop"]] for scores in results]  # images and codes of the first protocol's crop
    title = f"{', '.join(labels)} on {report['data']['source']}"
    sections = [
        summary(report),
        rate_distortion(report) if len(report["scores"]) > 1 else "",
        examples(labels, selected, first["crop"]),
        codes(labels, selected),
        distributions(labels, report, results),
        provenance(report),
    ]
    style = (files("vistok.evaluation.report") / "report.css").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style></head>\n<body>\n{''.join(sections)}</body></html>\n"
    )


def summary(report: Mapping[str, Any]) -> str:
    """Table of scores, below the facts about data and versions."""
    data, versions = report["data"], report["versions"]
    several = len(report["tokenizers"]) > 1
    facts = {
        "images": f"{data['images']:,}" + (f" ({len(data['unreadable'])} unreadable)" if data["unreadable"] else ""),
        "size": f"{data['image_size']} px",
        "dtype": report["dtype"],
        "versions": f"vistok {versions['vistok']}, torch {versions['torch']}",
    }
    wide = {
        "tokenizers" if several else "tokenizer": "<br>".join(escape(own["tokenizer"]) for own in report["tokenizers"]),
        "data": escape(data["source"]),
        "SHA-256 of the list of images": f'<span class="mono">{escape(data["sha256_of_names"])}</span>',
    }
    if report["rate"] is not None:
        facts["rate"] = f"{report['rate']}"
    cells = [f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items()]
    cells += [f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in wide.items()]
    missing = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in report["unavailable"].items())
    note = f"<details><summary>Unavailable metrics</summary><ul>{missing}</ul></details>" if missing else ""
    heading = "Comparison of tokenizers" if several else "Evaluation of a tokenizer"
    return f'<h1>{heading}</h1>\n<dl class="facts">{"".join(cells)}</dl>\n{table(report)}{note}\n'


def table(report: Mapping[str, Any]) -> str:
    """HTML table of the scores, with the hash of each protocol.

    With several protocols it has a column for each protocol and a section for each tokenizer; with a single protocol it
    has a column for each tokenizer.
    """
    scores, tokenizers = report["scores"], [own["tokenizer"] for own in report["tokenizers"]]
    heads = {name: f"{escape(name)}<small>{escape(own['hash'])}</small>" for name, own in report["protocols"].items()}
    if len(heads) == 1:
        corner = next(iter(heads.values()))
        columns = [f'<span title="{escape(path)}">{escape(short(path))}</span>' for path in tokenizers]
        sections = {"": scores}
    else:
        corner, columns = "", list(heads.values())
        sections = {path: [own for own in scores if own["tokenizer"] == path] for path in tokenizers}
    span = len(columns)
    rows = []
    for path, section in sections.items():
        if len(sections) > 1:
            rows.append(f'<tr class="tokenizer"><th>{escape(path)}</th><td colspan="{span}"></td></tr>')
        groups: dict[str, list[str]] = {}
        for name in dict.fromkeys([name for own in section for name in own["metrics"]] + list(report["unavailable"])):
            groups.setdefault(group(name), []).append(name)
        for heading, names in sorted(groups.items(), key=lambda own: GROUPS.index(own[0])):
            rows.append(f'<tr class="group"><th>{heading}</th><td colspan="{span}"></td></tr>')
            for name in names:
                entries = [score_table.cell(report, own, name) for own in section]
                cells = [f"<td>{escape(text)}</td>" if text else '<td class="none">–</td>' for text, _ in entries]
                unit = max((unit for _, unit in entries), key=len)
                unit = f" <small>{escape(unit)}</small>" if unit else ""
                rows.append(f"<tr><th>{escape(name.replace('_', ' '))}{unit}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>{column}</th>" for column in columns)
    return (
        f'<div class="scroll"><table><thead><tr><th>{corner}</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def group(name: str) -> str:
    """Group of the table that a metric belongs to."""
    if name in DISTANCES or name == BASELINE:
        return GROUPS[0]
    if name.startswith(("usage", "perplexity", "entropy", "distinct")):
        return GROUPS[2]
    return GROUPS[3] if name.startswith(("tokens", "bits", "images")) else GROUPS[1]


def short(path: str) -> str:
    """Last part of a path; for the export of a run, the name of the run's folder."""
    parts = [part for part in path.rstrip("/").split("/") if part]
    return (parts[-2] if len(parts) > 1 and parts[-1] == "tokenizer" else parts[-1]) if parts else path


def distinct(paths: Sequence[str]) -> list[str]:
    """Short names that distinguish the paths; numbered if their last parts are equal."""
    names = [short(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    return [f"{i + 1}: {name}" for i, name in enumerate(names)]


def rate_distortion(report: Mapping[str, Any]) -> str:
    """Scatter plot of each metric that at least two scores have."""
    scores, protocols = report["scores"], list(report["protocols"])
    paths = [own["tokenizer"] for own in report["tokenizers"]]
    names = distinct(paths)
    metrics = dict.fromkeys(name for own in scores for name in own["metrics"] if group(name) in GROUPS[:2])
    charts = []
    for metric in metrics:
        having = [own for own in scores if own["metrics"].get(metric) is not None]
        if len(having) < 2 or metric == BASELINE:
            continue
        points = []
        for own in having:
            # scores of one tokenizer are in the protocols' order
            tokenizer, protocol = paths.index(own["tokenizer"]), protocols.index(own["protocol"])
            name = f"{names[tokenizer]}, {own['protocol']} {own['hash']}: {own['metrics'][metric]:.4g}"
            for suffix, hollow in (("", False), ("_entropy", True)):
                rate = own["metrics"][f"bits_per_pixel{suffix}"]
                points.append(
                    report_charts.Point(
                        rate, own["metrics"][metric], tokenizer, protocol, f"{name} at {rate:.4g} bpp", hollow
                    )
                )
        title = metric.replace("_", " ")
        drawn = report_charts.scatter(points, "bits per pixel", title)
        charts.append(f"<figure><figcaption><b>{escape(title)}</b></figcaption>{drawn}</figure>")
    if not charts:
        return ""
    key = report_charts.legend([(name, i, 0) for i, name in enumerate(names)]) if len(names) > 1 else ""
    key += report_charts.legend([(name, 0, i) for i, name in enumerate(protocols)]) if len(protocols) > 1 else ""
    return (
        "<h2>Rate and distortion</h2><p>Filled marks: at a fixed length of each code. Hollow ones: at the entropy of "
        f'the codes’ frequencies.</p>{key}<div class="charts">{"".join(charts)}</div>\n'
    )


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
        f"<h2>Reconstructions</h2><p>{escape(crop)} crops of images drawn by a hash of their names. Below each is the "
        f"framed square, enlarged: where the error is greatest. Error maps show the mean absolute difference of the "
        f"channels; pictures above {report_charts.SMALL} px are JPEG here, numbers are of the images themselves.</p>"
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


def codes(labels: Sequence[str], selected: Sequence[Scores]) -> str:
    """Frequencies of codewords: by rank, and a map of those never chosen."""
    series = []
    for label, scores in zip(distinct(labels), selected, strict=True):
        counts = [own.cpu().numpy() for own in scores.usage.counts]
        for part, own in list(zip(scores.usage.parts, counts, strict=True))[:MOST_CODEBOOKS]:
            series.append((", ".join(name for name in (label if len(labels) > 1 else "", part.name) if name), own))
    ranks = report_charts.rank_chart(series)
    key = report_charts.legend([(name, i, 1) for i, (name, _) in enumerate(series)]) if len(series) > 1 else ""
    maps = "".join(f"<figure>{dead_map(name, counts)}</figure>" for name, counts in series)
    blues = [f"rgb({r},{g},{b})" for r, g, b in COUNTS[1::32].tolist() + COUNTS[-1:].tolist()]
    stops = ", ".join([f"{blues[0]} 15%", *blues[1:]])
    ramp = (
        f'<div style="max-width:360px;margin-bottom:12px"><div class="ramp" style="background:'
        f'linear-gradient(90deg,rgb{DEAD} 12%,transparent 12% 15%,{stops})"></div>'
        '<div class="ends"><span>never</span><span>once → most often, logarithmic</span></div></div>'
    )
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
    uri = report_charts.palette_picture(indices, COUNTS)
    filler = rows * columns - len(counts)
    use = usage_of(torch.from_numpy(counts))
    dead = int((counts == 0).sum())
    text = (
        f"{dead:,} of {len(counts):,} codewords never chosen by {int(counts.sum()):,} tokens; "
        f"even choices would leave {len(counts) * (1 - use['usage_ceiling'].item()):,.0f}"
    )
    title = f"<b>{escape(name)}</b> · " if name else ""
    note = f"; the last {filler} squares are no codewords" if filler else ""
    return (
        f"<figcaption>{title}{text}{note}</figcaption>"
        f'<img class="map" src="{uri}" width="{columns}" height="{rows}" alt="{escape(f"{name} {text}".strip())}">'
    )


def distributions(labels: Sequence[str], report: Mapping[str, Any], results: Sequence[Mapping[str, Scores]]) -> str:
    """Histogram of each distance under each protocol, and of the number of tokens where it varies."""
    names, charts = distinct(labels), []

    def add(name: str, series: Sequence[tuple[str, np.ndarray]], about: str) -> None:
        values = [own for _, own in series]
        spread = "; ".join(f"{own.mean():.4g} ± {own.std():.2g}" for own in values)
        caption = f"<figcaption><b>{escape(name)}</b> {escape(about)} · {spread}</figcaption>"
        charts.append(f"<figure>{caption}{report_charts.histogram(series, name)}</figure>")

    for protocol, own in report["protocols"].items():
        values = [scores[own["crop"]].values(protocol) for scores in results]
        for distance in values[0]:
            if distance != BASELINE:
                series = [(name, of_image[distance].numpy()) for name, of_image in zip(names, values, strict=True)]
                add(distance.replace("_", " "), series, f"{protocol} {own['hash']}")
    for crop in results[0]:
        series = [(name, np.array(scores[crop].tokens)) for name, scores in zip(names, results, strict=True)]
        if any(np.ptp(values) for _, values in series):
            add("positions that are tokens", series, f"{crop} crops")
    if not charts:
        return ""
    key = report_charts.legend([(name, i, 1) for i, name in enumerate(names)]) if len(names) > 1 else ""
    return (
        "<h2>Distributions over images</h2><p>With mean and standard deviation.</p>"
        f'{key}<div class="charts">{"".join(charts)}</div>\n'
    )


def provenance(report: Mapping[str, Any]) -> str:
    """All details of the report, folded."""
    parts = {
        "Protocols": report["protocols"],
        "Tokenizers": report["tokenizers"],
        "Data": report["data"],
        "Config": report["config"],
        "Everything else": {
            name: report.get(name)
            for name in ("format", "reference", "rate", "dtype", "device", "processes", "versions")
        },
    }
    folded = ""
    for name, content in parts.items():
        text = json_text(content)
        folded += f"<details><summary>{name}</summary><pre>{escape(text)}</pre></details>"
    return f"<h2>Provenance</h2>{folded}\n"
