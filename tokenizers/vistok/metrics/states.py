"""States that accumulate over batches; their declarations define how they are gathered, saved and restored."""

from array import array
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from enum import Enum
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from vistok.distributed.collectives import gather_objects, rank_and_size, sum_over_ranks

AccumulatorT = TypeVar("AccumulatorT", bound="Accumulator")


class Reduction(Enum):
    """Operation that merges the states of all ranks."""

    SUM = "sum"  # for tensors
    LARGEST = "largest"  # for numbers
    CONCATENATION = "concatenation"  # for arrays of numbers and lists of texts, in the order of ranks
    UNION = "union"  # for lists of texts, sorted


REDUCTIONS: dict[Reduction, Callable[[list[Any]], Any]] = {
    Reduction.LARGEST: max,
    Reduction.CONCATENATION: lambda parts: sum(parts[1:], parts[0]),
    Reduction.UNION: lambda parts: sorted(set().union(*parts)),
}


class Saved(NamedTuple):
    """Content of an accumulator, for a file."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]  # plain content that JSON can represent


class Accumulator:
    """Base of statistics over a set of images: declared states are gathered, saved and restored without further code.

    A state is an attribute: a tensor, an ``array`` of numbers, a list of texts, a number, another accumulator, or a
    dict of arrays or accumulators. Accumulators gather, save and restore themselves.
    """

    def __init__(self) -> None:
        self._reductions: dict[str, Reduction | None] = {}

    def declare(self, name: str, start: Any, reduction: Reduction | None = None) -> None:
        """Declares the attribute ``name`` as a state.

        Args:
            name: Name of the attribute.
            start: Initial value.
            reduction: Operation that merges it over ranks; None for accumulators.
        """
        self._reductions[name] = reduction
        setattr(self, name, start)

    def to(self: AccumulatorT, device: torch.device | str) -> AccumulatorT:
        """Moves the tensors."""
        for name, reduction in self._reductions.items():
            if reduction is Reduction.SUM:
                setattr(self, name, getattr(self, name).to(device))
        for _, part in self._parts():
            part.to(device)
        return self

    def gather(self: AccumulatorT) -> AccumulatorT:
        """Merges the states of all ranks, on every rank. All ranks must have declared the same states."""
        plain = {name: getattr(self, name) for name, reduction in self._reductions.items() if reduction in REDUCTIONS}
        of_ranks = gather_objects(plain) if plain and rank_and_size()[1] > 1 else [plain]
        for name, reduction in self._reductions.items():
            if reduction is Reduction.SUM:
                sum_over_ranks(getattr(self, name))
            elif reduction is not None:
                reduce, parts = REDUCTIONS[reduction], [own[name] for own in of_ranks]
                is_dict = isinstance(parts[0], dict)
                setattr(
                    self, name, {k: reduce([own[k] for own in parts]) for k in parts[0]} if is_dict else reduce(parts)
                )
        for _, part in self._parts():
            part.gather()
        return self

    def save(self) -> Saved:
        """All states by name."""
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
        """Restores the states that ``save`` of an equally declared accumulator returned."""
        for name, reduction in self._reductions.items():
            value = getattr(self, name)
            if reduction is not None:
                own = {key: _restored(own, key, tensors, about) for key, own in _members(name, value)}
                is_dict = isinstance(value, dict)
                setattr(self, name, dict(zip(value, own.values(), strict=True)) if is_dict else own[name])
        for key, part in self._parts():
            part.restore(_below(f"{key}/", tensors), _below(f"{key}/", about))

    def _parts(self) -> Iterator[tuple[str, "Accumulator"]]:
        """Accumulators among the states, by name; in the same order on all ranks."""
        for name, reduction in self._reductions.items():
            if reduction is None:
                yield from _members(name, getattr(self, name))


def to_vector(values: array) -> Tensor:
    """Tensor (n,) of the array's type."""
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
