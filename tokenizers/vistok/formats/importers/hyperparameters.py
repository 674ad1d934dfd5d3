"""Settings that a file's keys do not determine: from the caller's ``config``, from published models, or missing."""

from collections.abc import Mapping, Sequence
from typing import Any

from vistok.untrusted.bounded_json import short


class Unknown(ValueError):
    """A model cannot be built from its file alone; the message lists the missing entries of ``config=``."""


class Watched(dict[str, Any]):
    """The caller's settings, with a note of those that were taken from a published model instead."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__(config)
        self.published: dict[str, Any] = {}


def get(config: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """Value at a dotted path of nested mappings, or ``default``."""
    node: Any = config
    for name in path.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return default
        node = node[name]
    return node


def need(config: Mapping[str, Any], path: str, kind: type, published: Any = None, why: str = "") -> Any:
    """Value of a setting that must be known.

    Args:
        config: The caller's settings.
        path: Dotted path of the setting.
        kind: ``int`` (at least 1) or ``bool``.
        published: Value in the published model of this shape; None if the shape is not a published one.
        why: Further text for the message about a missing value.

    Raises:
        Unknown: The value is missing.
        ValueError: The caller's value is of another type.
    """
    value = _known(config, path, published)
    if value is None:
        example: Any = "..."
        for name in reversed(path.split(".")):
            example = {name: example}
        raise Unknown(f"its keys do not determine {path}: give config={str(example).replace(repr('...'), '...')}{why}")
    if type(value) is not kind or (kind is int and not 1 <= value < 2**31):
        raise ValueError(
            f"config's {path} must be {'an integer' if kind is int else 'true or false'}, not {short(value)}"
        )
    return value


def one_of(config: Mapping[str, Any], path: str, choices: Sequence[Any], published: Any = None) -> Any:
    """Value of a setting that must be known and has few choices. Arguments as for ``need``.

    Raises:
        Unknown: The value is missing; the message lists the choices.
        ValueError: The caller's value is none of them.
    """
    value = _known(config, path, published)
    listed = " or ".join(map(repr, choices[:12])) + " or ..." * (len(choices) > 12)
    if value is None:
        return need(config, path, int, why=f", where ... is {listed}")
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(f"config's {path} must be {listed}, not {short(value)}")
    return value


def _known(config: Mapping[str, Any], path: str, published: Any) -> Any:
    value = get(config, path)
    if value is None and published is not None and isinstance(config, Watched):
        config.published[path] = published
    return published if value is None else value


def only(config: Mapping[str, Any], path: str, *allowed: Any) -> None:
    """Refuses a setting that importing does not support; a missing setting is accepted."""
    value = get(config, path, allowed[0])
    if value not in allowed:
        raise ValueError(f"{path}={short(value)} cannot be imported, only {' or '.join(map(repr, allowed))}")
