"""Heads elsewhere: a step of vector-quantize-pytorch's classes, and dense forms as published code has them."""

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

import torch
import torch.nn.functional as F
from entropy import dense_of_scores
from nearest import naive
from torch import Tensor, nn

from vistok.quantizers.sf_diveq import moved


class Dense(nn.Module):
    """A codebook (k, d) and a form, which makes of it and of vectors (n, d) a latent, codes and the sum of losses."""

    def __init__(self, codewords: Tensor, form: Callable[[nn.Parameter, Tensor], tuple[Tensor, Tensor, Tensor]]):
        super().__init__()
        self.codewords, self.form = nn.Parameter(codewords), form

    def forward(self, sequences: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        latent, codes, loss = self.form(self.codewords, sequences.flatten(0, 1))
        return latent.view_as(sequences), codes, loss


def step(head: nn.Module, z: Tensor) -> Callable[[], Tensor]:
    """Forward and backward with a latent (b, d, h, w), as sequences; returns the codes of all positions."""
    sequences = latents(z.flatten(2).transpose(1, 2))

    def run() -> Tensor:
        z = next(sequences)
        latent, codes, *losses = head(z.requires_grad_())
        backward(latent, losses, z.detach())
        head.zero_grad()
        return codes.flatten()

    return run


def latents(z: Tensor, number: int = 32) -> Iterator[Tensor]:
    """Copies of permutations of a latent's numbers in turn: codewords learned by averages would equal a single one."""
    numbers = z.flatten()
    pool = [numbers[torch.randperm(len(numbers))].view_as(z) for _ in range(number)]
    return (own.clone() for own in cycle(pool))


def backward(latent: Tensor, losses: Sequence[Tensor], gradient: Tensor) -> None:
    """The backward pass of losses and of a gradient that arrives at the latent."""
    torch.autograd.backward([latent, *losses], [gradient, *map(torch.ones_like, losses)])


def rows(z: Tensor) -> Tensor:
    return z.movedim(1, -1).flatten(0, 2)


def usual(codebook: nn.Parameter, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """VQGAN's form: |z|² + |c|² - 2 z·c, argmin, both losses."""
    codes = naive(x, codebook)
    chosen = F.embedding(codes, codebook)
    losses = F.mse_loss(x, chosen.detach()) + F.mse_loss(chosen, x.detach())
    return x + (chosen - x).detach(), codes, losses


def ibq(codebook: nn.Parameter, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Index backpropagation (arXiv:2412.02692) with its entropy loss at a temperature of 0.01."""
    logits = torch.einsum("nd,kd->nk", x, codebook)
    soft, codes = logits.softmax(1), logits.argmax(1)
    hard = torch.zeros_like(soft).scatter_(1, codes[:, None], 1.0)
    values = torch.einsum("nk,kd->nd", hard - soft.detach() + soft, codebook)
    chosen = F.embedding(codes, codebook)
    losses = F.mse_loss(values, x) + F.mse_loss(chosen.detach(), x) + F.mse_loss(chosen, x.detach())
    return values, codes, losses + dense_of_scores(logits / 0.01)


def gumbel(codebook: nn.Parameter, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """VQGAN's Gumbel-softmax with straight-through samples; here the codebook is also the map to logits."""
    logits = x @ codebook.T
    values = F.gumbel_softmax(logits, tau=0.9, hard=True) @ codebook
    p = logits.softmax(1)
    divergence = (p * (p * len(codebook) + 1e-10).log()).sum(1).mean()
    return values, logits.argmax(1), divergence


def sf_diveq(codebook: nn.Parameter, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Space-filling DiVeQ with the usual search."""
    share = torch.rand(len(codebook) - 1, 1)
    codes = naive(x, torch.lerp(codebook[:-1], codebook[1:], share))
    first, second = F.embedding(codes, codebook[:-1]), F.embedding(codes, codebook[1:])
    noise = [torch.randn_like(x) * 1e-3 for _ in range(2)]
    return moved(x, first, second, share[codes], noise), codes, first.new_zeros(()).requires_grad_()
