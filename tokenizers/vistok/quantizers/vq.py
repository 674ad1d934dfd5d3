"""Vector quantization: one learned codebook (VQ-VAE, arXiv:1711.00937; VQGAN, arXiv:2012.09841)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vistok.quantizers import base
from vistok.quantizers.base import Context, Quantized, Quantizer


class VectorQuantizer(Quantizer):
    """The nearest codeword by L2, or by cosine on unit vectors (ViT-VQGAN, arXiv:2110.04627, section 3.2).

    Args:
        codebook_size: Number of codewords n, at least 2.
        dim: Codeword dimension d, the channels of the latent.
        cosine: Normalise latent and codewords to unit length. The straight-through gradient then starts at the
            normalised latent, as in LlamaGen.
        ema_decay: Learn the codebook as moving averages of the vectors that chose each codeword (VQ-VAE, appendix
            A.1) with this decay, instead of by gradient; there is then no ``codebook`` loss.
        restart: With ``ema_decay``: a codeword chosen less than this share of an even count is dead, and moves next to
            one that is chosen often (see ``split``). None leaves dead codewords where they are.
        entropy_temperature: Adds the ``entropy`` loss at this temperature; None leaves it out.
    """

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        cosine: bool = False,
        ema_decay: float | None = None,
        restart: float | None = None,
        entropy_temperature: float | None = None,
    ):
        super().__init__()
        if codebook_size < 2:
            raise ValueError(f"codebook_size must be at least 2, not {codebook_size}")
        if ema_decay is not None and not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {ema_decay}")
        if restart is not None and ema_decay is None:
            raise ValueError(f"restart={restart} needs ema_decay: it goes by the moving counts")
        self.codebook_size, self.dim, self.cosine = codebook_size, dim, cosine
        self.ema_decay, self.restart, self.entropy_temperature = ema_decay, restart, entropy_temperature
        self.codebook_sizes = (codebook_size,)
        self.loss_names = ("commitment",)
        self.loss_names += ("codebook",) if ema_decay is None else ()
        self.loss_names += ("entropy",) if entropy_temperature is not None else ()

        table = torch.empty(codebook_size, dim).uniform_(-1 / codebook_size, 1 / codebook_size)
        if cosine:
            table = F.normalize(table)
        if ema_decay is None:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)
            self.register_buffer("ema_counts", torch.ones(codebook_size))
            self.register_buffer("ema_sums", table.clone())

    @base.in_float32
    def codebook(self) -> Tensor:  # (n, d)
        return F.normalize(self.table) if self.cosine else self.table.float()

    @base.in_float32
    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        z = F.normalize(z.float(), dim=1) if self.cosine else z.float()
        codebook = self.codebook()
        quantized = base.quantize(z, codebook)
        losses = {name: quantized.losses[name] for name in self.loss_names if name != "entropy"}
        if self.entropy_temperature is not None:
            losses["entropy"] = base.entropy(z, codebook, self.entropy_temperature)
        return quantized._replace(losses=losses, stats=self._stats(z, quantized.codes))

    def lookup(self, codes: Tensor) -> Tensor:
        return base.lookup(codes, self.codebook())

    @torch.no_grad()
    def _stats(self, z: Tensor, codes: Tensor) -> dict[str, Tensor] | None:
        if self.ema_decay is None or not self.training:
            return None
        vectors = rearrange(z, "b d h w -> (b h w) d")
        sums = torch.zeros_like(self.table).index_add_(0, codes.flatten(), vectors)
        return {"counts": base.count(codes, self.codebook_size), "sums": sums}

    @torch.no_grad()
    def update(self, stats: dict[str, Tensor]) -> None:
        """Moving averages of counts and sums, counts smoothed after Laplace (arXiv:1711.00937, Eq. 6-8)."""
        self.ema_counts.lerp_(stats["counts"], 1 - self.ema_decay)
        self.ema_sums.lerp_(stats["sums"], 1 - self.ema_decay)
        self.table.copy_(self.ema_sums / smoothed(self.ema_counts)[:, None])
        if self.restart is not None:
            table, counts = split(self.table, self.ema_counts, self.ema_counts < self.restart * self.ema_counts.mean())
            self.table.copy_(table)
            self.ema_counts.copy_(counts)
            self.ema_sums.copy_(table * counts[:, None])

    def fold(self) -> "VectorQuantizer":
        # For unit codewords the nearest by L2 is the nearest by angle, whatever the length of z.
        plain = VectorQuantizer(self.codebook_size, self.dim).to(self.table.device).eval()
        plain.table.requires_grad_(False).copy_(self.codebook())
        return plain


def smoothed(counts: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Counts (n,) after Laplace: none is zero, and their sum stays."""
    total = counts.sum()
    return (counts + epsilon) / (total + len(counts) * epsilon) * total


def split(table: Tensor, counts: Tensor, dead: Tensor, nudge: float = 0.01) -> tuple[Tensor, Tensor]:
    """Give each dead codeword half of a popular one's share (as Linde, Buzo and Gray split codewords, 1980).

    The most popular takes the first dead codeword beside itself, the next the second, and so on. A dead codeword lands
    a ``nudge`` of the way back to where it was, so that the two differ and no random number is drawn: every rank does
    the same.

    Args:
        table: Codewords (n, d).
        counts: How often each was chosen (n,).
        dead: Which ones move (n,) bool.
        nudge: Share of the way.

    Returns:
        The new table (n, d) and counts (n,).
    """
    order = counts.masked_fill(dead, -1).argsort(descending=True)
    turn = dead.cumsum(0) - 1  # of each dead codeword: 0, 1, ...
    alive = (~dead).sum()
    moves = dead & (turn < alive)  # with more dead than alive the rest wait for the next update
    source = torch.where(moves, order[turn.clamp(min=0)], torch.arange(len(table), device=table.device))
    halved = torch.zeros_like(dead).index_put_((source,), moves, accumulate=True)
    table = torch.where(moves[:, None], table[source].lerp(table, nudge), table)
    counts = torch.where(moves, counts[source] / 2, torch.where(halved, counts / 2, counts))
    return table, counts
