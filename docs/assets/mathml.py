"""MkDocs hook that converts formulas to MathML when the site is built; browsers display MathML without a script."""

import re
from html import unescape

from latex2mathml.converter import convert

REPLACEMENTS = {r"\arg\min": r"\text{arg min}"}  # of commands that latex2mathml does not know
APART = re.compile(r"(?:\\qquad\s*)+")  # between the parts of a displayed formula, which may stand below each other
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(html: str, **_: object) -> str:
    """Replaces the elements that ``pymdownx.arithmatex`` made of each ``$...$`` and ``$$...$$`` by MathML."""
    return FORMULA.sub(lambda m: (displayed if m[1] == "div" else mathml)(unescape(m[2])), html)


def displayed(formula: str) -> str:
    """Converts a formula that has a line of its own; its parts, between ``\\qquad``, become elements that can wrap."""
    parts = "".join(f"<div>{mathml(part, 'block')}</div>" for part in APART.split(formula) if part.strip())
    return f'<div class="formulas">{parts}</div>'


def mathml(formula: str, display: str = "inline") -> str:
    """Converts a LaTeX formula to MathML.

    Raises:
        ValueError: The formula has a command that latex2mathml does not know; GitHub may still display it.
    """
    for command, replacement in REPLACEMENTS.items():
        formula = formula.replace(command, replacement)
    result = convert(formula, display=display)
    unknown = re.search(r"\\\w+", result)
    if unknown:
        raise ValueError(f"the formula {formula!r} has {unknown[0]}, which latex2mathml does not know")
    return result
