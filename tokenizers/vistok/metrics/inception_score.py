"""Inception score (arXiv:1606.03498) from sums, in constant memory."""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

SPLITS = 10


class InceptionScore:
    """exp of the mean KL divergence of each image's classes from those of its split, averaged over ten splits.

    torch-fidelity deals images out by a permutation of all of them, which needs their number and all of their logits.
    Here an image's split depends on its name alone, so the score is the same on any number of ranks.

    Args:
        classes: Logits of an image.
        device: Where the logits are.
    """

    def __init__(self, classes: int = 1008, device: torch.device | str = "cpu"):
        self.counts = torch.zeros(SPLITS, dtype=torch.float64, device=device)
        self.probabilities = torch.zeros(SPLITS, classes, dtype=torch.float64, device=device)  # Σp
        self.negentropies = torch.zeros(SPLITS, dtype=torch.float64, device=device)  # Σ Σ p log p

    def update(self, names: Sequence[str], logits: Tensor) -> None:
        """Add the logits (b, classes) of the images so called."""
        splits = torch.tensor([split_of(name) for name in names], device=logits.device)
        log_p = logits.double().log_softmax(1)
        p = log_p.exp()
        self.counts.index_add_(0, splits, torch.ones_like(splits, dtype=torch.float64))
        self.probabilities.index_add_(0, splits, p)
        self.negentropies.index_add_(0, splits, (p * log_p).sum(1))

    def compute(self) -> float:
        """The mean over splits that have images."""
        held = self.counts > 0
        counts = self.counts[held]
        mean = self.probabilities[held] / counts.unsqueeze(1)
        divergence = self.negentropies[held] / counts + torch.special.entr(mean).sum(1)
        return divergence.exp().mean().item()

    def tensors(self) -> dict[str, Tensor]:
        """The sums themselves, by name."""
        return {"counts": self.counts, "probabilities": self.probabilities, "negentropies": self.negentropies}


def split_of(name: str) -> int:
    """Which of the splits an image is in."""
    return zlib.crc32(name.encode()) % SPLITS
