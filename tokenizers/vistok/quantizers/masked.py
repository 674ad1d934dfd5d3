"""Two codebooks, one for patches that are wholly known and one for those that touch a mask (PUT, arXiv:2205.05076)."""

import math

import torch
from einops import reduce
from torch import Tensor

from vistok.quantizers import base
from vistok.quantizers.base import Codes, Context, Layout, Quantized, Quantizer, Table


class MaskedQuantizer(Quantizer):
    """Quantizes positions with all pixels known by one head, and those with a hidden pixel by another.

    Codes have one numbering: first those of ``known``, then those of ``hidden``. Without a mask in the context every
    position is known. Both heads see all positions, with weights of 0 for those of the other one, which its losses and
    statistics therefore leave out; a restart may pick any vector. A loss is the sum of both heads' terms: the mean over
    all positions.

    The authors learn one table as moving averages, whose counts are smoothed together. Here each part is smoothed by
    itself, which changes a codeword by less than one part in 10,000.

    Args:
        known: Head of wholly known positions, with one codebook and one code for each position.
        hidden: Head of the other positions, with the same ``dim`` and the same losses.

    Raises:
        ValueError: The heads do not fit together.
    """

    def __init__(self, known: Quantizer, hidden: Quantizer):
        super().__init__()
        for head in (known, hidden):
            layout = head.layout(*head.example_grid)
            if layout.codebooks > 1 or len(layout.grids) > 1 or layout.granularities > 1:
                raise ValueError(f"a {type(head).__name__} has several codes for a position, not one")
        for name in ("dim", "input_dim", "loss_names", "fixed_grid"):
            mine, other = getattr(known, name), getattr(hidden, name)
            if mine != other:
                raise ValueError(f"the heads of known and hidden positions differ in {name}: {mine} and {other}")
        self.known, self.hidden = known, hidden
        self.dim, self.input_dim, self.fixed_grid = known.dim, known.input_dim, known.fixed_grid
        self.codebook_sizes = (known.codebook_sizes[0] + hidden.codebook_sizes[0],)
        self.loss_names = known.loss_names
        self.context_fields = known.context_fields | hidden.context_fields | {"mask"}
        self.grid_multiple = math.lcm(known.grid_multiple, hidden.grid_multiple)

    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        if context.mask is None:
            quantized = self.known(z, context)
            stats = quantized.stats and {f"known.{name}": value for name, value in quantized.stats.items()}
            return quantized._replace(stats=stats)
        known = wholly_known(context.mask, z.shape[2], z.shape[3])
        weight = torch.ones_like(known, dtype=z.dtype) if context.weight is None else context.weight
        a = self.known(z, context._replace(weight=weight * known))
        b = self.hidden(z, context._replace(weight=weight * ~known))
        stats = {f"known.{name}": value for name, value in (a.stats or {}).items()}
        stats |= {f"hidden.{name}": value for name, value in (b.stats or {}).items()}
        chosen = known[:, None]
        return Quantized(
            torch.where(chosen, a.latent, b.latent),
            torch.where(chosen, a.codes, b.codes + self.num_known),
            {name: term + b.losses[name] for name, term in a.losses.items()},
            stats=stats or None,
            codewords=None
            if a.codewords is None or b.codewords is None
            else torch.where(chosen, a.codewords, b.codewords),
        )

    @property
    def num_known(self) -> int:
        """Number of codes of wholly known positions: the first code of the others."""
        return self.known.codebook_sizes[0]

    def encode(self, z: Tensor, context: Context = Context()) -> Codes:
        codes = self.known.encode(z, context).codes
        if context.mask is None:
            return Codes(codes)
        known = wholly_known(context.mask, z.shape[2], z.shape[3])[:, None]
        return Codes(torch.where(known, codes, self.hidden.encode(z, context).codes + self.num_known))

    def lookup(self, codes: Tensor, layout: Layout | None = None, keep: Tensor | None = None) -> Tensor:
        codes = base.check_codes(codes, self.codebook_sizes)
        known = codes < self.num_known
        first = self.known.lookup(torch.where(known, codes, 0), layout)
        return torch.where(known, first, self.hidden.lookup(torch.where(known, 0, codes - self.num_known), layout))

    def table(self, i: int) -> Table | None:
        """Both codebooks as one, of which a latent is compared with one part."""
        a, b = self.known.table(i), self.hidden.table(i)
        if a is None or b is None or a.metric != b.metric or a.bias is not None or b.bias is not None:
            return None
        return Table(torch.cat([a.search, b.search]), a.metric, torch.cat([a.values, b.values]))

    def compared(self, z: Tensor) -> Tensor:
        return self.known.compared(z)

    def update(self, stats: dict[str, Tensor] | None) -> dict[str, Tensor]:
        moved = {}
        for name, head in (("known", self.known), ("hidden", self.hidden)):
            start = f"{name}."
            own = {key.removeprefix(start): value for key, value in (stats or {}).items() if key.startswith(start)}
            moved |= {f"{start}{key}": rows for key, rows in head.update(own).items()}
        return moved

    def revive(self, i: int, rows: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        sizes = [self.num_known, self.hidden.codebook_sizes[0]]
        parts = zip((self.known, self.hidden), rows.split(sizes), vectors.split(sizes), strict=True)
        moved = [head.revive(i, *own) for head, *own in parts]
        return {f"{name}.{key}": own for name, part in zip(("known", "hidden"), moved, strict=True)
                for key, own in part.items()}  # fmt: skip

    def for_inference(self) -> "MaskedQuantizer":
        return MaskedQuantizer(self.known.for_inference(), self.hidden.for_inference()).eval()

    def advice(self) -> list[str]:
        return self.known.advice()


def wholly_known(mask: Tensor, h: int, w: int) -> Tensor:
    """Positions (b, h, w) bool of which every pixel of a mask (b, 1, H, W) is known.

    Raises:
        ValueError: Positions do not tile the mask.
    """
    if mask.shape[2] % h or mask.shape[3] % w:
        raise ValueError(f"the context's mask of {mask.shape[2]}x{mask.shape[3]} is not tiled by a latent of {h}x{w}")
    return reduce(mask.float(), "b 1 (h p) (w q) -> b h w", "min", h=h, w=w) > 0.5
