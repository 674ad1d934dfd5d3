"""Usage of codebooks at each scale of a multi-scale head."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vistok.distributed.collectives import gather_objects
from vistok.metrics.states import Accumulator, Saved
from vistok.metrics.usage import CodebookUsage, usages_of


class UsageByScale(Accumulator):
    """Counts the choices of every codeword at each scale; nothing where codes have only one scale.

    There are as many scales as the codes have. Where their number depends on the size of images, the first scales of
    all sizes are counted together, and so on.

    Args:
        codebook_sizes: Number of codewords in each of the k codebooks.

    Attributes:
        scales: Counts of each scale.
    """

    def __init__(self, codebook_sizes: Sequence[int]):
        super().__init__()
        self.codebook_sizes, self.device = tuple(codebook_sizes), torch.device("cpu")
        self.scales: list[CodebookUsage] = []

    def update(self, maps: Sequence[Tensor]) -> None:
        """Counts codes as ``Layout.split`` returns them: (b, k, h, w) int64 of each scale."""
        if len(maps) > 1:
            self._extend(len(maps))
            for counts, own in zip(self.scales, maps, strict=False):
                counts.update(own)

    def add(self, hits: Sequence[Tensor]) -> None:
        """Adds counts, (parts, largest size) of each scale."""
        self._extend(len(hits))
        for own, added in zip(self.scales, hits, strict=False):
            own.hits += added.to(own.hits.device)

    def _extend(self, number: int) -> None:
        """Adds counts of 0 until there are so many scales."""
        while len(self.scales) < number:
            self.scales.append(CodebookUsage(self.codebook_sizes).to(self.device))

    def compute(self) -> list[dict[str, Tensor]]:
        """``usage``, ``usage_ceiling``, ``perplexity`` and ``tokens`` of each scale: see ``CodebookUsage``."""
        values = (usages_of(own.counts) for own in self.scales)
        return [{name: own[name] for name in own if not name.startswith("entropy")} for own in values]

    def clear(self) -> None:
        """Sets all counts to 0."""
        for own in self.scales:
            own.hits.zero_()

    def to(self, device: torch.device | str) -> "UsageByScale":
        self.device = torch.device(device)
        for own in self.scales:
            own.to(device)
        return self

    def gather(self) -> "UsageByScale":
        self._extend(max(gather_objects(len(self.scales))))  # a rank without images has none
        for own in self.scales:
            own.gather()
        return self

    def save(self) -> Saved:
        return Saved({f"{i}/hits": own.hits.cpu() for i, own in enumerate(self.scales)}, {"scales": len(self.scales)})

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        self.scales = []
        self.add([tensors[f"{i}/hits"] for i in range(about["scales"])])
