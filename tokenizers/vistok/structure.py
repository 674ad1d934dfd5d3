"""Text about a module: its number of weights, its short form for ``print``, and the tree of all its parts."""

import inspect
from collections.abc import Collection, Sequence
from textwrap import indent
from typing import NamedTuple

from torch import nn

MILLION = 1_000_000


class WeightCount(NamedTuple):
    """Number of values that a module stores. A tensor that several parts share counts once.

    Attributes:
        parameters: Values of all parameters.
        trained: Values of the parameters that get gradients.
        buffers: Values of the floating-point buffers that files of the module hold: codebooks that are moving averages
            and their statistics, frozen tables.
    """

    parameters: int
    trained: int
    buffers: int

    @classmethod
    def of(cls, module: nn.Module) -> "WeightCount":
        """Counts the values of a module."""
        own = list(module.parameters())
        kept = {id(m.get_buffer(n)): m.get_buffer(n) for m in module.modules() for n in m._buffers if _stored(m, n)}
        return cls(
            sum(parameter.numel() for parameter in own),
            sum(parameter.numel() for parameter in own if parameter.requires_grad),
            sum(buffer.numel() for buffer in kept.values()),
        )

    def __str__(self) -> str:
        parameters = f"{amount(self.parameters)} parameters"
        if not self.buffers:
            return parameters
        buffers = f"{amount(self.buffers)} in buffers"
        return f"{parameters} + {buffers}" if self.parameters else buffers


def _stored(module: nn.Module, name: str) -> bool:
    """True for a buffer of floats that is in the module's state dict."""
    buffer = module._buffers[name]
    return buffer is not None and buffer.is_floating_point() and name not in module._non_persistent_buffers_set


def amount(number: int) -> str:
    """A number in full below a million, else in millions with three digits: ``983,040``, ``72.1 M``."""
    if number < MILLION:
        return f"{number:,}"
    millions = number / MILLION
    return f"{millions:,.0f} M" if millions >= 99.95 else f"{millions:.3g} M"


def brief(module: nn.Module, parts: Sequence[str] = ()) -> str:
    """Class, settings and number of weights of a module in one line, and a line for each of its ``parts``."""
    return _called(module, ", ".join(filter(None, (module.extra_repr(), str(WeightCount.of(module))))), parts)


def settings(module: nn.Module, without: Collection[str] = ()) -> list[str]:
    """Constructor arguments of a module that differ from their defaults, as ``name=value``.

    Arguments that the module does not keep as an attribute are left out; parts are named by their class.

    Args:
        module: The module.
        without: Names of arguments to leave out.
    """
    found = []
    for name, argument in inspect.signature(type(module)).parameters.items():
        value = getattr(module, name, argument.default)
        if name in without or value is argument.default or value == argument.default:
            continue
        found.append(f"{name}={type(value).__name__ if isinstance(value, nn.Module) else repr(value)}")
    return found


def tree(module: nn.Module) -> str:
    """Every part of a module with its settings, as ``print`` shows modules that have no short form."""
    parts = [f"({name}): {tree(part)}" for name, part in module.named_children()]
    return _called(module, module.extra_repr(), parts)


def _called(module: nn.Module, text: str, parts: Sequence[str]) -> str:
    name = type(module).__name__
    if not parts:
        return f"{name}({text})"
    inside = indent("\n".join(filter(None, (text, *parts))), "  ")
    return f"{name}(\n{inside}\n)"
