"""The discriminator and its losses against hand-worked numbers and the authors' own values."""

import re

import pytest
import torch
import torch.nn.functional as F

from vistok.losses import Adversary, DiffAug, PatchGAN, StyleGAN
from vistok.losses.adversarial import (
    DiscriminatorResult,
    adaptive_weight,
    fooling_squares,
    hinge,
    least_squares,
    linear,
    non_saturating,
    non_saturating_mean,
    vanilla,
)


def test_losses_by_hand():
    real, fake = torch.tensor([0.5, 2.0]), torch.tensor([-3.0, 0.0])
    assert hinge(real, fake).item() == pytest.approx(0.5 * ((0.5 + 0) / 2 + (0 + 1) / 2))
    assert linear(fake).item() == pytest.approx(1.5)
    log2 = torch.tensor(2.0).log().item()
    assert vanilla(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(log2)
    assert non_saturating(torch.zeros(3)).item() == pytest.approx(log2)
    assert non_saturating(torch.tensor([10.0])) < 1e-4 < non_saturating(torch.tensor([-10.0]))
    assert least_squares(real, fake).item() == pytest.approx(0.5 * ((0.25 + 1) / 2 + (4 + 1) / 2))
    assert fooling_squares(fake).item() == pytest.approx(0.5 * (16 + 1) / 2)


def test_published_parameter_count():
    assert sum(p.numel() for p in PatchGAN().parameters()) == 2_765_633


def test_group_norms_have_the_parameters_of_batch_norms_and_no_norm_has_biases():
    sizes = {norm: sum(p.numel() for p in PatchGAN(norm=norm).parameters()) for norm in ("group", "none")}
    assert sizes == {"group": 2_765_633, "none": 2_765_633 - (128 + 256 + 512)}  # a bias for a scale and a shift


@pytest.mark.parametrize("norm, alone", [("batch", False), ("group", True), ("none", True)])
def test_without_batch_statistics_an_image_is_judged_alone(norm, alone):
    torch.manual_seed(0)
    discriminator = PatchGAN(channels=8, num_layers=2, norm=norm).train()
    images = torch.rand(4, 3, 32, 32)
    assert torch.allclose(discriminator(images)[:1], discriminator(images[:1]), atol=1e-6) == alone
    assert bool(list(discriminator.buffers())) != alone


@pytest.mark.parametrize("make, passes", [
    (lambda: PatchGAN(channels=8, num_layers=2, norm="group"), 1),
    (lambda: PatchGAN(channels=8, num_layers=2, norm="none"), 1),
    (lambda: PatchGAN(channels=8, num_layers=2), 2),
    (lambda: StyleGAN(16, channels=(4, 8, 8), variant="llamagen"), 1),
    (lambda: StyleGAN(16, channels=(4, 8, 8)), 2),
])  # fmt: skip
def test_both_sides_are_one_batch_where_images_are_judged_alone(make, passes):
    """One pass or two: the same logits, gradients, statistics of batch norms and random numbers."""
    images, reconstruction = torch.rand(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def step(together):
        torch.manual_seed(1)
        adversary = Adversary(make(), augmentation=DiffAug()).train()
        seen = []
        adversary.discriminator.register_forward_hook(lambda *_: seen.append(1))
        if not together:
            adversary.discriminator.independent = False
        result = adversary.discriminator_step(reconstruction, images, 0)
        result.terms["discriminator"].backward()
        gradients = [p.grad for p in adversary.trained]
        return len(seen), [*result[1:], *gradients, *adversary.discriminator.buffers(), torch.rand(())]

    (ours, found), (theirs, expected) = step(True), step(False)
    assert (ours, theirs) == (passes, 2)
    for own, other in zip(found, expected, strict=True):
        assert (own - other).abs().max() <= (1e-5 * other.abs().max() if passes == 1 else 0)
    assert (found[0] - found[1]).abs().max() > 1e-4  # real images and reconstructions are told apart


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


def test_non_saturating_is_not_the_swapped_one(golden):
    """LlamaGen hands its cross-entropy the logits as targets; ours is that of the paper."""
    values = golden("adversarial", "patchgan")
    fake = values["train.logits_fake"]
    theirs = F.binary_cross_entropy_with_logits(torch.ones_like(fake), fake)
    assert theirs.item() == pytest.approx(values["loss.non_saturating_g"].item(), rel=1e-4)
    ours = F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))
    torch.testing.assert_close(non_saturating(fake), ours)
    assert abs(ours - theirs) > 0.01


def test_open_magvit2s_losses(golden, close):
    values = golden("discriminators", "lecam")
    real, fake = values["logits_real1"], values["logits_fake1"]
    close(hinge(real, fake), values["loss.hinge_d"])
    close(vanilla(real, fake), values["loss.vanilla_d"])
    close(non_saturating_mean(fake), values["loss.non_saturate_g"])
    real, fake = real.mean((1, 2, 3)), fake.mean((1, 2, 3))  # theirs averages an image's patches first, and has no ½
    close(2 * vanilla(real, fake), values["loss.non_saturate_d"])
    close(non_saturating(fake), values["loss.non_saturate_g"])


def test_the_warmup_is_linear_from_the_start():
    adversary = Adversary(PatchGAN(channels=4, num_layers=1), start=10, warmup=4)
    assert [adversary.strength(update) for update in (10, 11, 13, 14, 99)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert Adversary(PatchGAN(channels=4, num_layers=1), start=10).strength(10) == 1.0


def test_accuracy_counts_logits_on_the_right_side():
    verdict = DiscriminatorResult({}, torch.tensor([1.0, 2.0, -1.0, 3.0]), torch.tensor([-1.0, 1.0]))
    assert {name: value.item() for name, value in verdict.accuracy().items()} == {
        "accuracy_real": 0.75,
        "accuracy_fake": 0.5,
    }


def test_the_adaptive_weight_is_float32_under_autocast():
    torch.manual_seed(0)
    last_layer = torch.nn.Conv2d(4, 3, 3, padding=1)
    hidden, target = torch.randn(2, 4, 16, 16), torch.rand(2, 3, 16, 16)
    weights = {}
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            reconstruction = last_layer(hidden)
            reconstruction_loss = F.mse_loss(reconstruction, target)
            adversarial = 1e-3 * linear(reconstruction.float().square().mean((1, 2, 3)))
            weights[enabled] = adaptive_weight(reconstruction_loss, adversarial, last_layer.weight)
    assert all(weight.dtype == torch.float32 and not weight.requires_grad for weight in weights.values())
    assert weights[True].item() == pytest.approx(weights[False].item(), rel=0.02)


def test_frozen_parts_stay_frozen_and_out_of_checkpoints():
    frozen = torch.nn.Conv2d(3, 4, 1).requires_grad_(False)
    adversary = Adversary(torch.nn.Sequential(frozen, torch.nn.Conv2d(4, 1, 1)))
    for on in (False, True):
        adversary.learns(on)
        assert [p.requires_grad for p in adversary.parameters()] == [False, False, on, on]
        assert adversary.frozen == ["discriminator.0"]


def test_generator_and_discriminator_pull_apart():
    torch.manual_seed(0)
    adversary = Adversary(PatchGAN(channels=4, num_layers=1))
    reconstruction, images = torch.randn(2, 3, 16, 16, requires_grad=True), torch.randn(2, 3, 16, 16)
    adversary.discriminator_step(reconstruction, images, 0).terms["discriminator"].backward()
    assert reconstruction.grad is None
    assert all(parameter.grad is not None for parameter in adversary.parameters())
    adversary.learns(False)
    adversary.generator_loss(reconstruction).backward()
    assert reconstruction.grad.abs().sum() > 0


def test_wrong_names():
    with pytest.raises(ValueError, match="loss must be one of hinge, vanilla, least_squares, not 'wgan'"):
        Adversary(PatchGAN(), loss="wgan")
    with pytest.raises(ValueError, match="generator_loss must be one of linear, non_saturating"):
        Adversary(PatchGAN(), generator_loss="hinge")
    with pytest.raises(ValueError, match="warmup must be 0 or more updates, not -1"):
        Adversary(PatchGAN(), warmup=-1)
    with pytest.raises(ValueError, match="norm must be one of batch, group, none, not 'layer'"):
        PatchGAN(norm="layer")
