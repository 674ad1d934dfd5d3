"""SimVQ against its authors' values."""

import pytest
import torch

from vistok.quantizers import SimVQ


def with_values(values):
    head = SimVQ(*values["embedding"].shape)
    head.basis.copy_(values["embedding"])
    head.projection.weight.data.copy_(values["proj.weight"])
    head.projection.bias.data.copy_(values["proj.bias"])
    return head


@pytest.mark.parametrize("group, commitment, codebook", [("simvq", 0.25, 1.0), ("simvq_legacy", 1.0, 0.25)])
def test_simvq(golden, close, group, commitment, codebook):
    values = golden("heads", group)
    head = with_values(values)
    close(head.codebook(), values["effective_codebook"])
    z = values["z"].requires_grad_()
    quantized = head(z)
    assert torch.equal(quantized.codes[:, 0], values["codes"])
    close(quantized.latent, values["zq"])
    loss = commitment * quantized.losses["commitment"] + codebook * quantized.losses["codebook"]
    close(loss, values["loss.total"])
    upstream = (values["up.zq"] * quantized.latent).sum()
    names = {"z": z, "proj.weight": head.projection.weight, "proj.bias": head.projection.bias}
    for kind, total in (("gradloss", loss), ("grad", loss + upstream)):
        for name, gradient in zip(names, torch.autograd.grad(total, names.values(), retain_graph=True), strict=True):
            close(gradient, values[f"{kind}.{name}"])


def test_lookup_projects_as_the_authors_does_not(golden, close):
    values = golden("heads", "simvq")
    codes = torch.arange(50).reshape(1, 1, 5, 10)
    latent = with_values(values).lookup(codes)[0].flatten(1).T
    close(latent, values["effective_codebook"])
    assert (latent - values["entry_of_authors"]).abs().max() > 0.1


def test_a_whole_model(family, close):
    """The quantizer of the authors' model, at the weights that they evaluate: the average of the map, the raw basis."""
    weights, io = family("simvq")
    head = SimVQ(*weights["quantize.embedding.weight"].shape)
    head.basis.copy_(weights["quantize.embedding.weight"])
    head.projection.weight.data.copy_(weights["model_ema.quantizeembedding_projweight"])
    head.projection.bias.data.copy_(weights["model_ema.quantizeembedding_projbias"])
    for evaluated in (head.eval(), head.for_inference()):
        quantized = evaluated(io["latent"])
        assert torch.equal(quantized.codes[:, 0], io["codes"])
        close(quantized.latent, io["quantized"])


def test_what_is_learned():
    assert [name for name, p in SimVQ(64, 8).named_parameters()] == ["projection.weight", "projection.bias"]
    assert {name for name, p in SimVQ(64, 8, trainable_basis=True).named_parameters()} == {
        "basis",
        "projection.weight",
        "projection.bias",
    }


def test_the_basis_begins_gaussian():
    torch.manual_seed(0)
    basis = SimVQ(4096, 64).basis
    assert basis.std().item() == pytest.approx(64**-0.5, rel=0.01)
    assert (basis.abs() < basis.std()).float().mean().item() == pytest.approx(0.683, abs=0.005)


def test_parameters_of_the_published_head():
    head = SimVQ(1024, 128)
    assert sum(p.numel() for p in head.parameters()) == 16_512  # learned
    assert sum(t.numel() for t in head.state_dict().values()) == 147_584
