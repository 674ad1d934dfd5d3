"""HTML documents with their style sheets and scripts inside, and a content policy that allows nothing else."""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib.resources import files

STYLES = ("report.css", "examples.css")
SCRIPTS = ("token_map.js", "examples.js")
NOTHING = "'none'"


def document(title: str, body: str, scripts: Sequence[str] = ()) -> str:
    """HTML document with the style sheets, the scripts at its end, and a policy with the SHA-256 of each.

    Args:
        title: Title, as text.
        body: Content, as HTML.
        scripts: Names of the scripts.
    """
    allowed = {"style": STYLES, "script": scripts}
    sources = "; ".join(f"{kind}-src {' '.join(map(source, own)) or NOTHING}" for kind, own in allowed.items())
    policy = f"default-src {NOTHING}; img-src data:; {sources}; base-uri {NOTHING}; form-action {NOTHING}"
    styles = "".join(f"<style>{text(name)}</style>\n" for name in STYLES)
    run = "".join(f"<script>{text(name)}</script>\n" for name in scripts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n{styles}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title></head>\n<body>\n{body}{run}</body></html>\n"
    )


def text(name: str) -> str:
    return (files("vistok.evaluation.report") / name).read_text(encoding="utf-8")


def source(name: str) -> str:
    """A file as the policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text(name).encode()).digest()).decode()}'"
