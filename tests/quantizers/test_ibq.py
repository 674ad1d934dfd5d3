"""IBQ: values and gradients of its authors, the dense form, and memory."""

from importlib import import_module

import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from vistok.kernels import largest_product, propagated, propagated_and_assigned, propagation, soft_assignment
from vistok.kernels.soft_assignment import scores
from vistok.quantizers import IBQ, Context, Table, code_statistics


def test_against_its_authors(golden, close):
    values = golden("heads", "ibq")
    z = values["z"].requires_grad_()
    head = IBQ(*values["codebook"].shape)
    head.codewords.data.copy_(values["codebook"])
    quantized = head.train()(z)
    assert torch.equal(quantized.codes[:, 0], values["codes"])
    assert torch.equal(head.eval()(z).codes, quantized.codes)
    close(quantized.latent, values["zq"])
    losses = quantized.losses
    close(losses["propagation"] + losses["commitment"] + 0.25 * losses["codebook"], values["loss.quant"])
    close(losses["entropy"], values["loss.sample_entropy"] - values["loss.avg_entropy"])
    total = quantized.total({"codebook": 0.25, "entropy": 0.05})
    close(total, values["loss.total"])
    for kind, loss in (("gradloss", total), ("grad", total + (values["up.zq"] * quantized.latent).sum())):
        of_z, of_codebook = torch.autograd.grad(loss, (z, head.codewords), retain_graph=True)
        torch.testing.assert_close(of_z, values[f"{kind}.z"], rtol=0, atol=1e-6)
        torch.testing.assert_close(of_codebook, values[f"{kind}.codebook"], rtol=0, atol=1e-6)


def dense(z, codebook):
    """The published form, with matrices (n, k)."""
    p = (z @ codebook.T).softmax(1)
    chosen = F.one_hot((z @ codebook.T).argmax(1), len(codebook)).to(p)
    return (chosen + p - p.detach()) @ codebook


@pytest.mark.parametrize("n, k, d", [(1, 2, 1), (70, 1300, 8), (33, 512, 3), (40, 515, 32)])
def test_the_dense_form(n, k, d, monkeypatch):
    monkeypatch.setattr(import_module("vistok.kernels.soft_assignment"), "LEAST", 7 * k)  # in several slices
    z, codebook = torch.randn(n, d).double().requires_grad_(), torch.randn(k, d).double().requires_grad_()
    values, codes = propagated(z, codebook)
    expected, upstream = dense(z, codebook), torch.randn(n, d).double()
    assert torch.equal(codes, (z @ codebook.T).argmax(1)) and torch.equal(values, codebook[codes])
    ours, theirs = (torch.autograd.grad(out, (z, codebook), upstream) for out in (values, expected))
    for own, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, their, rtol=0, atol=1e-12 * max(1, float(their.abs().max())))


@pytest.mark.parametrize("n, k, d", [(1, 2, 1), (70, 1300, 8), (40, 515, 32)])
def test_the_entropies_of_the_same_scores(n, k, d, monkeypatch):
    """Values and gradients are those of the two kernels apart."""
    monkeypatch.setattr(import_module("vistok.kernels.soft_assignment"), "LEAST", 7 * k)
    inputs = [torch.randn(shape).double().requires_grad_() for shape in ((n, d), (k, d), (n,))]
    z, codebook, weight = inputs
    upstream = [torch.randn(shape).double() for shape in ((n, d), (n,), (k,))]
    values, codes, *assigned = propagated_and_assigned(z, codebook, weight, 1.7)
    apart = [propagated(z, codebook)[0], *soft_assignment(z, codebook, weight, 1.7, products=True)]
    assert torch.equal(codes, propagated(z, codebook)[1])
    results = [[*outs, *torch.autograd.grad(outs, inputs, upstream)] for outs in ([values, *assigned], apart)]
    for own, other in zip(*results, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12 * max(1, float(other.detach().abs().max())))


@pytest.mark.parametrize("k", [3, 512, 1500])
def test_the_first_of_equal_products(k):
    z, codebook = torch.ones(4, 2), torch.zeros(k, 2)
    codebook[[k // 2, k - 1]] = 1.0
    assert propagated(z, codebook)[1].tolist() == [k // 2] * 4
    assert largest_product(z, codebook).tolist() == [k // 2] * 4
    assert propagation.largest(torch.zeros(2, k))[1].tolist() == [0, 0]


def test_largest_product_with_a_bias():
    z, codebook, bias = torch.randn(200, 6) * 3, torch.randn(700, 6) * torch.rand(700, 1) * 9, torch.randn(700) * 20
    expected = (z.double() @ codebook.double().T + bias.double()).argmax(1)
    assert torch.equal(largest_product(z, codebook, bias), expected) and len(expected.unique()) > 10
    assert torch.equal(largest_product(z, codebook), (z.double() @ codebook.double().T).argmax(1))


def test_entropy_of_products():
    z, codebook = torch.randn(2, 4, 3, 5).double().requires_grad_(), torch.randn(9, 4).double().requires_grad_()
    weight = torch.rand(2, 3, 5).double()
    p = (rearrange(z, "b d h w -> (b h w) d") @ codebook.T / 0.3).softmax(1)
    share = weight.flatten() / weight.sum()
    mean = share @ p
    expected = -(share @ (p * p.log()).sum(1)) + (mean * (mean + 1e-5).log()).sum()
    ours = code_statistics.entropy(z, codebook, 0.3, weight, products=True)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    for own, theirs in zip(*(torch.autograd.grad(x, (z, codebook)) for x in (ours, expected)), strict=True):
        torch.testing.assert_close(own, theirs, rtol=0, atol=1e-12)


def test_memory(allocated):
    """A tenth of the matrix of scores, forward and backward, gradients included."""
    n, k = 4096, 8192
    z, head = torch.randn(1, 8, 64, n // 64, requires_grad=True), IBQ(k, 8)

    def step():
        quantized = head(z)
        (quantized.latent.square().sum() + quantized.total()).backward()

    assert 2**20 < allocated(step) < 0.1 * 4 * n * k


def test_shapes_alone():
    inputs = [torch.randn(6, 2, requires_grad=True), torch.randn(5, 2, requires_grad=True)]
    for others in ((None, 0.0), (torch.rand(6), 2.0)):
        torch.library.opcheck(propagation.choose, (*inputs, *others))
    assert next(scores(inputs[0].detach(), inputs[1].detach()))[1].shape == (6, 5)


def test_another_table_and_revived_codewords():
    head, z = IBQ(8, 4).eval(), torch.randn(1, 4, 3, 3)
    smaller = head.with_table(0, Table(head.codewords[:3].detach(), "dot", head.codewords[:3].detach()))
    assert torch.equal(smaller(z).codes, torch.einsum("bdhw,nd->bnhw", z, head.codewords[:3]).argmax(1, keepdim=True))
    with pytest.raises(ValueError, match="by inner products"):
        head.with_table(0, Table(head.codewords.detach(), "l2", head.codewords.detach()))
    rows, vectors = torch.arange(8) < 2, torch.randn(8, 4)
    assert torch.equal(head.revive(0, rows, vectors)["codewords"], rows)
    assert torch.equal(head.codewords[:2], vectors[:2]) and not torch.equal(head.codewords[2:], vectors[2:])
    assert head.near_ties(z, head(z).codes, head(z).codes).all()
    with pytest.raises(ValueError, match="entropy_temperature must be above 0, not 0"):
        IBQ(8, 4, entropy_temperature=0)
    assert "entropy" not in head(z, Context(unused=("entropy",))).losses
