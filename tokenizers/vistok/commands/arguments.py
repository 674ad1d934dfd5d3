"""The command line of ``python -m vistok COMMAND``: what is wrong with an argument is said in one line."""

import argparse
import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

from vistok.terminal import stop


class Parser(argparse.ArgumentParser):
    """Ends in one line, as all commands do, rather than in its usage."""

    def error(self, message: str) -> NoReturn:
        stop(f"{message.removeprefix('argument ')} ({self.prog} --help tells the rest)")


def at_least(least: int) -> Callable[[str], int]:
    """A whole number that is not smaller."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
        return value

    return whole_number


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


def json_object(text: str) -> dict[str, Any]:
    """JSON in braces."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be names and values in braces, not {text[:80]}")
    return value
