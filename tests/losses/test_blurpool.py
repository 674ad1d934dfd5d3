"""The blur-pool discriminator and the LeCam of TiTok against the authors' values."""

import re

import pytest
import torch

from vistok.losses import Adversary, BlurPoolDiscriminator, LeCam

NAMES = {"block_in": "first", "blocks": "stages"}


def our_name(name):
    first, rest = name.split(".", 1)
    return f"{NAMES.get(first, first)}.{rest}"


def from_authors(values, **arguments):
    """Their discriminator, whose blur kernels, which they store, must be ours."""
    discriminator = BlurPoolDiscriminator(channels=32, **arguments)
    state = {key.removeprefix("state."): t for key, t in values.items() if key.startswith("state.")}
    kernels = [state.pop(key) for key in sorted(state) if key.endswith("kernel")]
    discriminator.load_state_dict({our_name(key): t for key, t in state.items()})
    for stage, kernel in zip(discriminator.stages, kernels, strict=False):
        torch.testing.assert_close(stage[1].blur.kernel, kernel[0, 0])
    return discriminator


def check_gradients(discriminator, values, close):
    parameters, checked = dict(discriminator.named_parameters()), 0
    for key, expected in values.items():
        if re.match(r"grad\.(block|to_)", key):
            close(parameters[our_name(key.removeprefix("grad."))].grad, expected)
            checked += 1
    assert checked > 5


@pytest.mark.parametrize("group, taps", [("titok_disc_k3", (1, 2, 1)), ("titok_disc_avgpool", None)])
def test_three_taps_and_averages(golden, close, group, taps):
    values = golden("blurpool_variants", group)
    discriminator = from_authors(values, num_stages=2, taps=taps)
    images = values["real"].requires_grad_()
    logits = discriminator(images)
    close(logits, values["logits.real"])
    (values["up.logits"] * logits).sum().backward()
    close(images.grad, values["grad.real"])
    check_gradients(discriminator, values, close)


def test_both_steps_of_titok(golden, close):
    """Generator and discriminator step with LeCam against the averages before the update."""
    values = golden("blurpool", "titok_disc")
    adversary = Adversary(from_authors(values), regularizers={"lecam": LeCam(0.999, batch_means=True)})
    lecam = adversary.regularizers["lecam"]
    lecam.real.copy_(values["before.ema_real_logits_mean"].squeeze())
    lecam.fake.copy_(values["before.ema_fake_logits_mean"].squeeze())
    fake, real = values["fake"].requires_grad_(), values["real"]

    generated = adversary.generator_step(fake, lambda output: output)
    close(generated.term, values["gen.loss.gan"])
    close(generated.gradient, values["gen.gradgan.fake"])

    result = adversary.discriminator_step(fake, real, 0, generated.logits)
    close(result.real, values["logits.real"])
    close(result.fake, values["logits.fake"])
    close(0.001 * result.terms["lecam"], values["loss.lecam"])
    close(result.terms["discriminator"], values["loss.hinge_d"])
    loss = result.terms["discriminator"] + 0.001 * result.terms["lecam"]
    close(loss, values["loss.total"])
    loss.backward()
    check_gradients(adversary.discriminator, values, close)

    adversary.update(result.stats())
    close(lecam.real, values["after.ema_real_logits_mean"])
    close(lecam.fake, values["after.ema_fake_logits_mean"])


def test_lecam_of_batch_means_is_that_of_one_process(monkeypatch):
    """Gradients of two ranks average to those of one process with both halves of the batch."""
    torch.manual_seed(0)
    real, fake = torch.randn(2, 4, 1, 2, 2) + 1

    def gradients(real, fake):
        lecam, logits = LeCam(batch_means=True), (real.clone().requires_grad_(), fake.clone().requires_grad_())
        lecam.real.fill_(0.5)
        return torch.autograd.grad(lecam(None, None, *logits), logits)

    whole = gradients(real, fake)
    means = torch.stack([real.mean(), fake.mean()])
    monkeypatch.setattr("vistok.losses.lecam.mean_over_ranks", lambda own: means)
    for rank in range(2):
        half = gradients(real.chunk(2)[rank], fake.chunk(2)[rank])
        for ours, expected in zip(half, whole, strict=True):
            torch.testing.assert_close(ours / 2, expected.chunk(2)[rank])


def test_published_parameter_count_and_grids():
    discriminator = BlurPoolDiscriminator()
    assert sum(p.numel() for p in discriminator.parameters()) == 1_909_889
    images = torch.zeros(1, 3, 72, 40)
    assert discriminator(images).shape == (1, 1, 16, 16)
    assert BlurPoolDiscriminator(channels=8, grid=None)(images).shape == (1, 1, 9, 5)
