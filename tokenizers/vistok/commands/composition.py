"""Hydra's part of ``train``, ``estimate`` and ``eval``: the config from the words of the command line.

An installed wheel has no scripts and no ``configs`` folder beside it; in the repository both ways are the same.
"""

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import hydra
from omegaconf import DictConfig

from vistok.commands import config_help, keys, overrides
from vistok.commands.failures import guard
from vistok.terminal import stop

CONFIGS = Path(__file__).parent.parent / "configs"


def _run(name: str, action: Callable[[DictConfig], None], words: Sequence[str], verb: str = "") -> None:
    asked = sys.argv

    @hydra.main(version_base="1.3", config_path=str(CONFIGS.resolve()), config_name=name)
    def main(config: DictConfig) -> None:
        sys.argv = asked  # Lightning starts further processes with the whole command
        action(config)

    try:
        start(main, words, name, verb or name)
    finally:
        sys.argv = asked


class _Held(io.StringIO):
    """Collects Hydra's messages before the work begins, which are then said in one line."""

    def __init__(self, real: TextIO):
        super().__init__()
        self.real = real


def start(main: Callable[[], None], words: Sequence[str], name: str, verb: str = "") -> None:
    """Call a function of Hydra's with the words of the command line, in quotes where it needs some.

    What is wrong with them ends in one line.

    Args:
        main: The function.
        words: The command line.
        name: Of the config, ``train`` or ``eval``.
        verb: Of ``python -m vistok``; none for the scripts of the repository.
    """
    if {"-h", "--help"} & set(words):
        program = f"python -m vistok {verb}" if verb else f"python {name}.py"
        sys.stdout.write(config_help.text(program, verb or name, name, CONFIGS) + "\n")
        return
    try:
        keys.refuse_renamed(name, words)
        sys.argv = [sys.argv[0], *overrides.readable(words)]
    except ValueError as error:
        stop(str(error))
    if {"-m", "--multirun"} & set(words):  # jobs may be elsewhere
        main()
        return
    sys.stderr = held = _Held(sys.stderr)
    try:
        main()
    except SystemExit as ended:
        text = held.getvalue().partition("\nSet the environment variable HYDRA_FULL_ERROR=1")[0]
        if sys.stderr is not held or ended.code != 1 or "Traceback" in text:
            raise
        held.truncate(held.seek(0))
        text = " ".join(text.split())
        stop(keys.explained(text, name, words, CONFIGS) or f"{text} (HYDRA_FULL_ERROR=1 shows where)")
    finally:
        _composed()


def _composed() -> None:
    """From here on others than Hydra speak."""
    if isinstance(held := sys.stderr, _Held):
        sys.stderr = held.real
        sys.stderr.write(held.getvalue())


def run(action: Callable[..., Any], *arguments: Any, again: str | None = None) -> None:
    """Do ``train`` or ``evaluation.evaluate``; what the user got wrong ends in one message (``failures.guard``)."""
    guard(action, *arguments, again=again)
