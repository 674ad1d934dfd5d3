"""``OUTPUT.html``: the HTML page of an evaluation, one file without links to other files or hosts.

All text passes through ``html.escape``. The page's content policy allows the package's own scripts and style sheets by
their hashes and nothing else: no other script, no ``style`` attribute, no external content.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from vistok.evaluation.accumulator import BASELINE, Scores
from vistok.evaluation.report import charts as report_charts
from vistok.evaluation.report import differences as report_differences
from vistok.evaluation.report import inline_files, score_table
from vistok.evaluation.report.code_maps import codes
from vistok.evaluation.report.example_figures import examples
from vistok.evaluation.report.labels import distinct, explained_arrow, short, with_direction
from vistok.evaluation.report.strata_tables import strata_section
from vistok.files import json_text
from vistok.images.evaluation_crops import crop_text
from vistok.metrics.distances import DISTANCES

GROUPS = ("Each image, mean", "All images", "Codes", "Rate")


def page(report: Mapping[str, Any], results: Sequence[Mapping[str, Scores]]) -> str:
    """The report as HTML.

    Args:
        report: Content of the JSON.
        results: Scores of each tokenizer by preparation, after ``gather``.
    """
    labels = [own["tokenizer"] for own in report["tokenizers"]]
    first = next(iter(report["protocols"].values()))
    selected = [scores[first["preparation"]] for scores in results]  # images and codes of the first protocol
    title = f"{', '.join(labels)} on {report['data']['source']}"
    sections = [
        summary(report),
        report_differences.section(report),
        rate_distortion(report) if len(report["scores"]) > 1 else "",
        examples(labels, report, results),
        codes(labels, selected),
        distributions(labels, report, results),
        strata_section(report),
        provenance(report),
    ]
    return inline_files.document(title, "".join(sections), inline_files.SCRIPTS)


def summary(report: Mapping[str, Any]) -> str:
    """Table of scores, below the facts about data and versions."""
    data, versions = report["data"], report["versions"]
    several = len(report["tokenizers"]) > 1
    facts = {
        "images": f"{data['images']:,}{score_table.not_scored(data)}",
        "size": score_table.sizes_of(data),
        "dtype": report["dtype"],
        "versions": f"vistok {versions['vistok']}, torch {versions['torch']}",
    }
    wide = {
        "tokenizers" if several else "tokenizer": "<br>".join(escape(own["tokenizer"]) for own in report["tokenizers"]),
        "data": escape(data["source"]),
        "SHA-256 of the images": f'<span class="mono">{escape(data["sha256_of_images"])}</span>',
    }
    if report["rate"] is not None:
        facts["rate"] = f"{report['rate']}"
    cells = [f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items()]
    cells += [f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in wide.items()]
    missing = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in report["unavailable"].items())
    note = f"<details><summary>Unavailable metrics</summary><ul>{missing}</ul></details>" if missing else ""
    note += "".join(f'<p class="warning"><b>Warning:</b> {escape(own)}</p>' for own in report.get("warnings", ()))
    partial = "".join(f"<li>{escape(name)}: {escape(text)}</li>" for name, text in report.get("partial", {}).items())
    note += f"<p>Means of some images only:</p><ul>{partial}</ul>" if partial else ""
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
        for name in score_table.row_names(report, section):
            groups.setdefault(group(name), []).append(name)
        for heading, names in sorted(groups.items(), key=lambda own: GROUPS.index(own[0])):
            rows.append(f'<tr class="group"><th>{heading}</th><td colspan="{span}"></td></tr>')
            for name in names:
                entries = [score_table.cell(report, own, name) for own in section]
                cells = [f"<td>{escape(text)}</td>" if text else '<td class="none">–</td>' for text, _ in entries]
                unit = max((unit for _, unit in entries), key=len)
                unit = f" <small>{escape(unit)}</small>" if unit else ""
                rows.append(
                    f"<tr><th>{escape(name.replace('_', ' '))}{explained_arrow(name)}{unit}</th>{''.join(cells)}</tr>"
                )
    head = "".join(f"<th>{column}</th>" for column in columns)
    return (
        f'<div class="scroll"><table><thead><tr><th>{corner}</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def group(name: str) -> str:
    """Group of the table that a metric belongs to."""
    if name in DISTANCES or name == BASELINE or name.startswith("lpips_"):
        return GROUPS[0]
    if name.startswith(("usage", "perplexity", "entropy", "distinct")):
        return GROUPS[2]
    return GROUPS[3] if name.startswith(("tokens", "bits", "images")) else GROUPS[1]


def rate_distortion(report: Mapping[str, Any]) -> str:
    """Scatter plot of each metric that at least two scores have."""
    scores, protocols = report["scores"], list(report["protocols"])
    paths = [own["tokenizer"] for own in report["tokenizers"]]
    names = distinct(paths)
    metrics = dict.fromkeys(name for own in scores for name in own["metrics"] if group(name) in GROUPS[:2])
    charts, drawn_paths = [], set()
    for metric in metrics:
        having = [own for own in scores if {metric, "bits_per_pixel"} <= own["metrics"].keys()]
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
        drawn_paths |= {own["tokenizer"] for own in having}
        title = with_direction(metric)
        drawn = report_charts.scatter(points, "bits per pixel", title)
        charts.append(f"<figure><figcaption><b>{escape(title)}</b></figcaption>{drawn}</figure>")
    if not charts:
        return ""
    named = [(name, i, 0) for i, (name, path) in enumerate(zip(names, paths, strict=True)) if path in drawn_paths]
    key = report_charts.legend(named) if len(names) > 1 else ""
    key += report_charts.legend([(name, 0, i) for i, name in enumerate(protocols)]) if len(protocols) > 1 else ""
    return (
        "<h2>Rate and distortion</h2><p>Filled marks: at a fixed length of each code. Hollow ones: at the entropy of "
        f'the codes’ frequencies.</p>{key}<div class="charts">{"".join(charts)}</div>\n'
    )


def distributions(labels: Sequence[str], report: Mapping[str, Any], results: Sequence[Mapping[str, Scores]]) -> str:
    """Histogram of each distance under each protocol, and of the number of tokens where it varies."""
    names, charts = distinct(labels), []

    def add(name: str, series: Sequence[tuple[str, np.ndarray]], about: str) -> None:
        values = [own for _, own in series]
        spread = "; ".join(f"mean {own.mean():.4g}, standard deviation {own.std():.2g}" for own in values)
        caption = f"<figcaption><b>{escape(name)}</b> {escape(about)} · {spread}</figcaption>"
        charts.append(f"<figure>{caption}{report_charts.histogram(series, name)}</figure>")

    for protocol, own in report["protocols"].items():
        values = [scores[own["preparation"]].values(protocol) for scores in results]
        for distance in values[0]:
            if distance != BASELINE:
                arrays = [of_image[distance].numpy() for of_image in values]
                series = [(name, own[~np.isnan(own)]) for name, own in zip(names, arrays, strict=True)]
                add(with_direction(distance), series, f"{protocol} {own['hash']}")
    for preparation in results[0]:
        numbers = [(name, scores[preparation].tokens) for name, scores in zip(names, results, strict=True)]
        series = [(name, np.array(own)) for name, own in numbers if own]  # stored reconstructions have none
        if any(np.ptp(values) for _, values in series):
            add("positions that are tokens", series, crop_text(preparation))
    if not charts:
        return ""
    key = report_charts.legend([(name, i, 1) for i, name in enumerate(names)]) if len(names) > 1 else ""
    return (
        "<h2>Distributions over images</h2><p>The standard deviation is of single images, not an error of the mean."
        "</p>"
        f'{key}<div class="charts">{"".join(charts)}</div>\n'
    )


def provenance(report: Mapping[str, Any]) -> str:
    """All details of the report, folded."""
    parts = {
        "Protocols": report["protocols"],
        "Tokenizers": report["tokenizers"],
        "Data": report["data"],
        "Networks": report["networks"],
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
