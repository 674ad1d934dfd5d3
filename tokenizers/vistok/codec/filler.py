"""Concealment model: a small transformer that predicts lost codes (after arXiv:2307.08265, section 3.3).

It reads codewords rather than codes, and predicts the parameters of a distribution over the space of codewords, so that
one model serves every reduced codebook of a tokenizer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Filler(nn.Module):
    """Maps the codewords around lost positions to a query for each lost position.

    Args:
        dim: Channels d of the latent.
        width: Channels of a token.
        depth: Number of blocks.
        num_heads: Number of attention heads.
        window: Side in positions of the square that the model reads.
    """

    def __init__(self, dim: int, width: int = 128, depth: int = 4, num_heads: int = 4, window: int = 16):
        super().__init__()
        self.dim, self.width, self.depth, self.num_heads, self.window = dim, width, depth, num_heads, window
        self.register_buffer("mean", torch.zeros(dim))  # of the used codewords
        self.register_buffer("deviation", torch.ones(dim))
        self.into = nn.Linear(dim, width)
        self.lost = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.randn(window * window, width) * 0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, num_heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 2 * dim)

    def forward(self, latent: Tensor, known: Tensor) -> Tensor:
        """Queries (b, 2 d, s, s) for a window of s positions a side; see ``log_probabilities``.

        Args:
            latent: Codewords (b, d, s, s); those of lost positions are ignored.
            known: (b, s, s) bool, the received positions.
        """
        b, d, s, _ = latent.shape
        x = (latent.flatten(2).transpose(1, 2) - self.mean) / self.deviation
        x = torch.where(known.flatten(1)[..., None], self.into(x), self.lost) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x)).transpose(1, 2).reshape(b, 2 * d, s, s)

    def log_probabilities(self, queries: Tensor, tables: Sequence[Tensor], counts: Sequence[Tensor]) -> list[Tensor]:
        """Logarithms of the probabilities of each codebook's codes, (m, n).

        They are those of ``count · exp(a · c + b · c²)``, a normal distribution with independent channels where b is
        negative, with standardised codewords c and the halves a and b of a query.

        Args:
            queries: (m, 2 d).
            tables: Codewords (n, d_i) of each codebook; the d_i add up to d.
            counts: Counts of the codewords (n,), above 0.
        """
        dims = [table.shape[1] for table in tables]
        linear, square = (half.split(dims, 1) for half in queries.chunk(2, 1))
        means, deviations = self.mean.split(dims), self.deviation.split(dims)
        log_p = []
        for i, (table, count) in enumerate(zip(tables, counts, strict=True)):
            c = ((table - means[i]) / deviations[i]).T
            log_p.append((linear[i] @ c + square[i] @ c.square() + count.float().log()).log_softmax(1))
        return log_p

    @torch.no_grad()
    def queries(self, latent: Tensor, known: Tensor) -> Tensor:
        """Queries (m, 2 d) for the m lost positions of a grid of any size, row by row, each from the window around it.

        Args:
            latent: Codewords (d, h, w).
            known: (h, w) bool.
        """
        s = self.window
        h, w = known.shape
        down, right = max(0, s - h), max(0, s - w)
        latent = nn.functional.pad(latent, (0, right, 0, down))
        known_here = nn.functional.pad(known, (0, right, 0, down))
        ys, y_of = windows(known_here.shape[0], s)
        xs, x_of = windows(known_here.shape[1], s)
        rows, columns = (~known).nonzero(as_tuple=True)
        window_of = y_of[rows] * len(xs) + x_of[columns]
        needed, at = window_of.unique(return_inverse=True)
        corners = [(int(ys[i // len(xs)]), int(xs[i % len(xs)])) for i in needed.tolist()]
        found = []
        for chunk in range(0, len(corners), 64):
            part = corners[chunk : chunk + 64]
            latents = torch.stack([latent[:, y : y + s, x : x + s] for y, x in part])
            received = torch.stack([known_here[y : y + s, x : x + s] for y, x in part])
            found.append(self(latents, received))
        corner_y, corner_x = torch.tensor(corners).T[:, at]
        return torch.cat(found)[at, :, rows - corner_y, columns - corner_x]


def windows(length: int, side: int) -> tuple[Tensor, Tensor]:
    """Starts of windows that overlap by half, and the window in which each of ``length`` positions is most central."""
    starts = torch.tensor([*range(0, length - side, max(1, side // 2)), length - side])
    centres = starts + (side - 1) / 2
    return starts, (torch.arange(length)[:, None] - centres).abs().argmin(1)
