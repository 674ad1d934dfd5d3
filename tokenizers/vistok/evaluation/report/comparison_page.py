"""The HTML page of a comparison: table, differences in words, and the rate–distortion picture."""

import base64
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from matplotlib.figure import Figure

from vistok.evaluation.report import differences as report_differences
from vistok.evaluation.report.page import POLICY, table
from vistok.files import json_text
from vistok.plots import figure_bytes


def comparison_page(comparison: Mapping[str, Any], figure: Figure) -> str:
    """A comparison as one HTML file without links to other files or hosts.

    Args:
        comparison: Result of ``vistok.evaluation.compare``.
        figure: The rate–distortion picture.
    """
    labels = ", ".join(own["tokenizer"] for own in comparison["tokenizers"])
    style = (files("vistok.evaluation.report") / "report.css").read_text()
    picture = base64.b64encode(figure_bytes(figure, "svg")).decode()
    details = {key: comparison[key] for key in ("protocols", "tokenizers", "intervals")}
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(labels)}</title>\n<style>\n{style}</style></head>\n<body>\n"
        f"<h1>Comparison of tokenizers</h1>\n<p>{escape(report_differences.caption_of(comparison))}</p>\n"
        f"{table(comparison)}\n{report_differences.section(comparison)}"
        "<h2>Rate and distortion</h2><p>Bars are 95 % intervals. Hollow marks are of other images than the first "
        'tokenizer’s.</p><figure><img style="display:block;width:100%;max-width:1000px;background:#fff" '
        f'src="data:image/svg+xml;base64,{picture}" alt="metrics against bits per pixel and tokens per image"></figure>'
        f"<h2>Provenance</h2><details><summary>Protocol, tokenizers, images and intervals</summary><pre>"
        f"{escape(json_text(details))}</pre></details>\n</body></html>\n"
    )
