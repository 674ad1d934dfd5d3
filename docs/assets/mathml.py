"""MkDocs hook: formulas become MathML while the site is built, which browsers show without a script."""

import re
from html import unescape

from latex2mathml.converter import convert

OTHER_NAMES = {r"\arg\min": r"\text{arg min}"}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(html: str, **_: object) -> str:
    """Replace what ``pymdownx.arithmatex`` left of each ``$...$`` and ``$$...$$``."""
    return FORMULA.sub(lambda m: mathml(unescape(m[2]), "block" if m[1] == "div" else "inline"), html)


def mathml(formula: str, display: str) -> str:
    """LaTeX to MathML; the converter does not know every command that GitHub shows."""
    for command, known in OTHER_NAMES.items():
        formula = formula.replace(command, known)
    result = convert(formula, display=display)
    unknown = re.search(r"\\\w+", result)
    if unknown:
        raise ValueError(f"the formula {formula!r} has {unknown[0]}, which latex2mathml does not know")
    return result
