"""Updates that the device applies or skips; the host learns which at points where it has to wait anyway."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vistok.distributed.collectives import sums_over_ranks
from vistok.quantizers.code_statistics import is_sample


class Outcome(NamedTuple):
    """Result of an update: applied, or skipped with the values that led to it."""

    update: int  # number of updates applied before this one
    skipped: dict[str, float]  # this rank's loss terms and gradient norms; empty if the update was applied


class Decisions:
    """Decides on the device which updates are skipped for non-finite values, and records those values."""

    def __init__(self):
        self._names: list[list[str]] = []  # names of the values of each update that has not been read
        self._values: list[Tensor] = []  # (1 + names,) float32: 1 if applied, then the values

    def __len__(self) -> int:
        """Number of updates that have not been read."""
        return len(self._values)

    def decide(self, values: dict[str, Tensor], sums: dict[str, Tensor] | None = None) -> Tensor:
        """Returns 1.0 where the update with these scalars is to be applied, else 0.0: on their device, on all ranks.

        Args:
            values: Loss terms and gradient norms of this rank.
            sums: Tensors of this rank, overwritten by their sums over all ranks, which the same all-reduce computes.
        """
        stacked = torch.stack([value.detach().float() for value in values.values()])
        total = sums_over_ranks({"not finite": (~stacked.isfinite().all()).float(), **(sums or {})})
        applied = (total.pop("not finite") == 0).float()
        if sums is not None:
            sums.update(total)
        self._names.append(list(values))
        self._values.append(torch.cat([applied[None], stacked]))
        return applied

    def read(self, update: int) -> list[Outcome]:
        """Returns the outcomes of all updates since the last call. Waits for the device.

        Args:
            update: Number of updates applied before the first of them.
        """
        if not self._values:
            return []
        numbers = iter(torch.cat(self._values).tolist())
        outcomes = []
        for names in self._names:
            applied = next(numbers) > 0
            values = {name: next(numbers) for name in names}
            outcomes.append(Outcome(update, {} if applied else values))
            update += applied
        self._names, self._values = [], []
        return outcomes


class Contributions:
    """Detached results of the batches that one update accumulates."""

    def __init__(self) -> None:
        self.stats: dict[str, Tensor] = {}  # the head's statistics: sums over the batches, samples of the last one
        self.terms: list[dict[str, Tensor]] = []  # loss terms of each batch
        self.logits: list[dict[str, Tensor]] = []  # mean discriminator logits of each batch
        self.norms: list[Tensor] = []  # copies of the discriminator's buffers from before this update

    def add(
        self,
        stats: Mapping[str, Tensor] | None,
        terms: Mapping[str, Tensor],
        logits: dict[str, Tensor] | None = None,
    ) -> None:
        """Adds the results of a batch."""
        for name, value in (stats or {}).items():
            add = name in self.stats and not is_sample(name)
            self.stats[name] = self.stats[name] + value if add else value
        self.terms.append({name: term.detach() for name, term in terms.items()})
        self.logits += [] if logits is None else [logits]

    def sums(self) -> dict[str, Tensor]:
        """Tensors whose sums over all ranks the update needs: the head's statistics but for samples, mean logits."""
        own = {f"quantizer.{name}": value for name, value in self.stats.items() if not is_sample(name)}
        for name in self.logits[0] if self.logits else ():
            own[f"adversary.{name}"] = cast(Tensor, sum(logits[name] for logits in self.logits))
        return own

    def scalars(self) -> dict[str, Tensor]:
        """Every loss term of every batch by name."""
        return {f"{name} of batch {i}": term for i, terms in enumerate(self.terms) for name, term in terms.items()}


def step(optimizer: Optimizer, applied: Tensor) -> None:
    """Takes an optimizer's step where ``applied`` is 1.

    torch's fused optimizers skip the step on the device, as they do for gradients that overflow in float16. For any
    other optimizer the host has to know ``applied`` and waits for the device.
    """
    own = getattr(optimizer, "optimizer", optimizer)  # behind Lightning's wrapper
    if all(group.get("fused") for group in own.param_groups):
        own.found_inf = 1 - applied
        optimizer.step()
    elif applied:
        optimizer.step()


@torch.no_grad()
def match_layouts(optimizer: Optimizer) -> None:
    """Gives each state of an optimizer the memory layout of its parameter, which it lacks after ``speed`` has changed.

    torch's fused optimizers pair the numbers of both as they lie in memory.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


@contextmanager
def undone_unless(applied: Tensor, module: nn.Module) -> Iterator[None]:
    """Restores the module's parameters and buffers after the block where ``applied`` is 0."""
    tensors = [*module.parameters(), *module.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    yield
    with torch.no_grad():
        for tensor, old in zip(tensors, before, strict=True):
            tensor.copy_(torch.where(applied > 0, tensor, old))
