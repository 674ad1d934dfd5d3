"""Interface of quantization heads, their results as values, and the VQ-VAE step as functions."""

import copy
import functools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain, groupby
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vistok.distributed.collectives import sums_over_ranks
from vistok.kernels import largest_product, nearest_code
from vistok.quantizers.code_statistics import is_sample
from vistok.quantizers.estimators import Estimator, StraightThrough
from vistok.structure import brief, settings

TIE = 1e-5  # float32 error of a squared distance, as a share of the squared lengths of vector and codeword
PATIENCE = 3  # training forwards without an update before the warning
CHECKED = ContextVar("CHECKED", default=True)  # False within ``unchecked``


class Quantized(NamedTuple):
    """Result of a head in training: k codes at each position.

    Attributes:
        latent: (b, d, h, w) float32, the codewords. Gradients reach the head's input as its estimator says.
        codes: (b, k, *positions) int64.
        losses: Scalars without weights, by the names that weights and logs use.
        keep: (b, *positions) bool, True at positions that become tokens; None for all.
        stats: Input of ``update``: counts, sums and samples, without gradients; None if the head learns nothing from
            them.
        codewords: The latent before the estimator, differentiable to the table. A head that sums the codewords of
            others applies one estimator to the sum; each of D residual steps would pass the gradient too.
    """

    latent: Tensor
    codes: Tensor
    losses: dict[str, Tensor]
    keep: Tensor | None = None
    stats: dict[str, Tensor] | None = None
    codewords: Tensor | None = None

    def total(self, weights: Mapping[str, float] | None = None) -> Tensor:
        """Weighted sum of the losses.

        Args:
            weights: Weights by the names of terms; a missing one is 1.

        Raises:
            ValueError: A weight has no term.
        """
        weights = weights or {}
        if unknown := set(weights) - set(self.losses):
            raise ValueError(f"weights {sorted(unknown)} belong to no loss term; the terms are {sorted(self.losses)}")
        terms = [weights.get(name, 1.0) * term for name, term in self.losses.items()]
        return torch.stack(terms).sum() if terms else self.latent.new_zeros(())


class Codes(NamedTuple):
    """Codes alone: all that inference needs.

    Attributes:
        codes: (b, k, *positions) int64.
        keep: (b, *positions) bool, True at positions that become tokens; None for all.
    """

    codes: Tensor
    keep: Tensor | None = None


class Context(NamedTuple):
    """Optional inputs of a head or a decoder besides the latent; most need none.

    Attributes:
        images: (b, c, H, W) in [-1, 1], for a router that reads the image, or a decoder that reads its known pixels.
        maps: Coarser maps of a hierarchical encoder, coarsest first.
        weight: (b, h, w) weights of positions in losses and statistics.
        rate: (b,) target share of fine positions. A tokenizer also takes one number for all images.
        mask: (b, 1, H, W) bool, True where a pixel is known.
        progress: Updates applied so far, which a schedule inside the head reads.
        unused: Names of loss terms that are not needed, so that costly ones are not computed.
        noise: (b, d, h, w) noise of a generative decoder, or the generator that draws it.
        text: (b, n, d) features of a text, for a decoder that reads them.
    """

    images: Tensor | None = None
    maps: tuple[Tensor, ...] | None = None
    weight: Tensor | None = None
    rate: Tensor | None = None
    mask: Tensor | None = None
    progress: int | None = None
    unused: tuple[str, ...] = ()
    noise: Tensor | torch.Generator | None = None
    text: Tensor | None = None


class Layout(NamedTuple):
    """Arrangement of the codes (b, k, *positions) of one image.

    Attributes:
        grids: (h, w) of each scale, in order; ((1, n),) for 1-D tokens.
        codebooks: Number k of codebooks: side by side, or summed by a residual head.
        granularities: Number of granularities of a dynamic head: cells of 1, 4, 16, ... positions.
    """

    grids: tuple[tuple[int, int], ...]
    codebooks: int = 1
    granularities: int = 1

    @property
    def positions(self) -> tuple[int, int]:
        """Last two axes of codes: the grid, or (1, n) for several scales one after the other."""
        return self.grids[0] if len(self.grids) == 1 else (1, sum(h * w for h, w in self.grids))

    @property
    def granularity_bits(self) -> float:
        """Bits that encode the granularities of all regions, log2 of their number each; 0 if there is only one."""
        h, w = self.positions
        return h * w / 4 ** (self.granularities - 1) * math.log2(self.granularities)

    def split(self, codes: Tensor) -> tuple[Tensor, ...]:
        """Splits codes (b, k, *positions), or those of the first scales, into maps (b, k, h, w), one for each scale.

        Raises:
            ValueError: The codes end within a scale.
        """
        flat, ends = codes.flatten(2), [0]
        for h, w in self.grids:
            ends.append(ends[-1] + h * w)
        if flat.shape[2] not in ends[1:]:
            raise ValueError(f"codes of {flat.shape[2]} positions end within a scale of the grids {self.grids}")
        return tuple(
            flat[:, :, start:end].unflatten(2, grid)
            for start, end, grid in zip(ends, ends[1:], self.grids, strict=False)
            if end <= flat.shape[2]
        )

    def join(self, maps: Sequence[Tensor]) -> Tensor:
        """Joins maps (b, k, h, w), one for each scale, to codes (b, k, *positions)."""
        return torch.cat([m.flatten(2) for m in maps], dim=2).unflatten(2, self.positions)


class Table(NamedTuple):
    """One codebook as exporters, codec and health statistics read it.

    Attributes:
        search: (n, d) rows that a latent is compared with.
        metric: ``l2``, ``cosine`` (latent and rows then have unit length) or ``dot``.
        values: (n, d) rows that ``lookup`` returns; in Janus they differ from ``search``.
        bias: (n,) numbers that are added to the scores; None for none.
    """

    search: Tensor
    metric: str
    values: Tensor
    bias: Tensor | None = None


class Quantizer(nn.Module, ABC):
    """A quantization head: latent (b, d, h, w) to codes and codewords.

    A new head needs ``forward``, ``lookup``, ``dim`` and ``codebook_sizes``; everything else has a default. Called with
    a sequence (b, n, d), a head returns a latent (b, n, d) and codes (b, k, 1, n).

    Attributes:
        dim: Channels d of the quantized latent.
        input_dim: Channels of the input latent, for a head that changes them; None for ``dim``.
        codebook_sizes: Number of codewords in each of the k codebooks.
        loss_names: Names of the terms that ``forward`` returns in ``losses``; may be empty.
        context_fields: Fields of the context that codes depend on. Callers that cannot provide them refuse the head.
        grid_multiple: Number that divides both sides h and w of the latent.
        fixed_grid: The only grid (h, w) of latents that the head accepts; None for any.
        estimator: Gradient estimator of the codeword choice, in heads that let the user choose it.
        summed: True if the codewords of several codebooks are added; False if they stand side by side on the channels.
        stored_names: Names in files of the parameters and buffers whose attributes have other names.
    """

    dim: int
    input_dim: int | None = None
    codebook_sizes: tuple[int, ...]
    loss_names: tuple[str, ...] = ()
    context_fields: frozenset[str] = frozenset()
    grid_multiple: int = 1
    fixed_grid: tuple[int, int] | None = None
    estimator: Estimator = StraightThrough()
    summed: bool = False
    stored_names: Mapping[str, str] = {}
    forwards: int | None = None  # training forwards since the last update, for heads that warn about it

    @abstractmethod
    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        """Quantizes an encoder latent (b, d, h, w) for training. Pure: changes no buffer."""

    @abstractmethod
    def lookup(self, codes: Tensor, layout: Layout | None = None, keep: Tensor | None = None) -> Tensor:
        """Maps codes (b, k, *positions) to the float32 latent (b, d, h, w) of ``forward`` in evaluation.

        Args:
            codes: Codes of any integer type. A head of several depths or scales also accepts only the first ones.
            layout: Layout of the codes; needed where positions do not determine the grid.
            keep: (b, *positions) bool, False at positions that were not emitted.

        Raises:
            ValueError: A code is not in its codebook.
        """

    def encode(self, z: Tensor, context: Context = Context()) -> Codes:
        """Returns the codes of ``forward`` alone: no loss, no statistics, exportable."""
        quantized = self.forward(z, context._replace(unused=self.loss_names))
        return Codes(quantized.codes, quantized.keep)

    def partial(self, codes: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        """Latents after each depth or scale; only that of ``lookup`` for heads with one depth and scale."""
        return (self.lookup(codes, layout),)

    def update(self, stats: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """Learns from the statistics of one optimizer update, summed over ranks; does nothing by default, or for None.

        Statistics with the name ``samples`` are those of this rank: see ``code_statistics.gathered``.

        Returns:
            Rows (n,) bool that were written to, by the parameter's name; averages of weights copy these rows.
        """
        return {}

    def for_inference(self) -> "Quantizer":
        """Head with the same codes and latents in evaluation and every learned map folded; by default a copy."""
        return copy.deepcopy(self).eval().requires_grad_(False)

    def layout(self, h: int, w: int) -> Layout:
        """Layout of the codes of a latent with grid (h, w)."""
        return Layout(((h, w),), len(self.codebook_sizes))

    @property
    def example_grid(self) -> tuple[int, int]:
        """A small grid (h, w) that the head accepts; its layout has all granularities, and scales if there are any."""
        return self.fixed_grid or (2 * self.grid_multiple, 2 * self.grid_multiple)

    def owner(self, i: int) -> tuple["Quantizer", int]:
        """The head that searches the i-th codebook, and the codebook's index in that head.

        Equal for codebooks that are one and the same, as in a residual head with a shared codebook. By default one of
        ``single_heads``, or the head itself if their codebooks differ from its own.
        """
        found = [(head, own) for head in single_heads(self) for own in range(len(head.codebook_sizes))]
        sizes = tuple(head.codebook_sizes[own] for head, own in found)
        return found[i] if sizes == tuple(self.codebook_sizes) else (self, i)

    def table(self, i: int) -> Table | None:
        """The i-th codebook; None where codewords are computed from their codes (binary codes, FSQ)."""
        return None

    def with_table(self, i: int, table: Table) -> "Quantizer":
        """Head for inference whose i-th codebook is replaced by another one, of any size.

        Raises:
            ValueError: Its codewords cannot be replaced.
        """
        raise ValueError(f"a {type(self).__name__} has no codebook that another one could replace")

    def compared(self, z: Tensor) -> Tensor:
        """The latent in the form that is compared with codewords: unit length for heads that compare by cosine."""
        return z

    def near_ties(self, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Positions where both of two codes count as nearest within the precision of float32.

        Args:
            z: Latent (b, d, h, w).
            a: Codes (b, k, h, w).
            b: Other codes; a code out of range is never a tie.

        Returns:
            (b, k, h, w) bool.
        """
        table = self.table(0) if len(self.codebook_sizes) == 1 else None
        return torch.zeros_like(a, dtype=torch.bool) if table is None else near_ties(self.compared(z), a, b, table)

    def revive(self, i: int, rows: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        """Moves codewords of the i-th codebook onto latents; by default none can be moved.

        Args:
            i: Index of the codebook.
            rows: Codewords to move, (n,) bool.
            vectors: Latents (n, d) of that codebook's ``owner``, one for each codeword; only ``rows`` are read.

        Returns:
            Rows that were written to, as in ``update``; empty where codewords cannot be moved.
        """
        return {}

    def advice(self) -> list[str]:
        """Changes to try when a codebook has collapsed."""
        ideas = ["a larger quantizer.loss_weights.entropy"] if "entropy" in self.loss_names else []
        return [*ideas, "a lower optimizer.lr", "a longer schedule.warmup", "a smaller model.codebook_size"]

    def learn_alone(self) -> "Quantizer":
        """Calls ``update`` for every training forward, before the next one: for loops that do not call it.

        Under ``torch.distributed`` every rank has to call the head the same number of times.
        """
        self.expect_updates()
        self.pending: list[dict[str, Tensor]] = []
        self.register_forward_pre_hook(_learn)
        self.register_forward_hook(_remember)
        return self

    def expect_updates(self) -> None:
        """Declares that ``update`` will be called: neither this head nor its sub-heads warn about missing updates."""
        for head in self.modules():
            if isinstance(head, Quantizer):
                head.forwards = None

    def __call__(self, z: Tensor, context: Context = Context()) -> Quantized:
        wanted = self.input_dim or self.dim
        if z.ndim == 3 and z.shape[2] == wanted:
            quantized = super().__call__(rearrange(z, "b n d -> b d 1 n"), context)
            forms = {"latent": quantized.latent, "codewords": quantized.codewords}
            return quantized._replace(
                **{name: None if t is None else rearrange(t, "b d 1 n -> b n d") for name, t in forms.items()}
            )
        if z.ndim != 4 or z.shape[1] != wanted:
            raise ValueError(
                f"the latent has the shape {tuple(z.shape)}, but this {type(self).__name__} takes "
                f"(b, {wanted}, h, w) or (b, n, {wanted})"
            )
        return super().__call__(z, context)

    def extra_repr(self) -> str:
        sizes, codewords = self.codebook_sizes, "codewords"
        if len(sizes) > 1 and len(set(sizes)) == 1:
            codewords = f"{len(sizes)} x {sizes[0]:,} codewords"
        else:
            codewords = f"{' + '.join(f'{size:,}' for size in sizes)} codewords"
        known = ("codebook_size", "dim", "num_codebooks", "head", "heads")
        return ", ".join((codewords, f"{self.dim} channels", *settings(self, known)))

    def __repr__(self) -> str:
        alike = [(text, len(list(own))) for text, own in groupby(repr(head) for head in _inner_heads(self))]
        return brief(self, [f"{number} x {text}" if number > 1 else text for text, number in alike])

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for own, stored in self.stored_names.items():
            destination[prefix + stored] = destination.pop(prefix + own)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for own, stored in self.stored_names.items():
            if prefix + stored in state_dict:
                state_dict[prefix + own] = state_dict.pop(prefix + stored)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def single_heads(quantizer: Quantizer) -> list[Quantizer]:
    """Heads in ``quantizer``, itself included, that contain no other heads, in order."""
    heads = [module for module in quantizer.modules() if isinstance(module, Quantizer)]
    return [head for head in heads if not any(part in heads for part in head.modules() if part is not head)]


def _inner_heads(module: nn.Module) -> Iterator[Quantizer]:
    """Heads directly inside a module, without the heads inside these."""
    for part in module.children():
        if isinstance(part, Quantizer):
            yield part
        else:
            yield from _inner_heads(part)


def owners(quantizer: Quantizer) -> list[Quantizer]:
    """Head that searches each codebook: see ``Quantizer.owner``."""
    return [quantizer.owner(i)[0] for i in range(len(quantizer.codebook_sizes))]


def warn_if_never_updated(head: Quantizer) -> None:
    """Counts a training forward, and warns once that updates are missing: codebooks of averages get no gradients."""
    if head.forwards is None or torch.compiler.is_compiling():
        return
    forwards = head.forwards + 1
    head.forwards = forwards if forwards < PATIENCE else None
    if forwards == PATIENCE:
        warnings.warn(
            f"this {type(head).__name__} learns its codebook by moving averages (ema_decay), but {PATIENCE} training "
            "batches had no update: call head.update(quantized.stats) after each step of the "
            "optimizer, or head.learn_alone() once",
            stacklevel=2,
        )


def _learn(head: Quantizer, inputs: tuple[Any, ...]) -> None:
    """Hook before ``forward``: updates the head with the statistics of the previous forward."""
    waiting, head.pending = head.pending, []
    for stats in waiting:
        drawn = {name: value for name, value in stats.items() if is_sample(name)}
        head.update(sums_over_ranks({name: value for name, value in stats.items() if name not in drawn}) | drawn)


def _remember(head: Quantizer, inputs: tuple[Any, ...], quantized: Quantized) -> None:
    """Hook after ``forward``: stores the statistics."""
    if quantized.stats:
        head.pending.append(quantized.stats)


def check_size(codebook_size: int) -> None:
    """Refuses a codebook of fewer than two codewords."""
    if codebook_size < 2:
        raise ValueError(f"codebook_size must be at least 2, not {codebook_size}")


def quantize(
    z: Tensor,
    codebook: Tensor,
    estimator: Estimator = StraightThrough(),
    weight: Tensor | None = None,
    source: Tensor | None = None,
) -> Quantized:
    """Quantizes a latent to the nearest codewords (VQ-VAE, arXiv:1711.00937, Eq. 1-3).

    Args:
        z: Latent (b, d, h, w).
        codebook: Codewords (n, d).
        estimator: Gradient estimator, which passes gradients to ``source``.
        weight: (b, h, w) weights of the squared errors in both losses; the means still divide by all positions.
        source: Latent that the estimator reads, (b, d, h, w); None for ``z``.
    """
    codes = nearest(z, codebook)
    z_q = lookup(codes, codebook)
    losses = {
        "commitment": squared_error(z, z_q.detach(), weight),  # moves the encoder to its codeword
        "codebook": squared_error(z_q, z.detach(), weight),  # moves the codeword to the encoder
    }
    return Quantized(estimator(z if source is None else source, z_q), codes, losses, codewords=z_q)


def nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """Codes (b, 1, h, w) of the codewords (n, d) nearest in L2 to a latent (b, d, h, w)."""
    b, _, h, w = z.shape
    codes = nearest_code(rearrange(z, "b d h w -> (b h w) d"), codebook)
    return rearrange(codes, "(b h w) -> b 1 h w", b=b, h=h, w=w)


def largest(z: Tensor, table: Table) -> Tensor:
    """Codes (b, 1, h, w) of the largest inner products, plus bias, with a latent (b, d, h, w)."""
    b, _, h, w = z.shape
    codes = largest_product(rearrange(z, "b d h w -> (b h w) d"), table.search, table.bias)
    return rearrange(codes, "(b h w) -> b 1 h w", b=b, h=h, w=w)


def near_ties(z: Tensor, a: Tensor, b: Tensor, table: Table) -> Tensor:
    """Positions, as bool, where two codes (b, 1, h, w) are equally near to a latent (b, d, h, w) in float32.

    Distances, or scores where ``table.metric`` is ``dot``, are computed in float64.
    """
    search, z = table.search.double(), rearrange(z, "b d h w -> b 1 h w d").double()
    scores, lengths = [], []
    for codes in (a, b):
        codes = codes.clamp(0, len(search) - 1)
        rows = search[codes]
        score = 2 * (z * rows).sum(-1) if table.metric == "dot" else -(z - rows).square().sum(-1)
        scores.append(score if table.bias is None else score + 2 * table.bias.double()[codes])
        lengths.append(rows.square().sum(-1))
    inside = (b >= 0) & (b < len(search))
    return inside & ((scores[0] - scores[1]).abs() <= TIE * (z.square().sum(-1) + lengths[0]))


def squared_error(a: Tensor, b: Tensor, weight: Tensor | None) -> Tensor:
    """Mean squared error over all elements of (b, d, h, w), with each position weighted by (b, h, w)."""
    return F.mse_loss(a, b) if weight is None else ((a - b).square() * weight[:, None]).mean()


def lookup(codes: Tensor, codebook: Tensor) -> Tensor:
    """Codes (b, 1, h, w) to codewords (b, d, h, w)."""
    return rearrange(F.embedding(codes[:, 0], codebook), "b h w d -> b d h w")


@contextmanager
def unchecked() -> Iterator[None]:
    """Block in which ``check_codes`` trusts the codes, for those that a head has just chosen itself."""
    before = CHECKED.set(False)
    try:
        yield
    finally:
        CHECKED.reset(before)


def check_codes(codes: Tensor, codebook_sizes: tuple[int, ...]) -> Tensor:
    """Refuses codes (b, k, *positions) outside their codebooks; on a GPU an index out of range would end the process.

    The check waits for the GPU, so it belongs in ``lookup``, never in ``forward``; compilers skip it, and so does
    ``unchecked``.

    Returns:
        The codes as int64. Any integer type is accepted, since token files hold uint16.

    Raises:
        ValueError: The codes are not integers, have another number of codebooks, or are out of range.
    """
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"codes are {str(codes.dtype).removeprefix('torch.')}, not integers")
    codes, k = codes.long(), len(codebook_sizes)
    if codes.ndim != 4 or codes.shape[1] != k:
        hint = " (codes[:, None] adds the axis of codebooks)" if codes.ndim == 3 and k == 1 else ""
        raise ValueError(f"codes have the shape {tuple(codes.shape)}, not (b, {k}, h, w){hint}")
    if torch.compiler.is_compiling() or not CHECKED.get() or not codes.numel():
        return codes
    for i, size in enumerate(codebook_sizes):
        lowest, highest = (int(bound) for bound in codes[:, i].aminmax())
        if lowest < 0 or highest >= size:
            wrong = lowest if lowest < 0 else highest
            raise ValueError(f"codes hold {wrong}, but codebook {i} has the codes 0 to {size - 1}")
    return codes


def called_in_float32(module: nn.Module, *arguments: Tensor) -> Tensor:
    """Calls a module with its weights in float32, even if the module was moved to another dtype."""
    if all(weight.dtype == torch.float32 for weight in module.parameters()):
        return module(*arguments)
    weights = {name: weight.float() for name, weight in module.named_parameters()}
    return torch.func.functional_call(module, weights, arguments)


def in_float32(method):
    """Runs a head's method with autocast off: a bf16 table would differ from the one that ``lookup`` reads."""

    @functools.wraps(method)
    def run(self, *args, **kwargs):
        tensor = next(t for t in chain(args, self.parameters(), self.buffers()) if isinstance(t, Tensor))
        if not torch.is_autocast_enabled(tensor.device.type):
            return method(self, *args, **kwargs)
        with torch.autocast(tensor.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return run
