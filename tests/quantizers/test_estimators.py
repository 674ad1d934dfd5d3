"""Gradient estimators against the authors' values and by hand."""

import pytest
import torch
from einops import rearrange

from vistok.quantizers import (
    CodewordGradient,
    Context,
    DiVeQ,
    RotationTrick,
    SFDiVeQ,
    StraightThrough,
    VectorQuantizer,
)
from vistok.quantizers.sf_diveq import moved


def as_map(vectors):
    return rearrange(vectors, "n d -> 1 d 1 n")


def as_vectors(latent):
    return rearrange(latent, "1 d 1 n -> n d")


def test_rotation_trick(golden, close):
    values = golden("estimators", "rotation")
    z, z_q = values["src"].requires_grad_(), values["tgt"].requires_grad_()
    out = as_vectors(RotationTrick()(as_map(z), as_map(z_q)))
    assert torch.equal(out, z_q)  # theirs rounds
    close(out, values["out"])
    of_z, of_q = torch.autograd.grad(out, (z, z_q), values["up.out"], allow_unused=True)
    close(of_z, values["grad.src"])
    assert of_q is None and not values["grad.tgt"].any()


def test_rotation_by_hand():
    z, z_q = torch.tensor([[2.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 3.0]])
    out = RotationTrick()(as_map(z), as_map(z_q))
    (gradient,) = torch.autograd.grad(out, z, as_map(torch.tensor([[1.0, 5.0]])))
    # a quarter turn to the left and 3 / 2 longer, so the gradient turns back to the right
    torch.testing.assert_close(gradient, torch.tensor([[7.5, -1.5]]))


@pytest.mark.parametrize("z", [torch.zeros(4), torch.tensor([1e-12, 0, 0, 0]), torch.tensor([-1.0, 0, 0, 0])])
def test_rotation_is_finite_near_zero_and_for_opposite_vectors(z):
    z = as_map(z[None]).requires_grad_()
    z_q = as_map(torch.tensor([[1.0, 0, 0, 0]]))
    out = RotationTrick()(z, z_q)
    assert torch.equal(out, z_q)
    assert torch.autograd.grad(out.sum(), z)[0].isfinite().all()


@pytest.mark.parametrize("group", ["diveq", "diveq_detach"])
def test_diveq(golden, close, group):
    values = golden("estimators", group)
    noise = values.get("noise1", torch.zeros_like(values["z"]))
    z, codebook = values["z"].requires_grad_(), values["codebook"].requires_grad_()
    head = VectorQuantizer(*codebook.shape)
    head.codewords = torch.nn.Parameter(codebook.detach())
    codes = head(as_map(z)).codes
    assert torch.equal(codes.flatten(), values["codes"])
    moved = as_vectors(DiVeQ.moved(as_map(z), as_map(codebook[codes.flatten()]), as_map(noise)))
    close(moved, values["zq"])
    of_z, of_codebook = torch.autograd.grad(moved, (z, codebook), values["up.zq"])
    close(of_z, values["grad.z"])
    close(of_codebook, values["grad.codebook"])
    if group == "diveq":
        evaluated = head.eval()(as_map(z))
        assert torch.equal(evaluated.codes.flatten(), values["inference.codes"])
        close(as_vectors(evaluated.latent), values["inference.zq"])


def test_diveq_draws_its_noise_in_training_only():
    torch.manual_seed(0)
    head = VectorQuantizer(16, 4, estimator=DiVeQ(std=0.1))
    z = torch.randn(1, 4, 8, 8)
    latent = head.train()(z).latent
    assert not torch.equal(latent, head(z).latent)
    distance = (z - head.lookup(head(z).codes)).norm(dim=1)
    torch.testing.assert_close((latent - z).norm(dim=1), distance)  # it moves as far as the codeword is
    assert torch.equal(head.eval()(z).latent, head(z).latent)


def test_diveq_teaches_the_codebook_through_the_latent():
    head = VectorQuantizer(16, 4, estimator=DiVeQ())
    z = torch.randn(1, 4, 8, 8, requires_grad=True)
    of_z, of_table = torch.autograd.grad(head.train()(z).latent.sum(), (z, head.codewords))
    assert of_z.abs().sum() > 0 and of_table.abs().sum() > 0


def test_diveq_at_a_codeword_has_finite_gradients():
    head = VectorQuantizer(4, 2, estimator=DiVeQ())
    z = as_map(head.codewords.detach().clone()).requires_grad_()
    assert torch.autograd.grad(head.train()(z).latent.sum(), z)[0].isfinite().all()


@pytest.mark.parametrize("group", ["sf_diveq", "sf_diveq_detach"])
def test_sf_diveq(golden, close, monkeypatch, group):
    values = golden("estimators", group)
    detach = group == "sf_diveq_detach"
    z, head = values["z"].requires_grad_(), SFDiVeQ(*values["codebook"].shape, std=0 if detach else 1)
    head.codewords.data.copy_(values["codebook"])
    draws = iter([] if detach else [as_map(values["noise1"]), as_map(values["noise2"])])
    monkeypatch.setattr(torch, "rand", lambda *shape, device: values["dither"])
    monkeypatch.setattr(torch, "randn_like", lambda like: next(draws))
    quantized = head.train()(as_map(z))
    assert torch.equal(quantized.codes.flatten(), values["codes"]) and quantized.losses == {}
    latent = as_vectors(quantized.latent)
    close(latent, values["zq"])
    of_z, of_codebook = torch.autograd.grad(latent, (z, head.codewords), values["up.zq"])
    close(of_z, values["grad.z"])
    torch.testing.assert_close(of_codebook, values["grad.codebook"], rtol=0, atol=1e-6)
    assert torch.equal(head.eval()(as_map(z)).codes.flatten(), values["inference.codes"])
    close(as_vectors(head.nearest_point(as_map(z.detach()))), values["inference.zq"])


def test_sf_diveq_makes_its_codebook_of_latents(golden, close):
    """Their ``skip_iters`` counts the first quantized step too: 4 there are 3 skipped updates here."""
    values = golden("estimators", "sf_diveq_init")
    head = SFDiVeQ(*values["codebook"].shape, skip_updates=3, mean_updates=2).train()
    head.codewords.data.copy_(values["codebook"])
    for i in (1, 2, 3):
        z = as_map(values[f"z{i}"])
        quantized = head(z)
        assert torch.equal(quantized.latent, z)
        moved_rows = head.update(quantized.stats)["codewords"]
        assert moved_rows.all() if i == 3 else not moved_rows.any()
        close(head.codewords, values[f"codebook_after{i}"])
    quantized = head(z, Context(progress=3))
    assert quantized.stats is None and not torch.equal(quantized.latent, z)
    with pytest.raises(ValueError, match="codebook_size=16 needs as many latents, but mean_updates=1 updates have 9"):
        SFDiVeQ(16, 6, skip_updates=2, mean_updates=1)(torch.randn(1, 6, 3, 3))


def test_sf_diveq_by_hand():
    """A quarter of the way from (0, 3) to (4, 0), in steps of the distances 3 and 4 along the axes."""
    z, first, second = (as_map(torch.tensor([v])) for v in ([0.0, 0.0], [0.0, 3.0], [4.0, 0.0]))
    point = moved(z, first, second, torch.full((1, 1, 1, 1), 0.25), [torch.zeros_like(z)] * 2)
    torch.testing.assert_close(point.flatten(), torch.tensor([1.0, 2.25]))


@pytest.mark.parametrize("group", ["vqp_ste", "vqp_rotation"])
def test_vector_quantize_pytorch(golden, close, group):
    """A training step of their EMA codebook, whose only loss is the commitment."""
    values = golden("estimators", group)
    head = VectorQuantizer(
        24, 8, ema_decay=0.8, estimator=RotationTrick() if group == "vqp_rotation" else StraightThrough()
    ).train()
    before = {name: values[f"before._codebook.{name}"][0] for name in ("embed", "cluster_size", "embed_avg")}
    head.codewords.copy_(before["embed"])
    head.ema_counts.copy_(before["cluster_size"])
    head.ema_sums.copy_(before["embed_avg"])
    z = values["z"].requires_grad_()
    quantized = head(rearrange(z, "b n d -> b d 1 n"))
    assert torch.equal(quantized.codes[:, 0, 0], values["codes"])
    latent = rearrange(quantized.latent, "b d 1 n -> b n d")
    close(latent, values["zq"])
    loss = quantized.losses["commitment"]
    close(loss, values["loss.total"])
    for kind, total in (("gradloss", loss), ("grad", loss + (values["up.zq"] * latent).sum())):
        (gradient,) = torch.autograd.grad(total, z, retain_graph=True)
        close(gradient, values[f"{kind}.z"])
    head.update(quantized.stats)
    close(head.ema_counts, values["after1._codebook.cluster_size"][0])
    close(head.ema_sums, values["after1._codebook.embed_avg"][0])
    close(head.codewords, values["after1._codebook.embed"][0])


def test_angles_are_kept_by_the_rotation():
    """The point of the method: the gradient makes the angle with the codeword's direction that it made with z's."""
    torch.manual_seed(0)
    z, z_q, upstream = (torch.randn(5, 8) for _ in range(3))
    z.requires_grad_()
    out = RotationTrick()(as_map(z), as_map(z_q))
    (gradient,) = torch.autograd.grad(out, z, as_map(upstream))
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(cosine(gradient, z), cosine(upstream, z_q))
    torch.testing.assert_close(gradient.norm(dim=1) / upstream.norm(dim=1), z_q.norm(dim=1) / z.norm(dim=1))


def test_codeword_gradient():
    z, z_q = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    out = CodewordGradient()(z, z_q)
    upstream = torch.randn(3, 4)
    of_z, of_q = torch.autograd.grad(out, (z, z_q), upstream, allow_unused=True)
    assert torch.equal(out, z_q) and torch.equal(of_q, upstream) and of_z is None
