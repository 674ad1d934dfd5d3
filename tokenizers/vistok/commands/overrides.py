"""Words of the command line that Hydra's grammar does not read, and what is meant by them.

To Hydra ``= , ( ) [ ] { } #`` and quotes are signs of its own, and names of files have them: Lightning calls a
checkpoint ``epoch=49-step=250000.ckpt``.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

WORD = re.compile(r"(?P<key>[+~]*[\w./@:-]+)=(?P<value>.*)", re.DOTALL)
PATHS = (
    "tokenizer",
    "resume",
    "init",
    "dir",
    "out",
    "reference",
    "save_reference",
    "loss_band",
    "root",
    "urls",
    "val_urls",
)


def readable(words: Sequence[str]) -> list[str]:
    """The same words, with paths in quotes where Hydra would take signs in them for its own.

    Raises:
        ValueError: Hydra cannot read a word, and it is no path; the message shows it in quotes.
    """
    several = {"-m", "--multirun"} & set(words)
    return [word if word.startswith("-") else _readable(word, not several) for word in words]


def _readable(word: str, single: bool) -> str:
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        override = None
    parts = WORD.fullmatch(word)
    if parts is None or "${" in word or (override is not None and not (single and override.is_sweep_override())):
        return word
    key, value = parts["key"], parts["value"]
    exists = _exists(value)
    if exists or (override is None and key.rpartition(".")[2] in PATHS and value[:1] not in ("[", "{", '"', "'")):
        return in_quotes(key, value)
    if override is None:
        raise ValueError(
            f"{word} cannot be read: there is no such file, and a text with one of = , ( ) [ ] {{ }} # or a quote "
            f"in it stands in quotes: {shlex.quote(in_quotes(key, value))}"
        )
    return word


def in_quotes(key: str, value: str) -> str:
    """An override that Hydra reads as this very text."""
    return f'{key}="' + re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + ('\\"' if m[2] else ""), value) + '"'


def _exists(value: str) -> bool:
    try:
        return bool(value) and Path(value).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, with a null byte, of an unknown user
        return False
