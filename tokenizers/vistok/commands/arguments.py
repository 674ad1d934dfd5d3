"""The command line of ``python -m vistok VERB``: one vocabulary of flags, and one line for each mistake.

The one argument without a flag is what the verb works on; images, outputs and all settings are flags.
"""

import argparse
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from vistok.processes.patience import PATIENCE
from vistok.terminal import stop


class Parser(argparse.ArgumentParser):
    """The arguments of one verb. What is wrong with them ends the process with one line, not with the usage.

    Args:
        verb: The words after ``python -m vistok``.
        about: The docstring of the verb's module.
        renamed: The flags of former versions, and what to write instead.
    """

    def __init__(self, verb: str, about: str | None, renamed: Mapping[str, str] | None = None):
        super().__init__(
            prog=f"python -m vistok {verb}",
            description=inspect.cleandoc(about or "").replace("``", ""),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.renamed = {**RENAMED, **(renamed or {})}

    def flag(self, name: str, **settings: Any) -> None:
        """Adds a flag of the vocabulary, or with ``help`` one of the verb's own; its help names the default."""
        settings = {**VOCABULARY.get(name, {}), **settings}
        default = settings.get("default")
        if default is not None:
            text = " ".join(map(str, default)) if isinstance(default, list) else f"{default}"
            settings["help"] += f" (default: {text})"
        self.add_argument(name, **settings)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Names the present flag for a former one, before argparse calls it unknown."""
        for word in args or ():
            name = word.partition("=")[0]
            present = self.renamed.get(name)
            if name not in self._option_string_actions and present in self._option_string_actions:
                stop(f"{name} is now {present} ({self.prog} --help lists all arguments)")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        stop(f"{message.removeprefix('argument ')} ({self.prog} --help lists all arguments)")


def at_least(least: int) -> Callable[[str], int]:
    """A whole number that is not smaller."""

    def integer(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
        return value

    return integer


def number(above: float = -math.inf) -> Callable[[str], float]:
    """A finite number, above one where it is given."""

    def finite_number(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and value > above):
            raise argparse.ArgumentTypeError(f"must be a number{f' above {above:g}' * (above > -math.inf)}, not {text}")
        return value

    return finite_number


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to 1, not {text}")
    return value


def images(text: str) -> str:
    """A path to images; a number that is no path was meant for another flag."""
    if text.isdecimal() and not Path(text).exists():
        raise argparse.ArgumentTypeError(f"is a path to images, not {text}; --num-images is their number")
    return text


def json_object(text: str) -> dict[str, Any]:
    """JSON in braces."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be names and values in braces, not {text[:80]}")
    return value


TOKENIZER = "run folder, exported folder, published checkpoint, or user/repo on the Hugging Face hub"
VOCABULARY: dict[str, dict[str, Any]] = {  # the flags that several verbs have, with the same meaning in each
    "--out": {"required": True, "metavar": "PATH"},
    "--images": {
        "type": images,
        "required": True,
        "metavar": "PATH",
        "help": "folder, table of paths, .npz file, Hugging Face data set, or shards; of a set with splits, the "
        "training images",
    },
    "--columns": {
        "type": json_object,
        "metavar": "JSON",
        "help": 'columns of a table by their roles, as data.columns: {"image": "jpg", "label": "cls"}',
    },
    "--num-images": {
        "type": at_least(1),
        "metavar": "N",
        "default": 2000,
        "help": "largest number of images that are read",
    },
    "--image-size": {
        "type": at_least(1),
        "metavar": "N",
        "default": 256,
        "help": "height and width of the centre crops, in pixels",
    },
    "--num-workers": {
        "type": at_least(0),
        "metavar": "N",
        "default": 2,
        "help": "number of processes that decode images; 0 decodes in the main process",
    },
    "--split-bits": {
        "nargs": "+",
        "type": at_least(1),
        "metavar": "N",
        "help": "bits of the parts into which each code is split, lowest first, such as 6 12 for codes of 18 bits "
        "(default: whole codes)",
    },
    "--batch-size": {"type": at_least(1), "metavar": "N"},
    "--seed": {"type": at_least(0), "metavar": "N", "default": 0},
    "--device": {"metavar": "NAME", "help": "cpu, cuda or cuda:N (default: cuda where there is a GPU, else cpu)"},
    "--max-pixels": {"type": at_least(1), "metavar": "N"},
    "--tile": {
        "type": at_least(0),
        "metavar": "N",
        "help": "side in pixels of the tiles in which a large image passes the networks (default: 0, the full image "
        "at once)",
    },
    "--overlap": {
        "type": at_least(0),
        "metavar": "N",
        "help": "pixels of a tile beyond the part that is kept, on each side (default: the receptive field of the "
        "networks, at most a quarter of the tile, or an eighth of the tile if it has no bound)",
    },
    "--timeout": {
        "type": number(above=0),
        "metavar": "SECONDS",
        "default": PATIENCE,
        "help": "seconds to wait for the storage before the command ends",
    },
    "--take-over": {
        "action": "store_true",
        "help": "take the output from a process on another machine whose heartbeat has stopped",
    },
    "--family": {
        "metavar": "NAME",
        "help": "family of a published checkpoint (default: determined by the names of its tensors)",
    },
    "--family-config": {
        "type": json_object,
        "metavar": "JSON",
        "help": "settings that a published checkpoint does not contain, as JSON in braces",
    },
}
RENAMED = {  # flags of version 0.1
    "--workers": "--num-workers",
    "--output": "--out",
    "--config": "--family-config",
    "--shuffle-seed": "--seed",
    "--sheet": "--out",
}
