"""The discriminator and its losses against hand-worked numbers and the authors' own values."""

import re

import pytest
import torch
import torch.nn.functional as F

from vistok.losses import Adversary, PatchGAN
from vistok.losses.adversarial import adaptive_weight, hinge, linear, non_saturating, vanilla


def test_losses_by_hand():
    real, fake = torch.tensor([0.5, 2.0]), torch.tensor([-3.0, 0.0])
    assert hinge(real, fake).item() == pytest.approx(0.5 * ((0.5 + 0) / 2 + (0 + 1) / 2))
    assert linear(fake).item() == pytest.approx(1.5)
    log2 = torch.tensor(2.0).log().item()
    assert vanilla(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(log2)
    assert non_saturating(torch.zeros(3)).item() == pytest.approx(log2)
    assert non_saturating(torch.tensor([10.0])) < 1e-4 < non_saturating(torch.tensor([-10.0]))


def test_published_parameter_count():
    assert sum(p.numel() for p in PatchGAN().parameters()) == 2_765_633


def from_authors(values):
    discriminator = PatchGAN(channels=8)
    state = {re.sub(r"^state\.main\.", "layers.", key): t for key, t in values.items() if key.startswith("state.")}
    state = {key: t.reshape(()) if key.endswith("num_batches_tracked") else t for key, t in state.items()}
    discriminator.load_state_dict(state)
    return discriminator


def test_patchgan(golden, close):
    values = golden("adversarial", "patchgan")
    discriminator = from_authors(values).eval()
    close(discriminator(values["real"]), values["eval.logits_real"])
    close(discriminator(values["fake"]), values["eval.logits_fake"])
    discriminator.train()
    real, fake = discriminator(values["real"]), discriminator(values["fake"])
    close(real, values["train.logits_real"])
    close(fake, values["train.logits_fake"])
    close(hinge(real, fake), values["loss.hinge_d"])
    close(vanilla(real, fake), values["loss.vanilla_d"])
    close(linear(fake), values["loss.hinge_g"])
    for key, expected in values.items():
        if key.startswith("train.after.main."):
            close(discriminator.state_dict()[key.replace("train.after.main.", "layers.")], expected)


def test_adaptive_weight(golden, close):
    discriminator = from_authors(golden("adversarial", "patchgan")).train()
    target = golden("adversarial", "patchgan")["real"]
    values = golden("adversarial", "adaptive")
    last_layer = values["last_layer"].requires_grad_()
    reconstruction = F.conv2d(values["hidden"], last_layer, padding=1)
    adversarial = linear(discriminator(reconstruction))
    for name, loss in (("mse", F.mse_loss(reconstruction, target)), ("l1", F.l1_loss(reconstruction, target))):
        close(adaptive_weight(loss, adversarial, last_layer), values[f"weight_{name}"], 1e-4)
        assert adaptive_weight(loss, adversarial, last_layer, maximum=0.01).item() == pytest.approx(0.01)


def test_generator_and_discriminator_pull_apart():
    torch.manual_seed(0)
    adversary = Adversary(PatchGAN(channels=4, num_layers=1))
    reconstruction, images = torch.randn(2, 3, 16, 16, requires_grad=True), torch.randn(2, 3, 16, 16)
    loss = adversary.discriminator_loss(reconstruction, images)
    loss.backward()
    assert reconstruction.grad is None
    assert all(parameter.grad is not None for parameter in adversary.parameters())
    adversary.requires_grad_(False)
    adversary.generator_loss(reconstruction).backward()
    assert reconstruction.grad.abs().sum() > 0


def test_wrong_names():
    with pytest.raises(ValueError, match="loss must be one of hinge, vanilla, not 'wgan'"):
        Adversary(PatchGAN(), loss="wgan")
    with pytest.raises(ValueError, match="generator_loss must be one of linear, non_saturating"):
        Adversary(PatchGAN(), generator_loss="hinge")
