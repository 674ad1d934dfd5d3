"""States that grow batch by batch; gathering over ranks, saving and restoring follow from each one's declaration."""

from array import array
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from enum import Enum
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from vistok.distributed.collectives import gather_objects, rank_and_size, sum_over_ranks

Own = TypeVar("Own", bound="Accumulator")


class Reduction(Enum):
    """Makes one state of those of all ranks."""

    SUM = "sum"  # of tensors
    LARGEST = "largest"  # of numbers
    CONCATENATION = "concatenation"  # of arrays of numbers, or lists of texts, in the ranks' order
    UNION = "union"  # of lists of texts, sorted


REDUCTIONS: dict[Reduction, Callable[[list[Any]], Any]] = {
    Reduction.LARGEST: max,
    Reduction.CONCATENATION: lambda parts: sum(parts[1:], parts[0]),
    Reduction.UNION: lambda parts: sorted(set().union(*parts)),
}


class Saved(NamedTuple):
    """The content of an accumulator, for a file."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]  # plain content: what JSON can hold


class Accumulator:
    """Statistics of a set of images whose states are declared once each: ``gather``, ``save`` and ``restore`` follow.

    A state is an attribute: a tensor, an ``array`` of numbers, a list of texts, a number, another accumulator, or a
    dict of arrays or accumulators. Accumulators gather, save and restore themselves.
    """

    def __init__(self) -> None:
        self._reductions: dict[str, Reduction | None] = {}

    def declare(self, name: str, start: Any, reduction: Reduction | None = None) -> None:
        """Make ``start`` the attribute ``name``, a state.

        Args:
            name: The attribute's.
            start: Before anything is added.
            reduction: Left out for accumulators.
        """
        self._reductions[name] = reduction
        setattr(self, name, start)

    def to(self: Own, device: torch.device | str) -> Own:
        """Move the tensors."""
        for name, reduction in self._reductions.items():
            if reduction is Reduction.SUM:
                setattr(self, name, getattr(self, name).to(device))
        for _, part in self._parts():
            part.to(device)
        return self

    def gather(self: Own) -> Own:
        """Make this the accumulator of all ranks' images, on each of them. All ranks have declared the same states."""
        plain = {name: getattr(self, name) for name, reduction in self._reductions.items() if reduction in REDUCTIONS}
        everyone = gather_objects(plain) if plain and rank_and_size()[1] > 1 else [plain]
        for name, reduction in self._reductions.items():
            if reduction is Reduction.SUM:
                sum_over_ranks(getattr(self, name))
            elif reduction is not None:
                reduce, parts = REDUCTIONS[reduction], [own[name] for own in everyone]
                many = isinstance(parts[0], dict)
                setattr(self, name, {k: reduce([own[k] for own in parts]) for k in parts[0]} if many else reduce(parts))
        for _, part in self._parts():
            part.gather()
        return self

    def save(self) -> Saved:
        """All states, by name."""
        saved = Saved({}, {})
        for name, reduction in self._reductions.items():
            value = getattr(self, name)
            if reduction is not None:
                for key, own in _members(name, value):
                    if isinstance(own, Tensor | array):
                        saved.tensors[key] = own.cpu() if isinstance(own, Tensor) else to_vector(own)
                    else:
                        saved.about[key] = own
        for key, part in self._parts():
            tensors, about = part.save()
            saved.tensors.update({f"{key}/{name}": tensor for name, tensor in tensors.items()})
            saved.about.update({f"{key}/{name}": content for name, content in about.items()})
        return saved

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Go on from what ``save`` of an accumulator made alike has returned."""
        for name, reduction in self._reductions.items():
            value = getattr(self, name)
            if reduction is not None:
                own = {key: _restored(own, key, tensors, about) for key, own in _members(name, value)}
                many = isinstance(value, dict)
                setattr(self, name, dict(zip(value, own.values(), strict=True)) if many else own[name])
        for key, part in self._parts():
            part.restore(_below(f"{key}/", tensors), _below(f"{key}/", about))

    def _parts(self) -> Iterator[tuple[str, "Accumulator"]]:
        """The accumulators among the states, by name; in the same order on all ranks."""
        for name, reduction in self._reductions.items():
            if reduction is None:
                yield from _members(name, getattr(self, name))


def to_vector(values: array) -> Tensor:
    """(n,) of the array's own type."""
    return torch.from_numpy(np.array(values))


def _members(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"{name}/{key}", own) for key, own in value.items())
    elif value is not None:
        yield name, value


def _restored(value: Any, key: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Any:
    if isinstance(value, Tensor):
        return value.copy_(tensors[key])
    if isinstance(value, array):
        return array(value.typecode, tensors[key].tolist())
    return copy(about[key])


def _below(prefix: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)}
