"""SF-DiVeQ: latents move to points of the curve through all codewords (space-filling DiVeQ, ICLR 2026; its code)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.distributed.collectives import rank_and_size
from vistok.quantizers import base
from vistok.quantizers.base import Context, Quantized
from vistok.quantizers.mapped import MappedCodebook


class SFDiVeQ(MappedCodebook):
    """In training a latent moves to the nearest of random points, one on each segment between consecutive codewords.

    The codewords ``c_1, ..., c_n`` are the corners of a curve. Each update draws a point ``(1 - λ) c_i + λ c_{i+1}`` of
    every segment, and the latent moves to the nearest one as in DiVeQ: by its distances to both ends, in directions
    that are constant for the gradient. The decoder trains the codebook, so there is no other loss, and as the curve
    fills the space of latents no codeword dies. A code in training is the number of the segment.

    In evaluation a code is the nearest codeword, and the latent is that codeword. (The authors' inference moves the
    latent to the nearest point of the curve, ``nearest_point``, which no code tells.)

    Training can begin without quantization, with a codebook made of latents: the codewords are then the means of
    consecutive latents. The authors' code does this in its first 1,000 steps, with the latents of the last 50.

    Args:
        codebook_size: Number of codewords n, at least 3.
        dim: Codeword dimension d, the channels of the latent.
        std: Standard deviation of the normal noise on the directions, as in ``DiVeQ``. 0 is the authors' ``detach``
            variant, whose released code takes the direction to the first end in both terms.
        skip_updates: Updates without quantization, after which the codebook is made; 0 begins with random codewords.
        mean_updates: Number of the last of these updates whose latents make the codebook.
    """

    loss_names = ()
    stored_names = {"codewords": "table"}

    skipped: Tensor  # updates without quantization so far
    sums: Tensor  # (n, d) of latents, while the codebook is made
    counts: Tensor  # (n,)

    def __init__(self, codebook_size: int, dim: int, std: float = 1e-3, skip_updates: int = 0, mean_updates: int = 50):
        super().__init__()
        if codebook_size < 3:
            raise ValueError(f"codebook_size must be at least 3, not {codebook_size}")
        if skip_updates < 0 or mean_updates < 1 or std < 0:
            raise ValueError(
                f"skip_updates={skip_updates} and std={std} must be at least 0, mean_updates={mean_updates} at least 1"
            )
        self.codebook_size, self.std = codebook_size, std
        self.dim, self.codebook_sizes = dim, (codebook_size,)
        self.skip_updates, self.mean_updates = skip_updates, mean_updates
        self.codewords = nn.Parameter(torch.rand(codebook_size, dim) / codebook_size)
        if skip_updates:
            self.register_buffer("skipped", torch.zeros((), dtype=torch.int64))
            self.register_buffer("sums", torch.zeros(codebook_size, dim))
            self.register_buffer("counts", torch.zeros(codebook_size))

    def codebook(self) -> Tensor:
        return self.codewords

    @base.in_float32
    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        if not self.training:
            return super().forward(z, context)._replace(losses={})
        z, codebook = z.float(), self._codebook()
        share = torch.rand(len(codebook) - 1, 1, device=z.device)
        codes = base.nearest(z, torch.lerp(codebook[:-1], codebook[1:], share))
        first, second = base.lookup(codes, codebook[:-1]), base.lookup(codes, codebook[1:])
        noise = [torch.randn_like(z) * self.std for _ in range(2)] if self.std else None
        latent = moved(z, first, second, base.lookup(codes, share), noise)
        stats = None
        if self.skip_updates:
            latent = torch.where(self.skipped < self.skip_updates, z, latent)
            if context.progress is None or context.progress < self.skip_updates:
                stats = self._sums(z.detach())
        return Quantized(latent, codes, {}, stats=stats, codewords=first)

    def _sums(self, z: Tensor) -> dict[str, Tensor]:
        """Sums and counts of this update's share of the latents, which are numbered over all of ``mean_updates``."""
        rank, size = rank_and_size()
        vectors = z.movedim(1, -1).flatten(0, 2)
        n = len(vectors) * size
        each = self.mean_updates * n // self.codebook_size  # latents of a codeword
        if not each:
            raise ValueError(
                f"codebook_size={self.codebook_size} needs as many latents, but mean_updates={self.mean_updates} "
                f"updates have {self.mean_updates * n}"
            )
        update = self.skipped - (self.skip_updates - self.mean_updates)
        number = update * n + rank * len(vectors) + torch.arange(len(vectors), device=z.device)
        codeword = number.div(each, rounding_mode="floor")
        inside = ((update >= 0) & (codeword < self.codebook_size)).float()
        codeword = codeword.clamp(0, self.codebook_size - 1)
        return {
            "sums": torch.zeros_like(self.sums).index_add_(0, codeword, vectors * inside[:, None]),
            "counts": torch.zeros_like(self.counts).index_add_(0, codeword, inside),
        }

    @torch.no_grad()
    def update(self, stats: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """Counts the updates without quantization; after the last one, sets the codebook."""
        if not stats:
            return {}
        self.sums += stats["sums"]
        self.counts += stats["counts"]
        self.skipped += 1
        made = (self.skipped == self.skip_updates).expand(self.codebook_size)
        self.codewords.copy_(torch.where(made[:, None], self.sums / self.counts[:, None], self.codewords))
        return {"codewords": made}

    @torch.no_grad()
    def revive(self, i: int, rows: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        self.codewords.copy_(torch.where(rows[:, None], vectors, self.codewords))
        return {"codewords": rows}

    @torch.no_grad()
    def nearest_point(self, z: Tensor) -> Tensor:
        """Point of the curve near the nearest codeword, on one of its two segments, (b, d, h, w)."""
        codebook = self._codebook()
        middle = base.nearest(z.float(), codebook).clamp(1, len(codebook) - 2)
        before, at, after = (base.lookup(middle + step, codebook) for step in (-1, 0, 1))
        one, other = _on_segment(z, before, at), _on_segment(z, at, after)
        distances = ((z - point).square().sum(1, keepdim=True) for point in (one, other))
        return torch.where(next(distances) <= next(distances), one, other)


def moved(z: Tensor, first: Tensor, second: Tensor, share: Tensor, noise: list[Tensor] | None) -> Tensor:
    """Latent (b, d, h, w) moved to the point ``share`` (b, 1, h, w) of the way from ``first`` to ``second``.

    ``noise`` has a tensor (b, d, h, w) for the direction to each end; None for the authors' ``detach`` variant.
    """
    lengths = [torch.linalg.vector_norm(end - z, dim=1, keepdim=True) for end in (first, second)]
    if noise is None:
        directions = [(first - z) / (length + 1e-12) for length in lengths]
    else:
        directions = [F.normalize(end - z + own, dim=1) for end, own in zip((first, second), noise, strict=True)]
    steps = [
        length * (part * direction).detach()
        for length, part, direction in zip(lengths, (1 - share, share), directions, strict=True)
    ]
    return z + steps[0] + steps[1]


def _on_segment(z: Tensor, start: Tensor, end: Tensor) -> Tensor:
    way = end - start
    share = (way * (z - start)).sum(1, keepdim=True) / way.square().sum(1, keepdim=True)
    return start + share.clamp(0, 1) * way
