"""The HTML page of a comparison: table, differences in words, and the rate–distortion picture."""

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

from matplotlib.figure import Figure

from vistok.evaluation.report import differences as report_differences
from vistok.evaluation.report import inline_files
from vistok.evaluation.report.page import table
from vistok.files import json_text
from vistok.plots.figures import figure_bytes


def comparison_page(comparison: Mapping[str, Any], figure: Figure | None) -> str:
    """A comparison as one HTML file without links to other files or hosts.

    Args:
        comparison: Result of ``vistok.evaluation.compare``.
        figure: The rate–distortion picture; None where no tokenizer has a rate.
    """
    labels = ", ".join(own["tokenizer"] for own in comparison["tokenizers"])
    details = {key: comparison[key] for key in ("protocols", "tokenizers", "intervals")}
    body = (
        f"<h1>Comparison of tokenizers</h1>\n<p>{escape(report_differences.caption_of(comparison))}</p>\n"
        f"{table(comparison)}\n{report_differences.section(comparison)}"
        f"{rate_section(figure) if figure else ''}"
        f"<h2>Provenance</h2><details><summary>Protocol, tokenizers, images and intervals</summary><pre>"
        f"{escape(json_text(details))}</pre></details>\n"
    )
    return inline_files.document(labels, body)


def rate_section(figure: Figure) -> str:
    """Heading, explanation and picture of rate and distortion."""
    picture = base64.b64encode(figure_bytes(figure, "svg")).decode()
    return (
        "<h2>Rate and distortion</h2><p>Bars are 95 % intervals of scores. Those of differences are narrower and stand "
        "above. Hollow marks are of other images than the first tokenizer’s.</p>"
        '<figure><img class="plot" '
        f'src="data:image/svg+xml;base64,{picture}" alt="metrics against bits per pixel and tokens per image"></figure>'
    )
