"""Words that are not used: the glossary has one word for each idea, and docstrings say what a thing is or does."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tokenizers" / "vistok"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "configs" not in path.relative_to(PACKAGE).parts)
TEXTS = [
    ROOT / "README.md",
    ROOT / "mkdocs.yml",
    *sorted((ROOT / "configs").rglob("*.yaml")),
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "changelog.md"),
]
# Parts of names, as `left_out` has two: retired for the word of the glossary beside them.
RETIRED_NAMES = {
    "cut": "crop",
    "grain": "granularity",  # `grains`, their number, is a key of configs and token files
    "held_back": "deferred",
    "judge": "network, monitor, check",
    "judges": "networks",
    "left_out": "skipped, excluded",
    "pull": "gradient",
    "pulls": "gradients",
    "push": "gradient",
    "seen": "the name of what was read or counted",
    "shown": "the name of what it is",
    "spell": "streak",
    "told": "keywords, metadata, reported",
    "watch": "monitor, detector",
    "whole": "atomic, full, complete",
    "words": "arguments, overrides",
}
KEPT_NAMES = {"push_to_hub"}  # Hugging Face's
# In running text, comments and messages.
RETIRED_TEXT = {
    r"\bcuts?\b": "crop, truncated",
    r"\bgrain\b|\b(two|three|[0-9G]) grains\b": "granularity",
    r"\bheld back\b": "deferred",
    r"\bjudge[sd]?\b": "compare, check",
    r"\bso manieth\b": "every `every` updates",
    r"\btold\b": "given, determined",
    r"\bupdates? (was|were|is|are) left out\b|\bleft-out updates?\b": "skipped",
}
# In README and docs, which speak to a user: not of how the project sets itself goals.
RETIRED_PROSE = {
    r"\b(our|the|this) bars?\b": "target, or what was measured",
    r"\bmiss(ed|es)\b(?! keys)": "not reached, missing",
    r"--gate\b": "the command without it",
    r"\bblock[- ]means? baseline\b|\bPSNR of block means\b": "bicubic baseline",
}
LIBRARY_TEXT = r"fine_grain_ratio|--push-to"  # keys of other libraries
OPENING = re.compile(r"(What|How|Whether|Which|Where|Who|Why|That|All that)\b")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def names_in(path: Path) -> set[str]:
    """The names that a module gives: of classes, functions, arguments, variables and attributes."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


def parts(name: str) -> str:
    """``_FiniteWatch`` as ``_finite_watch_``, so that parts are found between underscores."""
    return "_" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_") + "_"


def test_names():
    wrong = [
        f"{path.relative_to(ROOT)}: {name}: {instead}"
        for path in MODULES
        for name in sorted(names_in(path) - KEPT_NAMES)
        for retired, instead in RETIRED_NAMES.items()
        if f"_{retired}_" in parts(name)
    ]
    assert wrong == []


def test_text():
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}: {instead}"
        for path in [*MODULES, *TEXTS]
        for number, line in enumerate(re.sub(LIBRARY_TEXT, "", path.read_text()).splitlines(), 1)
        for pattern, instead in (RETIRED_TEXT | (RETIRED_PROSE if path.suffix == ".md" else {})).items()
        for match in re.finditer(pattern, line, re.IGNORECASE)
    ]
    assert wrong == []


def test_docstrings_begin_with_a_noun_or_a_verb():
    wrong = []
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                wrong += [f"{path.relative_to(ROOT)}: {text.splitlines()[0]}"] if OPENING.match(text) else []
    assert wrong == []


def test_the_glossary_has_the_words_that_stand_instead():
    page = (ROOT / "docs" / "glossary.md").read_text()
    for term in ("codebook", "codeword", "code", "token", "latent", "granularity", "usage", "dead code", "rFID"):
        assert f"| {term} |" in page
    for term in ("applied, skipped update", "atomic write", "collective", "crop", "feature network"):
        assert f"| {term} |" in page
