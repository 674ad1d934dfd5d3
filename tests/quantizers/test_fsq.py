"""FSQ: values and gradients of vector-quantize-pytorch, and levels by hand."""

import math

import pytest
import torch

from vistok.quantizers import FSQ, FactorizedQuantizer

CASES = {"fsq0": ([8, 5, 5, 5], False), "fsq1": ([7, 5, 5, 5, 5], False), "fsq2": ([4, 4, 2], True)}


@pytest.mark.parametrize("group", CASES)
def test_against_vector_quantize_pytorch(golden, close, group):
    values = golden("scalar", group)
    levels, symmetric = CASES[group]
    head, z = FSQ(levels, symmetric=symmetric), values["z"].requires_grad_()
    quantized = head(z)
    assert torch.equal(quantized.codes[:, 0], values["codes"]) and quantized.losses == {}
    close(quantized.latent, values["zq"])
    (gradient,) = torch.autograd.grad(quantized.latent, z, values["up.zq"])
    close(gradient, values["grad.z"])
    first = values["implicit_codebook_head"]  # the codewords of the codes 0, 1, 2, ...
    close(head.lookup(torch.arange(len(first)).view(-1, 1, 1, 1))[..., 0, 0], first)


@pytest.mark.parametrize("size, symmetric, values", [
    (3, False, [-1, 0, 1]),
    (4, False, [-1, -0.5, 0, 0.5]),
    (5, False, [-1, -0.5, 0, 0.5, 1]),
    (2, True, [-1, 1]),
    (4, True, [-1, -1 / 3, 1 / 3, 1]),
])  # fmt: skip
def test_levels_of_one_channel(size, symmetric, values):
    head = FSQ([size], symmetric=symmetric)
    z = torch.linspace(-9, 9, 3001).view(1, 1, 1, -1)
    quantized = head(z)
    assert quantized.latent.unique().tolist() == pytest.approx(values)
    assert quantized.codes.unique_consecutive().tolist() == list(range(size))  # ascending, each level is reached


@pytest.mark.parametrize("levels, symmetric", [
    ([3, 4], False), ([8, 6, 5], False), ([1000, 7], False), ([3, 4], True), ([8, 6, 5], True), ([2, 3], True),
])  # fmt: skip
def test_the_formula_in_float64(levels, symmetric):
    """A plain form of the paper's bound and rounding, other than the head's; latents at an edge are left out."""
    z = torch.randn(4, len(levels), 5, 6) * 2
    expected, code, place, sure = [], 0, 1, torch.ones(4, 5, 6, dtype=torch.bool)
    for channel, size in zip(z.double().unbind(1), levels, strict=True):
        if symmetric:
            at = (channel.tanh() + 1) / 2 * (size - 1)
            level = (at + 0.5).floor()
            expected.append(2 * level / (size - 1) - 1)
        else:
            half, odd = (size - 1) * 1.001 / 2, size % 2
            shift = 0 if odd else math.atanh(0.5 / half)
            at = (channel + shift).tanh() * half - (0 if odd else 0.5)
            level = at.round() + size // 2
            expected.append(at.round() / (size // 2))
        sure &= (at - at.floor() - 0.5).abs() > 1e-4 * size
        code, place = code + level.long() * place, place * size
    quantized = FSQ(levels, symmetric=symmetric)(z)
    assert torch.equal(quantized.codes[:, 0][sure], code[sure]) and sure.float().mean() > 0.5
    torch.testing.assert_close(
        quantized.latent.movedim(1, -1)[sure], torch.stack(expected, dim=-1)[sure].float(), rtol=0, atol=1e-6
    )


def test_as_many_codewords_as_int64_holds():
    head = FSQ([4] * 31, symmetric=True)
    z = torch.randn(2, 31, 3, 3)
    quantized = head.eval()(z)
    assert head.codebook_sizes == (2**62,) and quantized.codes.max() > 2**59
    assert torch.equal(head.lookup(quantized.codes), quantized.latent)


def test_several_codes_are_those_of_heads_side_by_side():
    head, z = FSQ([8, 5, 3], num_codebooks=4), torch.randn(2, 12, 5, 6, requires_grad=True)
    others = FactorizedQuantizer([FSQ([8, 5, 3]) for _ in range(4)], disentangle=False)
    results, up = [own(z) for own in (head, others)], torch.randn(2, 12, 5, 6)
    assert head.dim == 12 and head.codebook_sizes == (120,) * 4
    for one, other in zip(*results, strict=True):
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other)
    gradients = [torch.autograd.grad(quantized.latent, z, up)[0] for quantized in results]
    torch.testing.assert_close(*gradients)
    codes = results[0].codes
    assert torch.equal(head.encode(z).codes, codes)
    assert torch.equal(head.lookup(codes), results[0].latent)
    edges = z.detach().clone()
    edges[:, 4] = math.atanh(0.5 / (2 * 1.001))  # of the second code, between the levels 2 and 3, which are 8 apart
    lower = head.encode(edges - 1e-4).codes
    other = lower.clone()
    other[:, 1] += 8
    assert head.near_ties(edges, lower, other).all() and not head.near_ties(edges - 1e-2, lower, other)[:, 1].any()


@pytest.mark.parametrize("size", [3001, 4000])
def test_the_bound_of_many_levels_ends_at_the_outermost(size):
    quantized = FSQ(size)(torch.tensor([-40.0, 40.0]).view(1, 1, 1, 2))
    assert quantized.codes.flatten().tolist() == [0, size - 1]


def test_near_ties():
    head = FSQ([5, 5])
    edge = math.atanh(0.5 / (2 * 1.001))  # between the levels 2 and 3
    z = torch.tensor([edge, 0.0]).view(1, 2, 1, 1)
    codes = [torch.full((1, 1, 1, 1), code) for code in (12, 13, 17)]
    assert head.near_ties(z, codes[0], codes[1]).all()
    assert not head.near_ties(z, codes[0], codes[2]).any()  # the other channel is in the middle of its level
    assert not head.near_ties(z + 0.01, codes[0], codes[1]).any()


@pytest.mark.parametrize("levels, symmetric, message", [
    ([], False, "must be one or more numbers of at least 3"),
    ([8, 2], False, "symmetric=True takes 2"),
    ([8, 1], True, "at least 2"),
    ([8] * 21, False, "more than 2\\^62 combinations"),
])  # fmt: skip
def test_levels_that_are_wrong(levels, symmetric, message):
    with pytest.raises(ValueError, match=message):
        FSQ(levels, symmetric=symmetric)


def test_one_number_of_levels_for_all_channels():
    assert FSQ(5, 3).levels == [5, 5, 5] and FSQ(5).codebook_sizes == (5,)
    assert FSQ(5, 6, num_codebooks=2).codebook_sizes == (125, 125)
    with pytest.raises(ValueError, match=r"levels=\[8, 5\] are for 2 channels, but the latent has dim=3"):
        FSQ([8, 5], dim=3)
    with pytest.raises(ValueError, match=r"2 channels, but the latent has dim=6 in num_codebooks=2 codes"):
        FSQ([8, 5], dim=6, num_codebooks=2)
    with pytest.raises(ValueError, match="num_codebooks must be at least 1, not 0"):
        FSQ(5, num_codebooks=0)
    with pytest.raises(ValueError, match="num_codebooks=3 does not divide the latent's 4 channels"):
        FSQ(5, dim=4, num_codebooks=3)


def test_the_compared_latent_is_on_the_scale_of_codewords():
    """As its distance to the codeword is half a level at most."""
    head, z = FSQ([8, 5, 3], symmetric=False).eval(), torch.randn(4, 3, 6, 6) * 3
    assert ((head.compared(z) - head(z).latent).abs() <= 0.51 / head.radius).all()
