"""Gumbel-softmax: values of VQGAN's code, its temperature, and what evaluation does."""

import math

import pytest
import torch

from vistok.quantizers import Context, GumbelQuantizer, Table
from vistok.quantizers.gumbel import gumbel_noise


def filled(values, **arguments):
    size, input_dim = values["state.proj.weight"].shape[:2]
    head = GumbelQuantizer(size, values["state.embed.weight"].shape[1], input_dim, **arguments)
    head.logits.load_state_dict({"weight": values["state.proj.weight"], "bias": values["state.proj.bias"]})
    head.codewords.data.copy_(values["state.embed.weight"])
    return head.train()


@pytest.mark.parametrize("group, hard, temperature, weight", [
    ("gumbel_hard", True, 0.7, 0.01),
    ("gumbel_soft", False, 1.3, 0.03),
])  # fmt: skip
@pytest.mark.parametrize("at_once", [2**22, 40 * 7])  # in one part and in many
def test_against_taming(golden, close, monkeypatch, group, hard, temperature, weight, at_once):
    values = golden("scalar", group)
    parts = iter(values["gumbel_noise"].movedim(1, -1).flatten(0, 2).split(at_once // 40))
    drawn = {}  # by the logits, which are computed again in the backward pass

    def recorded(logits):
        key = logits.detach().sum().item()
        return drawn[key] if key in drawn else drawn.setdefault(key, next(parts))

    monkeypatch.setattr("vistok.quantizers.gumbel.SCORES_AT_ONCE", at_once)
    monkeypatch.setattr("vistok.quantizers.gumbel.gumbel_noise", recorded)
    head, z = filled(values, straight_through=hard, temperature=temperature), values["z"].requires_grad_()
    quantized = head(z)
    assert torch.equal(quantized.codes[:, 0], values["codes"])
    close(quantized.latent, values["zq"])
    loss = weight * quantized.losses["kl"]
    close(loss, values["loss.total"])
    inputs = {"z": z, "proj.weight": head.logits.weight, "proj.bias": head.logits.bias, "embed.weight": head.codewords}
    for kind, total in (("gradloss", loss), ("grad", loss + (values["up.zq"] * quantized.latent).sum())):
        found = torch.autograd.grad(total, list(inputs.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(inputs, found, strict=True):
            close(torch.zeros_like(inputs[name]) if gradient is None else gradient, values[f"{kind}.{name}"])


def test_evaluation_takes_the_largest_logit(golden):
    values = golden("scalar", "gumbel_hard")
    head, z = filled(values).eval(), values["z"]
    logits = torch.nn.functional.conv2d(z, head.logits.weight, head.logits.bias)
    first = head(z)
    assert torch.equal(first.codes, logits.argmax(1, keepdim=True)) and torch.equal(head(z).codes, first.codes)
    assert torch.equal(first.latent, head.codewords[first.codes[:, 0]].movedim(-1, 1))
    assert len({tuple(head.train()(z).codes.flatten().tolist()) for _ in range(3)}) == 3  # training samples
    other = head.with_table(0, Table(*(head.table(0)[i] if i == 1 else head.table(0)[i][:9] for i in range(4))))
    assert torch.equal(other(z).codes, logits[:, :9].argmax(1, keepdim=True))


def test_the_noise_has_a_gumbel_distribution():
    torch.manual_seed(0)
    noise = gumbel_noise(torch.empty(1000, 2000)).double().flatten()
    assert noise.mean().item() == pytest.approx(0.57722, abs=4e-3)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.01)
    for share in (1e-3, 0.5, 0.999, 1 - 1e-5):  # the largest of many decide which code is drawn
        at = -math.log(-math.log(share))
        spread = math.sqrt(share * (1 - share) / len(noise))
        assert (noise < at).double().mean().item() == pytest.approx(share, abs=5 * spread)


def test_the_temperature():
    head = GumbelQuantizer(8, 4, temperature=1.0, final=0.1, start=0.5, warmup=10, updates=110)
    assert [head.temperature_at(n) for n in (0, 5, 10)] == pytest.approx([0.5, 0.75, 1.0])
    assert [head.temperature_at(n) for n in (60, 110, 999)] == pytest.approx([0.55, 0.1, 0.1])
    assert head.temperature_at(35) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))
    assert GumbelQuantizer(8, 4).temperature_at(0) == 0.9


def test_the_temperature_falls_with_progress():
    """Near 0 a sample is one codeword; at a high temperature it is the mean of all."""
    torch.manual_seed(0)
    head = GumbelQuantizer(8, 4, straight_through=False, temperature=1e3, final=1e-4, updates=10).train()
    z = torch.randn(1, 4, 5, 5)
    hot, cold = head(z, Context(progress=0)), head(z, Context(progress=10))
    torch.testing.assert_close(hot.latent, head.codewords.mean(0).view(1, 4, 1, 1).expand_as(z), rtol=0, atol=0.02)
    torch.testing.assert_close(cold.latent, head.lookup(cold.codes), rtol=0, atol=0.05)


@pytest.mark.parametrize("arguments, message", [
    ({"temperature": 0}, "temperature must be above 0, not 0"),
    ({"final": -1}, "final must be above 0, not -1"),
    ({"warmup": 5, "updates": 5}, "warmup=5 must be at least 0 and less than updates=5"),
])  # fmt: skip
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        GumbelQuantizer(8, 4, **arguments)
