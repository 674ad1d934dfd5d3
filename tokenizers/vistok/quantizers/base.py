"""What quantizers share: the result, the interface, and the VQ-VAE step as functions."""

import functools
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vistok.kernels.nearest import nearest_code


class Quantized(NamedTuple):
    """What a quantizer returns: k codes at each of (h, w) positions."""

    latent: Tensor  # (b, d, h, w) codewords; gradients pass straight through to z
    codes: Tensor  # (b, k, h, w) int64
    losses: dict[str, Tensor]  # unweighted scalars, named as they are weighted and logged
    keep: Tensor | None = None  # (b, h, w) bool, positions that become tokens; None keeps all
    stats: dict[str, Tensor] | None = None  # what update() needs: counts, sums, samples; detached


class Context(NamedTuple):
    """What a head may look at beside the latent; most need none of it."""

    images: Tensor | None = None  # (b, c, H, W) in [-1, 1], for a router that reads the image
    maps: tuple[Tensor, ...] | None = None  # coarser maps of a hierarchical encoder
    weight: Tensor | None = None  # (b, h, w) weights for losses and statistics
    rate: Tensor | None = None  # (b,) target share of fine positions


class Quantizer(nn.Module, ABC):
    """A quantization head: latent (b, d, h, w) to codes and codewords.

    Attributes:
        dim: Channels d of the latent.
        codebook_sizes: Codewords in each of the k codebooks.
        loss_names: The terms that ``forward`` returns in ``losses``.
    """

    dim: int
    codebook_sizes: tuple[int, ...]
    loss_names: tuple[str, ...]

    @abstractmethod
    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        """Quantize an encoder latent (b, d, h, w). Pure: changes no buffer."""

    @abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (b, k, h, w) to the latent (b, d, h, w) that ``forward`` gave with them."""

    @abstractmethod
    def update(self, stats: dict[str, Tensor]) -> None:
        """Learn from the statistics of one optimizer update: ``samples`` of rank 0, all else summed over ranks."""

    @abstractmethod
    def fold(self) -> "Quantizer":
        """The plain table this head amounts to: a new head with the same codes and latents in evaluation."""


def quantize(z: Tensor, codebook: Tensor) -> Quantized:
    """Nearest codeword, straight-through (VQ-VAE, arXiv:1711.00937, Eq. 3). ``codebook`` is (n, d)."""
    b, _, h, w = z.shape
    codes = nearest_code(rearrange(z, "b d h w -> (b h w) d"), codebook)
    codes = rearrange(codes, "(b h w) -> b 1 h w", b=b, h=h, w=w)
    z_q = lookup(codes, codebook)
    losses = {
        "commitment": F.mse_loss(z, z_q.detach()),  # moves the encoder to its codeword
        "codebook": F.mse_loss(z_q, z.detach()),  # moves the codeword to the encoder
    }
    # z + (z_q - z).detach() would round; this form keeps the value bit-equal to z_q.
    return Quantized(z_q.detach() + (z - z.detach()), codes, losses)


def lookup(codes: Tensor, codebook: Tensor) -> Tensor:
    """Codes (b, 1, h, w) to codewords (b, d, h, w)."""
    return rearrange(F.embedding(codes[:, 0], codebook), "b h w d -> b d h w")


def count(codes: Tensor, codebook_size: int) -> Tensor:
    """How often each codeword was chosen: (n,) float32. Unlike ``torch.bincount`` it never waits for a GPU."""
    codes = codes.flatten()
    return torch.zeros(codebook_size, device=codes.device).index_add_(
        0, codes, torch.ones(1, device=codes.device).expand(len(codes))
    )


def entropy(z: Tensor, codebook: Tensor, temperature: float) -> Tensor:
    """Mean entropy of soft assignments less the entropy of their mean: low when each choice is sure and all are used.

    Assignments are ``softmax(-|z - c|² / temperature)`` (MaskGIT's VQGAN; LlamaGen arXiv:2406.06525, code). They are
    computed in parts, and again in the backward pass, so that no (b h w) × n matrix is kept.

    Args:
        z: Latent (b, d, h, w).
        codebook: Codewords (n, d).
        temperature: Divides the negative squared distances.
    """
    vectors = rearrange(z, "b d h w -> (b h w) d")
    rows = max(1, 2**22 // len(codebook))
    sums = [checkpoint(_entropy_sums, part, codebook, temperature, use_reentrant=False) for part in vectors.split(rows)]
    mean_entropy = sum(own for own, _ in sums) / len(vectors)
    mean = sum(total for _, total in sums) / len(vectors)
    return mean_entropy + (mean * (mean + 1e-5).log()).sum()


def _entropy_sums(z: Tensor, codebook: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """For vectors (m, d): the sum of the assignments' entropies, a scalar, and the assignments' sum (n,)."""
    scores = torch.addmm(codebook.square().sum(1) * -0.5, z, codebook.T)  # the |z|² of each row cancels in softmax
    log_p = (scores * (2 / temperature)).log_softmax(1)
    p = log_p.exp()
    return -(p * log_p).sum(), p.sum(0)


def in_float32(method):
    """Run a head's method with autocast off: a bf16 table would differ from the one that ``lookup`` reads."""

    @functools.wraps(method)
    def run(self, *args, **kwargs):
        device = next(t for t in (*self.parameters(), *self.buffers())).device
        with torch.autocast(device.type, enabled=False):
            return method(self, *args, **kwargs)

    return run
