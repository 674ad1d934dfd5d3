"""Composes the configs of ``train``, ``estimate`` and ``eval`` from the command line, by Hydra.

The configs are part of the package, so that an installed wheel has them too.
"""

import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import hydra
from omegaconf import DictConfig

from vistok.commands import config_help, keys, overrides
from vistok.commands.failures import guard, output_may_be_closed
from vistok.terminal import say, stop

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # variables that launchers set; 0 is the process that prints
CONFIGS = Path(__file__).parent.parent / "configs"


def _run(name: str, action: Callable[[DictConfig], None], arguments: Sequence[str], verb: str = "") -> None:
    command_line = sys.argv

    @hydra.main(version_base="1.3", config_path=str(CONFIGS.resolve()), config_name=name)
    def main(config: DictConfig) -> None:
        sys.argv = command_line  # Lightning starts further processes with it
        action(config)

    try:
        start(main, arguments, name, verb or name)
    finally:
        sys.argv = command_line


def _sweep(main: Callable[[], None], name: str) -> None:
    """Runs all jobs of ``-m``; a sweep of trainings ends with a table of its runs."""
    if name != "train":
        main()
        return
    from vistok.training import sweep

    with sweep.summarized(sys.argv[1:]) as arguments:
        sys.argv = [sys.argv[0], *arguments]
        main()


class _Buffer(io.StringIO):
    """Collects Hydra's messages before the work begins, so that they can be printed as one line."""

    def __init__(self, real: TextIO):
        super().__init__()
        self.real = real


def start(main: Callable[[], None], arguments: Sequence[str], name: str, verb: str = "") -> None:
    """Calls a function that Hydra has decorated; an error in the command line ends the process with one line.

    Args:
        main: The function.
        arguments: The arguments of the command line; paths need no quotes.
        name: Name of the config, ``train`` or ``eval``.
        verb: Verb of ``python -m vistok``; empty for the scripts of the repository.
    """
    if {"-h", "--help"} & set(arguments):
        program = f"python -m vistok {verb}" if verb else f"python {name}.py"
        with output_may_be_closed():
            sys.stdout.write(config_help.text(program, verb or name, name, CONFIGS) + "\n")
        return
    try:
        keys.refuse_renamed(name, arguments)
        sys.argv = [sys.argv[0], *overrides.readable(arguments)]
    except ValueError as error:
        stop(str(error))
    if {"-m", "--multirun"} & set(arguments):  # jobs may be elsewhere
        _sweep(main, name)
        return
    sys.stderr = buffer = _Buffer(sys.stderr)
    try:
        main()
    except SystemExit as ended:
        text = buffer.getvalue().partition("\nSet the environment variable HYDRA_FULL_ERROR=1")[0]
        if sys.stderr is not buffer or ended.code != 1 or "Traceback" in text:
            raise
        buffer.truncate(buffer.seek(0))
        text = " ".join(text.split())
        stop(keys.explained(text, name, arguments, CONFIGS) or f"{text} (HYDRA_FULL_ERROR=1 shows where)")
    finally:
        _composed()


def _composed() -> None:
    """Prints what Hydra has said so far, and restores the standard error stream."""
    if isinstance(buffer := sys.stderr, _Buffer):
        sys.stderr = buffer.real
        sys.stderr.write(buffer.getvalue())


def run(action: Callable[..., Any], *arguments: Any, again: str | None = None) -> None:
    """Calls ``train`` or ``evaluation.evaluate``; an error of the user ends in one message (``failures.guard``)."""
    if all(os.environ.get(name, "0") == "0" for name in RANKS):
        say("starting ...", "dim")  # libraries take seconds to load
    guard(action, *arguments, again=again)
