"""Quotes overrides of the command line that Hydra's grammar would not read.

The characters ``= , ( ) [ ] { } #`` and quotes have a meaning in Hydra's grammar, and ``${`` in OmegaConf's; names of
files contain them: Lightning calls a checkpoint ``epoch=49-step=250000.ckpt``. A path that exists is that path.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

OVERRIDE = re.compile(r"(?P<key>[+~]*[\w./@:-]+)=(?P<value>.*)", re.DOTALL)
PATHS = (
    "tokenizer",
    "reconstructions",
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
NO_PATHS = ("null", "true", "false")  # values that are never paths


def readable(arguments: Sequence[str]) -> list[str]:
    """The same arguments, with paths in quotes where they contain characters of Hydra's grammar.

    Raises:
        ValueError: Hydra cannot read an argument, and it is no path; the message shows the argument in quotes.
    """
    several = {"-m", "--multirun"} & set(arguments)
    return [own if own.startswith("-") else _readable(own, not several) for own in arguments]


def _readable(argument: str, single: bool) -> str:
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        override = None
    parts = OVERRIDE.fullmatch(argument)
    if parts is None:
        return argument
    key, value = parts["key"], parts["value"]
    is_path, sweep = key.rpartition(".")[2] in PATHS, override is not None and override.is_sweep_override()
    if sweep and not single:
        return argument
    plain = override is not None and not sweep
    if _exists(value) and value not in NO_PATHS and (is_path or not plain or "/" in value or "${" in value):
        same = plain and override.value() == value and "${" not in value  # type: ignore[union-attr]
        return argument if same else in_quotes(key, value)
    if plain or "${" in argument:
        return argument
    if is_path and value[:1] not in ("[", "{", '"', "'"):
        return in_quotes(key, value)
    if override is None:
        raise ValueError(
            f"{argument} cannot be read: there is no such file, and a text that contains one of = , ( ) [ ] {{ }} # "
            f"or a quote must stand in quotes: {shlex.quote(in_quotes(key, value))}"
        )
    return argument


def in_quotes(key: str, value: str) -> str:
    """An override whose value Hydra reads as exactly this text, and OmegaConf not as a reference to another key."""
    value = re.sub(r"(\\*)\$\{", lambda m: 2 * m[1] + r"\${", value)
    return f'{key}="' + re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + ('\\"' if m[2] else ""), value) + '"'


def _exists(value: str) -> bool:
    try:
        return bool(value) and Path(value).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, with a null byte, of an unknown user
        return False
