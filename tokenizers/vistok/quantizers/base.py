"""What quantizers share: the result, the interface, and the VQ-VAE step as functions."""

import functools
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vistok.kernels import nearest_code, soft_assignment
from vistok.quantizers.estimators import Estimator, StraightThrough
from vistok.ranks import from_rank_zero, mean_with_gradient, rank_and_size


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
    unused: tuple[str, ...] = ()  # loss terms that nobody wants: costly ones are left out


class Quantizer(nn.Module, ABC):
    """A quantization head: latent (b, d, h, w) to codes and codewords.

    Attributes:
        dim: Channels d of the latent.
        input_dim: Channels of the latent that goes in, for a head that changes them; None for ``dim``.
        codebook_sizes: Codewords in each of the k codebooks.
        loss_names: The terms that ``forward`` returns in ``losses``.
    """

    dim: int
    input_dim: int | None = None
    codebook_sizes: tuple[int, ...]
    loss_names: tuple[str, ...]

    @abstractmethod
    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        """Quantize an encoder latent (b, d, h, w). Pure: changes no buffer."""

    @abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (b, k, h, w), of any whole numbers, to the latent (b, d, h, w) of ``forward`` in evaluation, float32.

        Raises:
            ValueError: A code is not in its codebook.
        """

    @abstractmethod
    def update(self, stats: dict[str, Tensor]) -> dict[str, Tensor]:
        """Learn from the statistics of one optimizer update, summed over ranks.

        Returns:
            Which rows (n,) bool were written to, by the parameter's name: averages of weights copy these.
        """

    @abstractmethod
    def fold(self) -> "Quantizer":
        """The plain table this head amounts to: a new head with the same codes and latents in evaluation.

        Raises:
            ValueError: No single table gives the same latents.
        """

    @abstractmethod
    def for_inference(self) -> "Quantizer":
        """A new head with the same codes and latents in evaluation, every learned map folded into a plain table."""


def single_heads(quantizer: Quantizer) -> list[Quantizer]:
    """The heads with one codebook each that ``quantizer`` is or is composed of, in the order of its codebooks."""
    heads = [module for module in quantizer.modules() if isinstance(module, Quantizer)]
    return [head for head in heads if not any(part in heads for part in head.modules() if part is not head)]


def check_size(codebook_size: int) -> None:
    """Refuse a codebook without a choice."""
    if codebook_size < 2:
        raise ValueError(f"codebook_size must be at least 2, not {codebook_size}")


def quantize(
    z: Tensor,
    codebook: Tensor,
    estimator: Estimator = StraightThrough(),
    weight: Tensor | None = None,
    source: Tensor | None = None,
) -> Quantized:
    """Nearest codeword (VQ-VAE, arXiv:1711.00937, Eq. 1-3).

    Args:
        z: Latent (b, d, h, w).
        codebook: Codewords (n, d).
        estimator: How gradients pass to ``source``.
        weight: (b, h, w) weights of the squared errors in both losses, whose means stay over all positions.
        source: What the estimator takes for the latent, (b, d, h, w); None for ``z``.
    """
    b, _, h, w = z.shape
    codes = nearest_code(rearrange(z, "b d h w -> (b h w) d"), codebook)
    codes = rearrange(codes, "(b h w) -> b 1 h w", b=b, h=h, w=w)
    z_q = lookup(codes, codebook)
    losses = {
        "commitment": squared_error(z, z_q.detach(), weight),  # moves the encoder to its codeword
        "codebook": squared_error(z_q, z.detach(), weight),  # moves the codeword to the encoder
    }
    return Quantized(estimator(z if source is None else source, z_q), codes, losses)


def squared_error(a: Tensor, b: Tensor, weight: Tensor | None) -> Tensor:
    """The mean over all elements of (b, d, h, w), each position's error times its weight (b, h, w)."""
    return F.mse_loss(a, b) if weight is None else ((a - b).square() * weight[:, None]).mean()


def lookup(codes: Tensor, codebook: Tensor) -> Tensor:
    """Codes (b, 1, h, w) to codewords (b, d, h, w)."""
    return rearrange(F.embedding(codes[:, 0], codebook), "b h w d -> b d h w")


def check_codes(codes: Tensor, codebook_sizes: tuple[int, ...]) -> Tensor:
    """Refuse codes (b, k, *positions) that are not in their codebooks: on a GPU an index out of range ends the process.

    It waits for the GPU, so it belongs in ``lookup``, never in ``forward``; a compiler leaves it out.

    Returns:
        The codes as int64, of whatever whole numbers they are: token files have uint16.

    Raises:
        ValueError: They are no whole numbers, of another number of codebooks, or out of range.
    """
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"codes are {str(codes.dtype).removeprefix('torch.')}, not whole numbers")
    codes = codes.long()
    if codes.ndim < 2 or codes.shape[1] != len(codebook_sizes):
        raise ValueError(f"codes have the shape {tuple(codes.shape)}, not (b, {len(codebook_sizes)}, h, w)")
    if torch.compiler.is_compiling() or not codes.numel():
        return codes
    for i, size in enumerate(codebook_sizes):
        lowest, highest = (int(bound) for bound in codes[:, i].aminmax())
        if lowest < 0 or highest >= size:
            wrong = lowest if lowest < 0 else highest
            raise ValueError(f"codes hold {wrong}, but codebook {i} has the codes 0 to {size - 1}")
    return codes


def count(codes: Tensor, codebook_size: int, weight: Tensor | None = None) -> Tensor:
    """How often each codeword was chosen, or the sum of its positions' weights: (n,) float32.

    Unlike ``torch.bincount`` it never waits for a GPU.
    """
    codes = codes.flatten()
    ones = torch.ones(1, device=codes.device).expand(len(codes))
    added = ones if weight is None else weight.flatten().float()
    return torch.zeros(codebook_size, device=codes.device).index_add_(0, codes, added)


def sample(vectors: Tensor, number: int) -> Tensor:
    """Random vectors of the batch of all ranks, none twice; this rank's part of them, to be summed over ranks.

    Rank 0 draws for all, so that together they have what one process with the whole batch would: on each rank the rows
    of other ranks' vectors are zero. Where the batch has too few, all are repeated and a little noise sets the copies
    apart (RQ-VAE's code, arXiv:2203.01941: uniform in [0, 0.01 / √d]).

    Args:
        vectors: This rank's (m, d), as many as on the others.
        number: How many to draw.

    Returns:
        (number, d).
    """
    rank, size = rank_and_size()
    m, dim = vectors.shape
    copies = -(-number // (m * size))
    chosen = from_rank_zero(torch.randperm(copies * m * size, device=vectors.device)[:number])
    own = chosen % (m * size) - rank * m
    drawn = vectors[own.clamp(0, m - 1)]
    if copies > 1:
        drawn = drawn + torch.rand(copies * m * size, dim, device=vectors.device)[chosen] * (0.01 * dim**-0.5)
    return torch.where(((own >= 0) & (own < m))[:, None], drawn, 0.0)


def entropy(z: Tensor, codebook: Tensor, temperature: float, weight: Tensor | None = None) -> Tensor:
    """Mean entropy of soft assignments less the entropy of their mean: low when each choice is sure and all are used.

    Assignments are ``softmax(-|z - c|² / temperature)`` (MaskGIT's VQGAN; LlamaGen arXiv:2406.06525, code).

    Args:
        z: Latent (b, d, h, w).
        codebook: Codewords (n, d).
        temperature: Divides the negative squared distances.
        weight: (b, h, w) weights of positions in both means; None counts all alike.
    """
    vectors = rearrange(z, "b d h w -> (b h w) d")
    weight = vectors.new_ones(len(vectors)) if weight is None else weight.flatten().to(vectors)
    total = mean_with_gradient(weight.sum())
    entropies, sums = soft_assignment(vectors, codebook, weight, 2 / temperature)
    mean = mean_with_gradient(sums) / total
    return (entropies * weight).sum() / total + (mean * (mean + 1e-5).log()).sum()


def called_in_float32(module: nn.Module, *arguments: Tensor) -> Tensor:
    """What a module makes of its arguments with its weights in float32, also where it was moved to another dtype."""
    if all(weight.dtype == torch.float32 for weight in module.parameters()):
        return module(*arguments)
    weights = {name: weight.float() for name, weight in module.named_parameters()}
    return torch.func.functional_call(module, weights, arguments)


def in_float32(method):
    """Run a head's method with autocast off: a bf16 table would differ from the one that ``lookup`` reads."""

    @functools.wraps(method)
    def run(self, *args, **kwargs):
        device = next(t for t in (*self.parameters(), *self.buffers())).device
        with torch.autocast(device.type, enabled=False):
            return method(self, *args, **kwargs)

    return run
