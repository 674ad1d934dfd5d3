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
        restart: With ``ema_decay``: a codeword whose moving count is below this share of an even count is dead, and
            moves onto a random vector of the batch (as in RQ-VAE, arXiv:2203.01941, whose limit is a count of 1). All
            are dead at first, so the codebook begins as a sample of the data. None leaves dead codewords alone.
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
            self.register_buffer("ema_counts", torch.full((codebook_size,), 1.0 if restart is None else 0.0))
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
        stats = {"counts": base.count(codes, self.codebook_size), "sums": sums}
        if self.restart is not None:
            stats["samples"] = vectors[torch.randint(len(vectors), (self.codebook_size,), device=z.device)]
        return stats

    @torch.no_grad()
    def update(self, stats: dict[str, Tensor]) -> None:
        """Moving averages of counts and sums, counts smoothed after Laplace (arXiv:1711.00937, Eq. 6-8)."""
        self.ema_counts.lerp_(stats["counts"], 1 - self.ema_decay)
        self.ema_sums.lerp_(stats["sums"], 1 - self.ema_decay)
        if self.restart is not None:
            even = self.ema_counts.mean()
            dead = self.ema_counts < self.restart * even
            self.ema_sums.copy_(torch.where(dead[:, None], even * stats["samples"], self.ema_sums))
            self.ema_counts.copy_(torch.where(dead, even, self.ema_counts))
        self.table.copy_(self.ema_sums / smoothed(self.ema_counts)[:, None])

    def fold(self) -> "VectorQuantizer":
        # For unit codewords the nearest by L2 is the nearest by angle, whatever the length of z.
        with torch.random.fork_rng(devices=[]):  # validating often must not change what training draws
            plain = VectorQuantizer(self.codebook_size, self.dim).to(self.table.device).eval()
        plain.table.requires_grad_(False).copy_(self.codebook())
        return plain


def smoothed(counts: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Counts (n,) after Laplace: none is zero, and their sum stays."""
    total = counts.sum()
    return (counts + epsilon) / (total + len(counts) * epsilon) * total
