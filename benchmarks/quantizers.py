"""Heads in training (forward, backward, update) on one CPU thread, beside other implementations of each.

    python benchmarks/quantizers.py [--gate] [--heads NAME ...] [--codewords K] [--dims D ...] [--samples S]
        [--keep-pages] [--initial]

2,048 vectors a step, 16,384 codewords where a head can have as many. Others are vector-quantize-pytorch's classes, or
the dense form of published code where it has none (``peers.py``). "Of search" divides by our search alone, for SimVQ by
the search and its map's own products. Peaks are without gradients of parameters; n × k floats are 128 MiB.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import peers
import torch
import vector_quantize_pytorch as vqp
from measure import MIB, Claims, allocated, line, milliseconds, table
from torch import Tensor, nn

from vistok import speed
from vistok.kernels import nearest_code
from vistok.quantizers import (
    FSQ,
    IBQ,
    BinaryQuantizer,
    GumbelQuantizer,
    Quantizer,
    ResidualQuantizer,
    SFDiVeQ,
    SimVQ,
    VectorQuantizer,
)

VECTORS, DEPTH, BITS = 2048, 4, 14
LEVELS = [4, 4, 4, 3, 3, 3, 3, 3]  # 15,552 codewords
MOST_OF_SEARCH = 1.6
MOST_OF_MATRIX = 0.25  # of n × k floats; with 256 channels the codebook itself has an eighth of their size


class Case(NamedTuple):
    """A head of ours, by numbers of codewords and channels, and what it is compared with."""

    ours: Callable[[int, int], Quantizer]
    peer: Callable[[int, int], nn.Module] | None  # of vector-quantize-pytorch
    form: Callable[[nn.Parameter, Tensor], tuple[Tensor, Tensor, Tensor]] | None = None
    least: float = 1.0  # times as fast
    searches: bool = False
    dims: tuple[int, ...] = (8, 32, 256)


def bits(k: int, d: int, spherical: bool) -> Quantizer:
    return BinaryQuantizer(d, spherical, temperature=0.01, group=None, num_codebooks=d // BITS)


def depths(k: int, d: int, number: int) -> Quantizer:
    return ResidualQuantizer([VectorQuantizer(k, d, ema_decay=0.8) for _ in range(number)], DEPTH)


def peer_of_bits(k: int, d: int, spherical: bool) -> nn.Module:
    return vqp.LFQ(codebook_size=2**BITS, num_codebooks=d // BITS, spherical=spherical, commitment_loss_weight=0.25)


def peer_of_depths(k: int, d: int, shared: bool) -> nn.Module:
    arguments = {"num_quantizers": DEPTH, "codebook_size": k, "shared_codebook": shared, "rotation_trick": False}
    return vqp.ResidualVQ(dim=d, **arguments)


def peer_of_vq(k: int, d: int, **arguments: bool) -> nn.Module:
    return vqp.VectorQuantize(d, k, rotation_trick=False, **arguments)


LEARNED = {"learnable_codebook": True, "ema_update": False}
CASES = {
    "vq": Case(VectorQuantizer, partial(peer_of_vq, **LEARNED), searches=True),
    "vq, usual form": Case(VectorQuantizer, None, peers.usual, searches=True),
    "vq_cosine": Case(partial(VectorQuantizer, cosine=True), partial(peer_of_vq, use_cosine_sim=True)),
    "vq_ema": Case(partial(VectorQuantizer, ema_decay=0.8), peer_of_vq, searches=True),
    "simvq": Case(SimVQ, lambda k, d: vqp.SimVQ(d, k, rotation_trick=False), searches=True),
    "residual, shared": Case(partial(depths, number=1), partial(peer_of_depths, shared=True), least=2),
    "residual, separate": Case(partial(depths, number=DEPTH), partial(peer_of_depths, shared=False), least=2),
    "fsq": Case(
        lambda k, d: FSQ(LEVELS, num_codebooks=d // 8), lambda k, d: vqp.FSQ(LEVELS, num_codebooks=d // 8), least=2
    ),
    "lfq": Case(partial(bits, spherical=False), partial(peer_of_bits, spherical=False), dims=(14, 28)),
    "bsq": Case(partial(bits, spherical=True), partial(peer_of_bits, spherical=True), dims=(14, 28)),
    "ibq": Case(IBQ, None, peers.ibq),
    "gumbel": Case(GumbelQuantizer, None, peers.gumbel),
    "sf_diveq": Case(SFDiVeQ, None, peers.sf_diveq),
}


def step(head: Quantizer, z: Tensor) -> Callable[[], Tensor]:
    """A training step of a head of ours; returns its codes."""
    latents = peers.latents(z)

    def run() -> Tensor:
        z = next(latents)
        quantized = head(z.requires_grad_())
        peers.backward(quantized.latent, list(quantized.losses.values()), z.detach())
        head.zero_grad()
        head.update(quantized.stats or {})
        return quantized.codes.flatten()

    return run


def search(head: Quantizer, z: Tensor) -> Callable[[], object]:
    """The search alone; for SimVQ with the products of its map, forward and backward."""
    vectors = peers.rows(z).contiguous()

    def run() -> None:
        codebook = head.codebook()
        nearest_code(vectors, codebook.detach())
        if isinstance(head, SimVQ):
            codebook.backward(codebook.detach())
            head.zero_grad()

    return run


@torch.no_grad()
def spread(*modules: nn.Module) -> None:
    """Makes codewords that are as far apart as the latents, as they are after a while or after k-means."""
    for module in modules:
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if name.endswith(("codewords", "embed", "embed_avg", "ema_sums")):
                tensor.copy_(torch.randn(tensor.shape))


def learned(module: nn.Module) -> int:
    """Bytes of the gradients of a module."""
    return sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    if arguments.keep_pages:
        speed.keep_freed_pages()
    claims, k = Claims(), arguments.codewords
    table(["head", "d", "ms", "times as fast", "of search", "peak, MiB", "of the other"])
    for name in arguments.heads:
        case = CASES[name]
        for d in arguments.dims or case.dims:
            torch.manual_seed(0)
            z, head = torch.randn(8, d, 16, 16), case.ours(k, d)
            other = peers.Dense(torch.randn(k, d), case.form) if case.form else case.peer(k, d)
            if not arguments.initial:
                spread(head, other)
            runs = {"ours": step(head, z), "other": peers.step(other, z)}
            if case.searches:
                runs["search"] = search(head, z)
            spent = milliseconds(runs, arguments.samples)
            peaks = [allocated(runs["ours"]) - learned(head), allocated(runs["other"]) - learned(other)]
            faster = spent["other"] / spent["ours"]
            of_search = spent["ours"] / spent["search"] if case.searches else "–"
            line([name, d, spent["ours"], faster, of_search, *(peak / MIB for peak in peaks)])
            claims.at_least(f"{name}, d={d}: times as fast", faster, case.least)
            if k >= 16384 and d < 256:
                claims.at_most(f"{name}, d={d}: of n × k", peaks[0] / (4 * VECTORS * k), MOST_OF_MATRIX)
            if case.searches and k >= 16384:
                claims.at_most(f"{name}, d={d}: of search", of_search, MOST_OF_SEARCH)
    claims.finish(arguments.gate)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure quantization heads in training on the CPU.")
    parser.add_argument("--gate", action="store_true", help="end with status 1 if a target is not reached")
    parser.add_argument("--heads", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--codewords", type=int, default=16384)
    parser.add_argument("--keep-pages", action="store_true", help="keep freed memory, as speed=fast does in training")
    parser.add_argument("--initial", action="store_true", help="begin with initial codewords, not with spread ones")
    parser.add_argument("--dims", type=int, nargs="+", help="channels (default: 8, 32 and 256; of bits 14 and 28)")
    parser.add_argument("--samples", type=int, default=3, help="of which the median is taken (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
