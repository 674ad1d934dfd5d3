"""Prose of README and docs: short sentences and plain words, for readers who learnt English as a second language."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOL = runpy.run_path(str(ROOT / "docs" / "assets" / "readability.py"))
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if path.parent.name != "api" and path.name != "changelog.md"
}
EASE = 55  # least Flesch reading ease: 30 to 50 is a scientific paper, 60 to 70 plain English
MEAN = 16  # most words of a sentence, in the mean of a page
LONGEST = 32  # most words of one sentence
EXCEPTIONS = {  # page: reason. Remove the line of a page once it is rewritten.
}


@pytest.mark.parametrize("page", [page for page in PAGES if page not in EXCEPTIONS])
def test_prose_is_plain(page):
    """``python docs/assets/readability.py PAGE`` lists the sentences to mend."""
    ease, mean, longest, words, sentences = TOOL["measure"](PAGES[page].read_text())
    assert longest <= LONGEST, sentences[0]
    assert words < 40 or (mean <= MEAN and ease >= EASE), (round(mean, 1), round(ease))


def test_exceptions_are_pages():
    assert EXCEPTIONS.keys() <= PAGES.keys()


def test_prose_is_what_a_reader_reads():
    page = """---
hide: [toc]
---
# A heading that is not counted

The first one has `inline code with words`, a [link of four words](https://example.com/not-read) and 1,024.5
pixels. **Is** this the $x_i + y$ second?

| a table | is |
| --- | --- |

- An item is a *sentence* of its own
- and so is <b>the next one</b>

```bash
not read. At all.
```
$$ nor. This. $$
![no picture](image.png)
"""
    assert TOOL["sentences"](page) == [
        "The first one has `inline code with words`, a link of four words and 1,024.5 pixels.",
        "Is this the formula second?",
        "An item is a sentence of its own",
        "and so is the next one",
    ]
    ease, mean, longest, words, sentences = TOOL["measure"](page)
    assert (mean, longest, words) == (8, 13, 32) and sentences[0].startswith("The first")
    plain = TOOL["measure"]("The cat sat on the mat.\n\nThe dog ate it.")  # ten words, ten syllables, two sentences
    assert plain.ease == pytest.approx(206.835 - 1.015 * 5 - 84.6)
