"""Binary codes: values and gradients of the authors' code, and the factored entropy against the plain one."""

import math

import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from vistok.quantizers import BinaryQuantizer, Context, code_statistics
from vistok.quantizers.bsq import entropy_sums


@pytest.mark.parametrize("group", ["bsq_group", "bsq_analytical"])
def test_bsq_against_its_authors(golden, close, group):
    """Their latent (b, n, d) is of unit length already, so their gradient lacks what normalising takes away."""
    values = golden("binary", group)
    z = rearrange(values["z"], "b n d -> b d 1 n").requires_grad_()
    head = BinaryQuantizer(9, group=3 if group == "bsq_group" else 1)
    quantized = head(z)
    assert torch.equal(quantized.codes[:, 0, 0], values["codes"])
    close(rearrange(quantized.latent, "b d 1 n -> b n d"), values["zq"])
    close(quantized.losses["entropy"], values["loss.per_sample_entropy"] - values["loss.codebook_entropy"])
    total = quantized.losses["entropy"]
    if group == "bsq_group":  # β = 0.25, and the sum over channels
        total = total + 0.25 * 9 * quantized.losses["commitment"]
    close(total, values["loss.total"])
    upstream = rearrange(values["up.zq"], "b n d -> b d 1 n")
    for loss, name in [(total, "gradloss.z"), (total + (upstream * quantized.latent).sum(), "grad.z")]:
        (gradient,) = torch.autograd.grad(loss, z, retain_graph=True)
        theirs = rearrange(values[name], "b n d -> b d 1 n")
        close(gradient, theirs - (theirs * z).sum(1, keepdim=True) * z)


def test_lfq_against_open_magvit2(golden, close):
    values = golden("binary", "lfq")
    z = values["z"].requires_grad_()
    quantized = BinaryQuantizer(8, spherical=False, temperature=0.01, group=8)(z)
    assert torch.equal(quantized.codes[:, 0], values["codes"])
    close(quantized.latent, values["zq"])
    close(quantized.losses["commitment"], values["loss.commitment"])
    close(quantized.losses["entropy"], values["loss.entropy_aux"])
    total = 0.1 * quantized.losses["entropy"] + 0.25 * quantized.losses["commitment"]
    close(total, values["loss.total"])
    (gradient,) = torch.autograd.grad(total, z, retain_graph=True)
    close(gradient, values["gradloss.z"], tolerance=1e-4)  # theirs goes through a float32 softmax over all codewords
    (gradient,) = torch.autograd.grad(total + (values["up.zq"] * quantized.latent).sum(), z)
    close(gradient, values["grad.z"])


@pytest.mark.parametrize("group, weights", [("wetok_lfq", (1.0, 1.0)), ("wetok_lfq_weighted", (0.7, 1.6))])
def test_grouped_lfq_against_wetok(golden, close, group, weights):
    values = golden("binary", group)
    z = values["z"].requires_grad_()
    head = BinaryQuantizer(12, False, 0.01, None, 3, True, *weights)
    quantized = head(z)
    assert torch.equal(quantized.codes, values["codes"]) and head.group == 4
    close(quantized.latent, values["zq"])
    close(quantized.losses["commitment"], values["loss.commitment"])
    close(quantized.losses["entropy"], values["loss.entropy"])
    total = quantized.losses["entropy"] + 0.25 * quantized.losses["commitment"]
    close(total, values["loss.total"])
    (gradient,) = torch.autograd.grad(total, z, retain_graph=True)
    close(gradient, values["gradloss.z"])
    (gradient,) = torch.autograd.grad(total + (values["up.zq"] * quantized.latent).sum(), z)
    close(gradient, values["grad.z"])


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("pooled", [True, False])
def test_the_two_entropies_of_groups(spherical, pooled):
    """Against softmax over all codewords of each group, written out."""
    head = BinaryQuantizer(12, spherical, 0.4, 2, 3, pooled, sample_weight=0.3, batch_weight=1.7)
    u = F.normalize(torch.randn(2, 12, 3, 4, dtype=torch.float64), dim=1)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64) * head.length] * 2)
    groups = rearrange(u, "b (n g) h w -> n (b h w) g", g=2)
    p = (2 * groups @ corners.T / 0.4).softmax(-1)  # (n, positions, 4)
    sample, mean = -(p * p.log()).sum(-1).mean(1), p.mean(1)
    floor = 1e-8 if spherical else 1e-5
    if pooled:
        mean = mean.mean(0)
        expected = 0.3 * sample.mean() + 1.7 * (mean * (mean + floor).log()).sum()
    else:
        expected = 0.3 * sample.sum() + 1.7 * (mean * (mean + floor).log()).sum()
    assert head.entropy(u).item() == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("spherical", [True, False])
def test_128_bits_in_eight_codes(spherical):
    head = BinaryQuantizer(128, spherical, group=None, num_codebooks=8).eval()
    z = torch.randn(2, 128, 3, 4)
    quantized = head(z)
    assert head.codebook_sizes == (2**16,) * 8 and head.group == 16 and quantized.codes.shape == (2, 8, 3, 4)
    assert torch.equal(head.lookup(quantized.codes), quantized.latent) and torch.equal(quantized.latent > 0, z > 0)
    own = BinaryQuantizer(16, spherical)
    for i, part in enumerate(z.split(16, dim=1)):  # bits in the order of one code's
        assert torch.equal(own(part).codes[:, 0], quantized.codes[:, i])


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("dim", [1, 6, 7])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_entropy_is_the_plain_one(spherical, dim, weighted, monkeypatch):
    monkeypatch.setattr("vistok.quantizers.bsq.ROWS_TIMES_HALF", 60)  # in many parts
    head = BinaryQuantizer(dim, spherical, temperature=0.5, group=dim)
    z = torch.randn(2, dim, 3, 5, dtype=torch.float64)
    u = (F.normalize(z, dim=1) if spherical else z).requires_grad_()
    weight = torch.rand(2, 3, 5, dtype=torch.float64) if weighted else None
    plain = code_statistics.entropy(u, head.codebook().double(), 0.5, weight)
    ours = head.entropy(u, weight)
    tolerance = 2e-3 if spherical else 1e-12  # the plain one has 1e-5 in its logarithm, BSQ's authors 1e-8
    torch.testing.assert_close(ours, plain, rtol=0, atol=tolerance)
    if not spherical:
        for own, theirs in zip(torch.autograd.grad(ours, u), torch.autograd.grad(plain, u), strict=True):
            torch.testing.assert_close(own, theirs, rtol=0, atol=1e-12)


def test_tuples_by_hand():
    probabilities = torch.tensor([[0.25, 0.5], [0.75, 0.75]], dtype=torch.float64)
    entropy, sums = entropy_sums(probabilities.logit(), torch.tensor([1.0, 2.0], dtype=torch.float64), group=2)
    # 00, 01, 10, 11 of the first position, and twice those of the second
    expected = torch.tensor([[0.375 + 0.125, 0.375 + 0.375, 0.125 + 0.375, 0.125 + 1.125]], dtype=torch.float64)
    torch.testing.assert_close(sums, expected)
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert entropy.item() == pytest.approx(quarter + math.log(2) + 2 * 2 * quarter)


def test_bits_of_a_code():
    z = torch.tensor([1.0, -2.0, 3.0, -0.0]).view(1, 4, 1, 1)
    assert BinaryQuantizer(4)(z).codes.item() == 0b1010
    assert BinaryQuantizer(4, spherical=False)(z).codes.item() == 0b0101
    assert BinaryQuantizer(4).lookup(torch.tensor(0b1010).view(1, 1, 1, 1)).flatten().tolist() == [0.5, -0.5, 0.5, -0.5]


def test_more_bits_than_any_table():
    """36 and 62 bits: codes are exact, where a float32 sum of powers would not be."""
    for dim in (36, 62):
        head = BinaryQuantizer(dim, group=2).eval()
        z = torch.randn(2, dim, 4, 4)
        quantized = head(z)
        assert head.codebook_sizes == (2**dim,) and quantized.codes.max() > 2 ** (dim - 5)
        torch.testing.assert_close(head.lookup(quantized.codes), quantized.latent, rtol=0, atol=0)
        assert torch.equal(head.lookup(quantized.codes) > 0, z > 0)
        with pytest.raises(ValueError, match=rf"2\^{dim} codewords are too many to enumerate"):
            head.codebook()
        assert torch.equal(head.for_inference()(z).codes, quantized.codes)


def test_all_18_bits_jointly_without_a_matrix_of_scores():
    """Of 1,024 vectors and 2^18 codewords there would be 2^28 scores, a GiB."""
    head = BinaryQuantizer(18, group=18)
    z = torch.randn(4, 18, 16, 16, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        entropy = head(z).losses["entropy"]
    assert max(kept) <= 2**18
    assert -18 * 0.6932 < entropy < 0
    assert torch.autograd.grad(entropy, z)[0].isfinite().all()


def test_an_entropy_that_nobody_wants_is_left_out():
    head, z = BinaryQuantizer(8), torch.randn(1, 8, 2, 2)
    assert set(head(z).losses) == {"commitment", "entropy"}
    assert set(head(z, Context(unused=("entropy",))).losses) == {"commitment"}


@pytest.mark.parametrize("dim, group", [(8, 8), (18, 18), (24, 12), (36, 18), (62, 2), (23, 1)])
def test_the_largest_group(dim, group):
    assert BinaryQuantizer(dim, group=None).group == group


@pytest.mark.parametrize("arguments, message", [
    ({"dim": 63}, "dim=63 must be 1 to 62 bits"),
    ({"dim": 126, "num_codebooks": 2}, "dim=126 / num_codebooks=2 must be 1 to 62 bits"),
    ({"dim": 12, "num_codebooks": 5}, "num_codebooks=5 does not divide the latent's 12 channels"),
    ({"dim": 12, "num_codebooks": 2, "group": 4}, "group=4 must divide dim=12 / num_codebooks=2"),
    ({"dim": 12, "group": 5}, "group=5 must divide dim=12"),
    ({"dim": 46, "group": 23}, "group=23 must divide dim=46 and be at most 22 bits"),
    ({"dim": 8, "temperature": 0}, "temperature must be above 0"),
])  # fmt: skip
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BinaryQuantizer(**arguments)
