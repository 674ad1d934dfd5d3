"""Sequences of dynamic codes: by hand, against a loop over positions, the authors' ids, round trips, every refusal."""

import pytest
import torch

from vistok.quantizers import Quantized
from vistok.quantizers.sequences import Sequences, content_special, pack, position_special, unpack


def dynamic(grain_map, grains=2, codebook_size=10, codes=None):
    """A dynamic head's result for the granularity of every coarse region (b, h, w), with random codes or given ones."""
    b, h, w = grain_map.shape
    side = 2 ** (grains - 1)
    if codes is None:
        codes = torch.randint(0, codebook_size, (b, h * side, w * side))
    rows, columns = torch.arange(h * side)[:, None], torch.arange(w * side)[None]
    stride = side // 2 ** grain_map.repeat_interleave(side, 1).repeat_interleave(side, 2)
    keep = (rows % stride == 0) & (columns % stride == 0)
    top, left = rows - rows % stride, columns - columns % stride
    codes = codes[torch.arange(b)[:, None, None], top, left]
    return Quantized(torch.zeros(b, 1, h * side, w * side), codes[:, None], {}, keep)


def packed_by_loop(quantized, codebook_size, grains, order):
    """The same sequences, token by token."""
    side = 2 ** (grains - 1)
    b, _, h, w = quantized.codes.shape
    contents, positions = [], []
    for granularity in range(grains):
        stride = side // 2**granularity
        rows = []
        for i in range(b):
            cells = []
            for y in range(0, h, stride):
                for x in range(0, w, stride):
                    tokens = int(quantized.keep[i, y - y % side :, x - x % side :][:side, :side].sum())
                    if tokens == 4**granularity:
                        region = (y // side, x // side) if order == "region" else ()
                        cells.append((region, y, x))
            rows.append(
                [
                    (int(quantized.codes[i, 0, y, x]), y // stride * (w // stride) + x // stride)
                    for _, y, x in sorted(cells)
                ]
            )
        longest, size = max(map(len, rows)), (h // stride) * (w // stride)
        ends = [[(codebook_size + 1, size + 1)] + [(codebook_size, size)] * (longest - len(row)) for row in rows]
        both = torch.tensor([row + end for row, end in zip(rows, ends, strict=True)])
        contents.append(both[..., 0])
        positions.append(both[..., 1])
    return Sequences(tuple(contents), tuple(positions))


def lists(tensors):
    return [tensor.tolist() for tensor in tensors]


# fine 4×4, regions 2×2: of the first image, regions (0, 0) and (1, 1) are coarse; of the second, (0, 1) alone is fine
CODES = torch.tensor(
    [
        [[3, 3, 0, 1], [3, 3, 2, 4], [5, 6, 9, 9], [7, 8, 9, 9]],
        [[1, 1, 4, 5], [1, 1, 6, 7], [2, 2, 8, 8], [2, 2, 8, 8]],
    ]
)
GRAINS = torch.tensor([[[0, 1], [1, 0]], [[0, 1], [0, 0]]])


def test_dual_by_hand():
    quantized = dynamic(GRAINS, codes=CODES)
    assert torch.equal(quantized.codes[:, 0], CODES)
    region, row = pack(quantized, 10), pack(quantized, 10, order="row")
    # content: pad 10, EOS 11; position: pad 4, EOS 5 of the coarse grid, 16 and 17 of the fine one
    assert region.contents[0].tolist() == row.contents[0].tolist() == [[3, 9, 11, 10], [1, 2, 8, 11]]
    assert region.positions[0].tolist() == row.positions[0].tolist() == [[0, 3, 5, 4], [0, 2, 3, 5]]
    padding = [10, 10, 10, 10]
    assert region.contents[1].tolist() == [[0, 1, 2, 4, 5, 6, 7, 8, 11], [4, 5, 6, 7, 11, *padding]]
    assert region.positions[1].tolist() == [[2, 3, 6, 7, 8, 9, 12, 13, 17], [2, 3, 6, 7, 17, 16, 16, 16, 16]]
    # here both orders agree: no two fine regions lie side by side
    assert lists(row.contents) == lists(region.contents) and lists(row.positions) == lists(region.positions)
    assert lists(region.lengths) == [[2, 3], [8, 4]]
    assert lists(region.segments) == [[[0] * 4] * 2, [[1] * 9] * 2]


def test_orders_by_hand_on_a_wide_grid():
    # 2×6: the regions are fine, fine, coarse
    codes = torch.tensor([[[0, 1, 2, 3, 9, 9], [4, 5, 6, 7, 9, 9]]])
    quantized = dynamic(torch.tensor([[[1, 1, 0]]]), codes=codes)
    region, row = pack(quantized, 10, order="region"), pack(quantized, 10, order="row")
    assert lists(region.contents) == [[[9, 11]], [[0, 1, 4, 5, 2, 3, 6, 7, 11]]]
    assert lists(region.positions) == [[[2, 4]], [[0, 1, 6, 7, 2, 3, 8, 9, 13]]]
    assert lists(row.contents) == [[[9, 11]], [[0, 1, 2, 3, 4, 5, 6, 7, 11]]]
    assert lists(row.positions) == [[[2, 4]], [[0, 1, 2, 3, 6, 7, 8, 9, 13]]]


def test_triple_by_hand():
    # 4×12: the regions are coarse, median, fine
    fine = torch.arange(16).reshape(4, 4)
    median = torch.tensor([[16, 17], [18, 19]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    codes = torch.cat([torch.full((4, 4), 20), median, fine], dim=1)[None]
    quantized = dynamic(torch.tensor([[[0, 1, 2]]]), grains=3, codes=codes)
    assert torch.equal(quantized.codes[:, 0], codes)
    sequences = pack(quantized, 32, grains=3)
    assert lists(sequences.contents) == [[[20, 33]], [[16, 17, 18, 19, 33]], [[*range(16), 33]]]
    fine_positions = [y * 12 + x for y in range(4) for x in range(8, 12)]
    assert lists(sequences.positions) == [[[0, 4]], [[2, 3, 8, 9, 13]], [[*fine_positions, 49]]]
    assert lists(sequences.lengths) == [[1], [4], [16]]


def test_the_authors_ids():
    assert content_special(1024) == (1024, 1025, 1026)
    assert position_special((32, 32)) == ((256, 257, 258), (1024, 1025, 1026))
    grain_map = torch.zeros(2, 16, 16, dtype=torch.int64)
    grain_map[0, 0, :2] = 1
    grain_map[1, 15, 15] = 1
    quantized = dynamic(grain_map, codebook_size=1024)
    (coarse, fine), (coarse_positions, fine_positions) = pack(quantized, 1024)
    assert coarse[:, 254:].tolist() == [[1025, 1024], [quantized.codes[1, 0, 30, 28], 1025]]
    assert coarse_positions[0].tolist() == [*range(2, 256), 257, 256]
    assert coarse_positions[1].tolist() == [*range(255), 257]
    assert fine[:, 4:].tolist() == [[*quantized.codes[0, 0, :2, 2:4].flatten(), 1025], [1025, *[1024] * 4]]
    assert fine_positions[0].tolist() == [0, 1, 32, 33, 2, 3, 34, 35, 1025]
    assert fine_positions[1].tolist() == [990, 991, 1022, 1023, 1025, 1024, 1024, 1024, 1024]
    assert pack(quantized, 1024, order="row").positions[1][0].tolist() == [0, 1, 2, 3, 32, 33, 34, 35, 1025]


@pytest.mark.parametrize("order", ["region", "row"])
@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 3, 5), (1, 5, 2), (1, 1, 1), (4, 1, 7)])
@pytest.mark.parametrize("grains", [2, 3, 4])
def test_packs_as_a_loop_does_and_back(grains, shape, order):
    torch.manual_seed(0)
    for _ in range(3):
        quantized = dynamic(torch.randint(0, grains, shape), grains)
        sequences = pack(quantized, 10, grains, order)
        expected = packed_by_loop(quantized, 10, grains, order)
        assert lists(sequences.contents) == lists(expected.contents)
        assert lists(sequences.positions) == lists(expected.positions)
        codes, keep = unpack(sequences, 10, quantized.codes.shape[2:])
        assert torch.equal(codes, quantized.codes) and torch.equal(keep, quantized.keep)
        assert sum(int(length.sum()) for length in sequences.lengths) == int(quantized.keep.sum())


@pytest.mark.parametrize("grains", [2, 3])
def test_one_grain_alone(grains):
    for granularity in range(grains):
        quantized = dynamic(torch.full((2, 3, 2), granularity), grains)
        sequences = pack(quantized, 10, grains)
        for other, special in enumerate(position_special((3 * 2 ** (grains - 1), 2**grains), grains)):
            if other != granularity:  # nothing but EOS
                assert sequences.contents[other].tolist() == [[11], [11]]
                assert sequences.positions[other].tolist() == [[special.eos], [special.eos]]
        codes, keep = unpack(sequences, 10, quantized.codes.shape[2:])
        assert torch.equal(codes, quantized.codes) and torch.equal(keep, quantized.keep)


def test_unpack_takes_tokens_in_any_order_and_more_padding():
    quantized = dynamic(torch.ones(1, 2, 2, dtype=torch.int64))
    (coarse, fine), (coarse_positions, fine_positions) = pack(quantized, 10)
    shuffle = torch.cat([torch.randperm(16), torch.tensor([16])])
    fine = torch.nn.functional.pad(fine[:, shuffle], (0, 3), value=10)
    fine_positions = torch.nn.functional.pad(fine_positions[:, shuffle], (0, 3), value=16)
    codes, keep = unpack(Sequences((coarse, fine), (coarse_positions, fine_positions)), 10, (4, 4))
    assert torch.equal(codes, quantized.codes) and torch.equal(keep, quantized.keep)


def at(tensor, index, value):
    """A copy with one element changed."""
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


PACK_REFUSALS = {
    "keep is None": lambda q: pack(q._replace(keep=None), 10),
    "keep is torch.uint8": lambda q: pack(q._replace(keep=q.keep.byte()), 10),
    r"keep is torch.bool of the shape \(2, 4, 2\)": lambda q: pack(q._replace(keep=q.keep[:, :, :2]), 10),
    "grains must be at least 2, not 1": lambda q: pack(q, 10, grains=1),
    r"grid \(4, 4\) is not tiled by the 8×8": lambda q: pack(q, 10, grains=4),
    r"grid \(4, 3\)": lambda q: pack(q._replace(codes=q.codes[..., :3], keep=q.keep[..., :3]), 10),
    "order must be 'region' or 'row', not 'column'": lambda q: pack(q, 10, order="column"),
    r"codes have the shape \(2, 2, 4, 4\)": lambda q: pack(q._replace(codes=q.codes.repeat(1, 2, 1, 1)), 10),
    r"codes are torch.int64 of the shape \(2, 4, 4\)": lambda q: pack(q._replace(codes=q.codes[:, 0]), 10),
    "codes are torch.int32": lambda q: pack(q._replace(codes=q.codes.int()), 10),
    "codes hold 9, but codebook 0 has the codes 0 to 8": lambda q: pack(q, 9),
    "codes hold -1": lambda q: pack(q._replace(codes=q.codes - 1), 10),
    r"keep marks \[\[1, 0\], \[1, 0\]\] in the coarse region \(1, 1\) of row 0": lambda q: pack(
        q._replace(keep=at(q.keep, (0, 3, 2), True)), 10
    ),
    r"keep marks \[\[0, 0\], \[0, 0\]\] in the coarse region \(0, 0\) of row 1": lambda q: pack(
        q._replace(keep=at(q.keep, (1, 0, 0), False)), 10
    ),
    r"keep marks \[\[1, 1\], \[1, 0\]\] in the coarse region \(1, 0\) of row 0": lambda q: pack(
        q._replace(keep=at(q.keep, (0, 3, 1), False)), 10
    ),
    r"codes\[1, 0, 3, 0\] is 5, but the cell of granularity 0 that it belongs to has 2": lambda q: pack(
        q._replace(codes=at(q.codes, (1, 0, 3, 0), 5)), 10
    ),
}


@pytest.mark.parametrize("message", PACK_REFUSALS)
def test_pack_refuses(message):
    with pytest.raises(ValueError, match=message):
        PACK_REFUSALS[message](dynamic(GRAINS, codes=CODES))


def test_pack_refuses_regions_of_two_grains_and_codes_that_vary_in_a_median_cell():
    quantized = dynamic(torch.ones(1, 1, 1, dtype=torch.int64), grains=3)
    mixed = quantized.keep.clone()
    mixed[0, :2, :2] = True  # one of four median cells is fine
    with pytest.raises(
        ValueError, match=r"keep marks .* \(0, 0\) of row 0: not the cells of any one of 3 granularities"
    ):
        pack(quantized._replace(keep=mixed), 10, grains=3)
    codes = at(torch.zeros_like(quantized.codes), (0, 0, 3, 1), 7)
    with pytest.raises(ValueError, match=r"codes\[0, 0, 3, 1\] is 7, but the cell of granularity 1"):
        pack(quantized._replace(codes=codes), 10, grains=3)


def changed(sequences, field, granularity, index, value):
    """The sequences with one element of one tensor changed."""
    tensors = list(getattr(sequences, field))
    tensors[granularity] = at(tensors[granularity], index, value)
    return sequences._replace(**{field: tuple(tensors)})


def ended(sequences, granularity, row, place):
    """The sequences with EOS at an earlier place and padding after it, in contents and positions."""
    for field, pad in (("contents", 10), ("positions", (4, 16)[granularity])):
        sequences = changed(sequences, field, granularity, (row, slice(place, None)), pad)
        sequences = changed(sequences, field, granularity, (row, place), pad + 1)
    return sequences


UNPACK_REFUSALS = {
    r"contents\[0\]\[1\] has no EOS \(11\)": lambda s: changed(s, "contents", 0, (1, 3), 10),
    r"positions\[1\]\[0\] has no EOS \(17\)": lambda s: changed(s, "positions", 1, (0, 8), 16),
    r"contents\[0\]\[0, 3\] is 2, but only padding \(10\)": lambda s: changed(s, "contents", 0, (0, 3), 2),
    r"contents\[1\]\[1, 8\] is 11, but only padding": lambda s: changed(s, "contents", 1, (1, 8), 11),
    r"positions\[1\]\[1, 6\] is 0, but only padding \(16\)": lambda s: changed(s, "positions", 1, (1, 6), 0),
    r"contents\[1\]\[0\] has EOS at place 3, but positions at 8": lambda s: s._replace(
        contents=ended(s, 1, 0, 3).contents
    ),
    r"contents\[1\]\[0, 2\] is 10, not one of 0 to 9": lambda s: changed(s, "contents", 1, (0, 2), 10),
    r"contents\[0\]\[0, 0\] is 12, not one of": lambda s: changed(s, "contents", 0, (0, 0), 12),
    r"contents\[0\]\[1, 2\] is -1, not one of": lambda s: changed(s, "contents", 0, (1, 2), -1),
    r"positions\[0\]\[0, 1\] is 4, not one of 0 to 3": lambda s: changed(s, "positions", 0, (0, 1), 4),
    r"positions\[1\]\[1, 0\] is 18, not one of 0 to 15": lambda s: changed(s, "positions", 1, (1, 0), 18),
    r"positions\[1\]\[1, 1\] is -2, not one of": lambda s: changed(s, "positions", 1, (1, 1), -2),
    r"positions\[1\]\[0\] holds 3 2 times": lambda s: changed(s, "positions", 1, (0, 0), 3),
    r"positions\[0\]\[1\] holds 0 2 times": lambda s: changed(s, "positions", 0, (1, 1), 0),
    # the coarse token of region (1, 1) moved to (0, 1), which is fine
    r"row 0 of positions covers the coarse region \(0, 1\) by \[1, 4\] cells": lambda s: changed(
        s, "positions", 0, (0, 1), 1
    ),
    # the last coarse token is missing
    r"row 1 of positions covers the coarse region \(1, 1\) by \[0, 0\] cells": lambda s: ended(s, 0, 1, 2),
    # one, then all but one, of the fine tokens of region (0, 1) is missing
    r"row 1 of positions covers the coarse region \(0, 1\) by \[0, 3\] cells": lambda s: ended(s, 1, 1, 3),
    r"row 1 of positions covers the coarse region \(0, 1\) by \[0, 1\] cells": lambda s: ended(s, 1, 1, 1),
    "contents have 1 granularities and positions 2": lambda s: s._replace(contents=s.contents[:1]),
    "contents have 1 granularities and positions 1": lambda s: Sequences(s.contents[:1], s.positions[:1]),
    r"contents\[1\] is torch.int64 of the shape \(9,\)": lambda s: s._replace(contents=(s[0][0], s[0][1][0])),
    r"contents\[1\] is torch.int64 of the shape \(1, 9\)": lambda s: s._replace(contents=(s[0][0], s[0][1][:1])),
    r"contents\[0\] is torch.float32": lambda s: s._replace(contents=(s[0][0].float(), s[0][1])),
    r"positions\[0\] is torch.int32": lambda s: s._replace(positions=(s[1][0].int(), s[1][1])),
    r"contents\[1\] has the shape \(2, 9\), positions\[1\] \(2, 8\)": lambda s: s._replace(
        positions=(s[1][0], s[1][1][:, :8])
    ),
}


@pytest.mark.parametrize("message", UNPACK_REFUSALS)
def test_unpack_refuses(message):
    with pytest.raises(ValueError, match=message):
        unpack(UNPACK_REFUSALS[message](pack(dynamic(GRAINS, codes=CODES), 10)), 10, (4, 4))


def test_unpack_refuses_another_grid():
    sequences = pack(dynamic(GRAINS, codes=CODES), 10)
    with pytest.raises(ValueError, match=r"grid \(4, 5\) is not tiled by the 2×2 regions of 2 granularities"):
        unpack(sequences, 10, (4, 5))
    with pytest.raises(ValueError, match=r"grid \(-4, 4\)"):
        unpack(sequences, 10, (-4, 4))
    with pytest.raises(ValueError, match=r"positions\[0\]\[0\] has no EOS \(9\)"):
        unpack(sequences, 10, (4, 8))


def test_unpack_refuses_a_partly_covered_median_region():
    sequences = pack(dynamic(torch.ones(1, 1, 2, dtype=torch.int64), grains=3), 10, grains=3, order="region")
    for field, special in (("contents", (11, 10)), ("positions", (9, 8))):
        sequences = changed(sequences, field, 1, (0, slice(7, None)), torch.tensor(special))
    with pytest.raises(ValueError, match=r"coarse region \(0, 1\) by \[0, 3, 0\] cells .* all of its \[1, 4, 16\]"):
        unpack(sequences, 10, (4, 8))
