"""Readability of a page's prose: Flesch reading ease, and the length of sentences.

    python docs/assets/readability.py PAGE...    # prints both, and the longest sentences

Code blocks, tables, formulas, pictures, comments and the targets of links are not prose. Inline code is one word; like
numbers it does not count in the mean of syllables.
"""

import argparse
import re
from pathlib import Path
from typing import NamedTuple

from textstat import textstat

FENCE = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)
NOT_PROSE = (
    (re.compile(r"\A---\n.*?\n---\n", re.DOTALL), ""),
    (FENCE, "\n\n"),
    (re.compile(r"<!--.*?-->", re.DOTALL), ""),
    (re.compile(r"\$\$.*?\$\$|\\\[.*?\\\]", re.DOTALL), "formula"),
    (re.compile(r"\$[^$\n]+\$|\\\(.*?\\\)"), "formula"),
    (re.compile(r"!\[[^\]]*\]\([^)]*\)"), ""),
    (re.compile(r"\[([^\]]*)\]\([^)]*\)"), r"\1"),
    (re.compile(r"^#.*$|^ *\|.*$|^ *:::.*$", re.MULTILINE), "\n"),
    (re.compile(r"<[^>\n]+>|\*\*|(?<!\w)[*_]|[*_](?!\w)"), ""),
)
BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.|!!!) )")
END = re.compile(r"(?<=[.!?])[\")]?\s+(?=[\"(]?[A-Z0-9`])")
WORD = re.compile(r"`[^`]+`|[^\W_]+(?:['’.,-][^\W_]+)*")


class Readability(NamedTuple):
    """Measures of one page."""

    ease: float  # Flesch: 60 to 70 is plain English, 30 to 50 is a scientific paper
    mean: float  # words of a sentence
    longest: int  # words
    words: int
    sentences: list[str]  # the longest first


def sentences(markdown: str) -> list[str]:
    """The sentences of a page, without markup; a heading, table or code block is none."""
    for pattern, replacement in NOT_PROSE:
        markdown = pattern.sub(replacement, markdown)
    found = []
    for block in BLOCK.split(markdown):
        text = re.sub(r"^(?:[-*]|\d+\.|!!! *\w*) +", "", " ".join(block.split()))
        found += [sentence for sentence in END.split(text) if len(words(sentence)) > 2]
    return found


def words(sentence: str) -> list[str]:
    return WORD.findall(sentence)


def measure(markdown: str) -> Readability:
    """Flesch's formula with textstat's syllables, over ``sentences``."""
    found = sorted(sentences(markdown), key=lambda sentence: -len(words(sentence)))
    every = [word for sentence in found for word in words(sentence)]
    if not every:
        return Readability(100, 0, 0, 0, [])
    mean = len(every) / len(found)
    plain = [word for word in every if word.isalpha()]
    syllables = sum(textstat.syllable_count(word) for word in plain) / len(plain)
    return Readability(206.835 - 1.015 * mean - 84.6 * syllables, mean, len(words(found[0])), len(every), found)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Readability of the prose of pages.")
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--worst", type=int, default=8, help="number of sentences to print, the longest first; 8")
    given = parser.parse_args(arguments)
    for page in given.pages:
        ease, mean, longest, count, found = measure(page.read_text())
        print(f"{page}: {count:,} words, Flesch {ease:.0f}, {mean:.1f} words a sentence, longest {longest}")
        for sentence in found[: given.worst]:
            print(f"  {len(words(sentence)):3}  {sentence}")


if __name__ == "__main__":
    main()
