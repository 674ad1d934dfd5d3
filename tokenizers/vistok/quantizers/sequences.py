"""Codes of a dynamic head as one sequence per granularity, for a generator, and back (DQ-VAE, arXiv:2305.11718).

The layout is that of the authors' ``modules/dynamic_modules/permuter.py`` (CrossmodalGroup/DynamicVectorQuantization),
extended from two granularities to G. Granularity g, coarsest first, has cells of ``2^(G-1-g)`` fine positions a side. A
coarse region has a single granularity: it is one cell of granularity 0, four cells of granularity 1, 16 of granularity
2, and so on.
"""

from typing import NamedTuple

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from vistok.quantizers import base
from vistok.quantizers.base import Codes, Quantized


class Special(NamedTuple):
    """Special ids, which follow a vocabulary's own 0 to size - 1; a table that embeds them all has ``sos + 1`` rows."""

    pad: int
    eos: int
    sos: int  # never in Sequences: a generator prepends it


class Sequences(NamedTuple):
    """One sequence per granularity, coarsest first: tokens, one EOS, then padding to the longest of the batch."""

    contents: tuple[Tensor, ...]  # (b, length_g) int64: codes, and the ids of content_special
    positions: tuple[Tensor, ...]  # (b, length_g) int64: raster index in its granularity's grid; position_special

    @property
    def segments(self) -> tuple[Tensor, ...]:
        """Granularity of every element, for an embedding: (b, length_g) int64 for each granularity."""
        return tuple(torch.full_like(content, g) for g, content in enumerate(self.contents))

    @property
    def lengths(self) -> tuple[Tensor, ...]:
        """Number of tokens before EOS: (b,) int64 for each granularity."""
        return tuple(content.argmax(1) for content in self.contents)  # EOS is the largest id in contents


def content_special(codebook_size: int) -> Special:
    """Special ids among contents, the same for every granularity: 1024, 1025 and 1026 for 1024 codes."""
    return Special(codebook_size, codebook_size + 1, codebook_size + 2)


def position_special(grid: tuple[int, int], grains: int = 2) -> tuple[Special, ...]:
    """Special ids among the positions of each granularity, on a fine grid (h, w).

    For two granularities on 32×32 they start at 256 and at 1024.

    Raises:
        ValueError: There are fewer than two granularities, or coarse regions do not tile the grid.
    """
    sizes = [(grid[0] // stride) * (grid[1] // stride) for stride in _strides(grid, grains)]
    return tuple(Special(size, size + 1, size + 2) for size in sizes)


def pack(quantized: Quantized | Codes, codebook_size: int, grains: int = 2, order: str = "region") -> Sequences:
    """Packs codes on the fine grid into sequences; ``unpack`` restores the same codes and keep.

    Args:
        quantized: Codes (b, 1, h, w), with the code of a coarser cell at all its positions; keep (b, h, w), True at the
            first (top left) position of each cell.
        codebook_size: Number of codewords n.
        grains: Number of granularities G, 2 for dual, 3 for triple.
        order: ``region`` keeps the cells of one coarse region together, with regions and the cells inside them in
            raster order (the authors' region-first); ``row`` has all cells in raster order of their granularity's grid
            (row-first).

    Raises:
        ValueError: An argument has another form, codes vary inside a cell, or keep does not mark the cells of exactly
            one granularity in each region.
    """
    codes, keep = quantized.codes, quantized.keep
    if order not in ("region", "row"):
        raise ValueError(f"order must be 'region' or 'row', not {order!r}")
    if codes.ndim != 4 or codes.dtype != torch.int64:
        raise ValueError(f"codes are {codes.dtype} of the shape {tuple(codes.shape)}, not int64 (b, 1, h, w)")
    base.check_codes(codes, (codebook_size,))
    codes = codes[:, 0]
    if keep is None:
        raise ValueError("keep is None: only a dynamic head marks which positions are tokens")
    if keep.shape != codes.shape or keep.dtype != torch.bool:
        raise ValueError(f"keep is {keep.dtype} of the shape {tuple(keep.shape)}, not bool {tuple(codes.shape)}")
    grid = (codes.shape[1], codes.shape[2])
    strides = _strides(grid, grains)
    chosen = _granularity_map(keep, strides)
    contents, positions = [], []
    for g, (stride, special) in enumerate(zip(strides, position_special(grid, grains), strict=True)):
        cells, own = codes[:, ::stride, ::stride], _enlarge(chosen, 2**g) == g
        if at := _first((_enlarge(cells, stride) != codes) & _enlarge(own, stride)):
            row, y, x = at
            raise ValueError(
                f"codes[{row}, 0, {y}, {x}] is {codes[row, y, x]}, but the cell of granularity {g} that it belongs to "
                f"has {cells[row, y // stride, x // stride]} at its first position"
            )
        index = torch.arange(special.pad, device=codes.device)
        if order == "region":
            index = rearrange(index, "(h p w q) -> (h w p q)", p=2**g, q=2**g, w=grid[1] // strides[0])
        cells, own = cells.flatten(1)[:, index], own.flatten(1)[:, index]
        contents.append(_rows(cells, own, content_special(codebook_size)))
        positions.append(_rows(index.expand_as(cells), own, special))
    return Sequences(tuple(contents), tuple(positions))


def unpack(sequences: Sequences, codebook_size: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Unpacks sequences to codes (b, 1, h, w) int64 and keep (b, h, w) bool: the inverse of ``pack``.

    Args:
        sequences: One sequence for each granularity, coarsest first; the tokens before EOS are in any order.
        codebook_size: Number of codewords n.
        grid: The fine grid (h, w).

    Raises:
        ValueError: A tensor or the grid has another form, a row is not tokens, EOS and padding, a code or a position is
            out of range, a position occurs twice, or a coarse region is not covered by all cells of exactly one
            granularity.
    """
    _check_form(sequences)
    b, device, grains = len(sequences.contents[0]), sequences.contents[0].device, len(sequences.contents)
    strides, specials = _strides(grid, grains), position_special(grid, grains)
    codes = torch.zeros(b, *grid, dtype=torch.int64, device=device)
    keep = torch.zeros(b, *grid, dtype=torch.bool, device=device)
    covered = []  # for each granularity: its number of cells in each coarse region, (b, h / 2^(G-1), w / 2^(G-1))
    for g, (stride, special) in enumerate(zip(strides, specials, strict=True)):
        content, position = sequences.contents[g], sequences.positions[g]
        ends = _ends(f"contents[{g}]", content, content_special(codebook_size))
        position_ends = _ends(f"positions[{g}]", position, special)
        if at := _first(ends != position_ends):
            (row,) = at
            raise ValueError(
                f"contents[{g}][{row}] has EOS at place {ends[row]}, but positions at {position_ends[row]}"
            )
        tokens = torch.arange(content.shape[1], device=device) < ends[:, None]
        cell = (tokens.nonzero()[:, 0], position[tokens])
        times = content.new_zeros(b, special.pad).index_put_(cell, content.new_ones(()), accumulate=True)
        if at := _first(times > 1):
            row, twice = at
            raise ValueError(f"positions[{g}][{row}] holds {twice} {times[row, twice]} times")
        cells = torch.zeros_like(times).index_put_(cell, content[tokens])
        cells, own = (rearrange(t, "b (h w) -> b h w", w=grid[1] // stride) for t in (cells, times))
        codes += _enlarge(cells, stride)  # 0 at the cells of other granularities
        keep[:, ::stride, ::stride] |= own > 0
        covered.append(reduce(own, "b (h p) (w q) -> b h w", "sum", p=2**g, q=2**g))
    covered = torch.stack(covered, dim=-1)
    complete = covered.new_tensor([4**g for g in range(grains)])
    if at := _first(((covered > 0).sum(-1) != 1) | ~(covered == complete).any(-1)):
        row, y, x = at
        raise ValueError(
            f"row {row} of positions covers the coarse region ({y}, {x}) by {covered[row, y, x].tolist()} cells of "
            f"granularities 0 to {grains - 1}, but exactly one of them must cover it, with all of its "
            f"{complete.tolist()} cells"
        )
    return codes[:, None], keep


def _strides(grid: tuple[int, int], grains: int) -> list[int]:
    """Side of each granularity's cells in fine positions, coarsest first."""
    if grains < 2:
        raise ValueError(f"grains must be at least 2, not {grains}")
    coarsest = 2 ** (grains - 1)
    if any(side < 1 or side % coarsest for side in grid):
        raise ValueError(
            f"grid {tuple(grid)} is not tiled by the {coarsest}×{coarsest} regions of {grains} granularities"
        )
    return [2 ** (grains - 1 - g) for g in range(grains)]


def _granularity_map(keep: Tensor, strides: list[int]) -> Tensor:
    """Granularity of every coarse region: the one whose cells' first positions are exactly those that keep marks."""
    side = strides[0]
    regions = rearrange(keep, "b (h p) (w q) -> b h w p q", p=side, q=side)
    chosen = torch.full(regions.shape[:3], -1, device=keep.device)
    for g, stride in enumerate(strides):
        marks = torch.zeros(side, side, dtype=torch.bool, device=keep.device)
        marks[::stride, ::stride] = True
        chosen[(regions == marks).flatten(3).all(-1)] = g
    if at := _first(chosen < 0):
        row, y, x = at
        raise ValueError(
            f"keep marks {regions[row, y, x].int().tolist()} in the coarse region ({y}, {x}) of row {row}: "
            f"not the cells of any one of {len(strides)} granularities"
        )
    return chosen


def _rows(ids: Tensor, own: Tensor, special: Special) -> Tensor:
    """Rows of the ids (b, p) that ``own`` (b, p) marks, then EOS and padding: (b, length)."""
    ends = own.sum(1, keepdim=True)
    places = torch.arange(1 + max(ends.flatten().tolist(), default=0), device=ids.device)
    rows = ids.new_full((len(ids), len(places)), special.pad)
    rows[places < ends] = ids[own]
    rows[places == ends] = special.eos
    return rows


def _ends(name: str, ids: Tensor, special: Special) -> Tensor:
    """Index of EOS in each row (b, length), after a check that rows are ids, EOS and padding: (b,)."""
    is_end = ids == special.eos
    if at := _first(~is_end.any(1)):
        raise ValueError(f"{name}[{at[0]}] has no EOS ({special.eos})")
    ends = is_end.int().argmax(1)  # the first
    places = torch.arange(ids.shape[1], device=ids.device)
    if at := _first((places > ends[:, None]) & (ids != special.pad)):
        raise ValueError(f"{name}{at} is {ids[tuple(at)]}, but only padding ({special.pad}) may follow EOS")
    if at := _first((places < ends[:, None]) & ((ids < 0) | (ids >= special.pad))):
        raise ValueError(f"{name}{at} is {ids[tuple(at)]}, not one of 0 to {special.pad - 1}")
    return ends


def _check_form(sequences: Sequences) -> None:
    """Refuses tensors that are not (b, length_g) int64, with one b, and one length_g for contents and positions."""
    contents, positions = sequences
    if len(contents) != len(positions) or len(contents) < 2:
        raise ValueError(
            f"contents have {len(contents)} granularities and positions {len(positions)}; both need the same number, "
            "at least 2"
        )
    for g, (content, position) in enumerate(zip(contents, positions, strict=True)):
        for name, ids in (("contents", content), ("positions", position)):
            if ids.ndim != 2 or ids.dtype != torch.int64 or len(ids) != len(contents[0]):
                raise ValueError(
                    f"{name}[{g}] is {ids.dtype} of the shape {tuple(ids.shape)}, not int64 (b, length), "
                    f"b being that of contents[0], whose shape is {tuple(contents[0].shape)}"
                )
        if content.shape != position.shape:
            raise ValueError(
                f"contents[{g}] has the shape {tuple(content.shape)}, positions[{g}] {tuple(position.shape)}"
            )


def _enlarge(cells: Tensor, side: int) -> Tensor:
    """Repeats each element of (b, h, w) over a square: (b, h * side, w * side)."""
    return repeat(cells, "b h w -> b (h p) (w q)", p=side, q=side)


def _first(wrong: Tensor) -> list[int] | None:
    """Index of the first True in a mask; None if there is none."""
    return next(iter(wrong.nonzero()[:1].tolist()), None)
