"""Updates that are made or left out on the device, of which the host learns later, when it has to wait anyway."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vistok.distributed.collectives import sum_over_ranks


class Outcome(NamedTuple):
    """What became of an update."""

    update: int  # updates that had been made before it
    left_out: dict[str, float]  # its loss terms and gradient norms on this rank; nothing if it was made


class Decisions:
    """Decides on the device whether an update is left out, since something is not finite, and keeps what it saw."""

    def __init__(self):
        self._names: list[list[str]] = []  # of each update that has not been read
        self._seen: list[Tensor] = []  # (1 + names,) float32: whether it is made, and the values

    def __len__(self) -> int:
        """Updates that have not been read."""
        return len(self._seen)

    def decide(self, values: dict[str, Tensor]) -> Tensor:
        """Whether an update with these scalars is made, on all ranks or on none: 1.0 or 0.0, on their device."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        made = (sum_over_ranks((~stacked.isfinite().all()).float()) == 0).float()
        self._names.append(list(values))
        self._seen.append(torch.cat([made[None], stacked]))
        return made

    def read(self, update: int) -> list[Outcome]:
        """What became of all updates since the last time; waits for the device.

        Args:
            update: Updates that had been made before the first of them.
        """
        if not self._seen:
            return []
        numbers = iter(torch.cat(self._seen).tolist())
        outcomes = []
        for names in self._names:
            made = next(numbers) > 0
            values = {name: next(numbers) for name in names}
            outcomes.append(Outcome(update, {} if made else values))
            update += made
        self._names, self._seen = [], []
        return outcomes


class Contributions:
    """What the batches of one update have given so far, detached."""

    def __init__(self) -> None:
        self.stats: dict[str, Tensor] = {}  # of the head: sums over the batches, samples of the last one
        self.terms: list[dict[str, Tensor]] = []  # of each batch: its loss terms
        self.logits: list[dict[str, Tensor]] = []  # of each batch: the discriminator's, in the mean
        self.norms: list[Tensor] = []  # buffers of the discriminator, as they were before this update

    def add(
        self,
        stats: Mapping[str, Tensor] | None,
        terms: Mapping[str, Tensor],
        logits: dict[str, Tensor] | None = None,
    ) -> None:
        """Add a batch's."""
        for name, value in (stats or {}).items():
            add = name in self.stats and not is_sample(name)
            self.stats[name] = self.stats[name] + value if add else value
        self.terms.append({name: term.detach() for name, term in terms.items()})
        self.logits += [] if logits is None else [logits]

    def scalars(self) -> dict[str, Tensor]:
        """Every loss term of every batch, by name."""
        return {f"{name} of batch {i}": term for i, terms in enumerate(self.terms) for name, term in terms.items()}


def is_sample(name: str) -> bool:
    """True for a statistic of which an update takes the last batch's; parts of a head prefix its name."""
    return name.rpartition(".")[2] == "samples"


def step(optimizer: Optimizer, made: Tensor) -> None:
    """An optimizer's step, where ``made`` is 1.

    torch's fused optimizers leave it out themselves, as they do for gradients that overflow in float16. For any other
    one the host has to know, and waits for the device.
    """
    own = getattr(optimizer, "optimizer", optimizer)  # behind Lightning's wrapper
    if all(group.get("fused") for group in own.param_groups):
        own.found_inf = 1 - made
        optimizer.step()
    elif made:
        optimizer.step()


@contextmanager
def undone_unless(made: Tensor, module: nn.Module) -> Iterator[None]:
    """Where ``made`` is 0, what is written to the module's parameters and buffers within the block is undone."""
    tensors = [*module.parameters(), *module.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    yield
    with torch.no_grad():
        for tensor, old in zip(tensors, before, strict=True):
            tensor.copy_(torch.where(made > 0, tensor, old))
