"""R1, LeCam and DiffAug: by hand, against the authors' values, and without side effects."""

import pytest
import torch
from torch import nn

from vistok.losses import R1, Adversary, BlurPoolDiscriminator, DiffAug, DINODiscriminator, LeCam, PatchGAN, StyleGAN
from vistok.losses.diffaug import change_colour, mask_square, translate

DISCRIMINATORS = {
    "patchgan": lambda: PatchGAN(channels=4, num_layers=2),
    "patchgan, group": lambda: PatchGAN(channels=4, num_layers=2, norm="group"),
    "patchgan, none": lambda: PatchGAN(channels=4, num_layers=2, norm="none"),
    "blurpool": lambda: BlurPoolDiscriminator(channels=8, num_stages=2),
    "stylegan2": lambda: StyleGAN(16, [4, 4, 4]),
    "llamagen": lambda: StyleGAN(16, [4, 4, 4], "llamagen"),
    "dino": lambda: DINODiscriminator("vit_tiny_patch16_224", "random", blocks=(1,), size=32),
}


def test_r1_by_hand():
    """D(x) = a · mean x² over an image has the gradient 2 a x / n."""
    images = torch.tensor([[[[1.0, -3.0]]], [[[2.0, 0.0]]]])
    a = torch.tensor(0.5, requires_grad=True)

    def discriminate(x):
        return a * x.square()  # a logit for each pixel; their mean is D

    penalty = R1(every=16)(discriminate, images, None, None)
    expected = 16 / 2 * (10 + 4) / 2 * 0.5**2  # |x|² of the two images is 10 and 4, n = 2
    assert penalty.item() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(penalty, a)
    assert gradient.item() == pytest.approx(2 * expected / 0.5)


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_r1_trains_every_discriminator(name):
    torch.manual_seed(0)
    adversary = Adversary(DISCRIMINATORS[name](), augmentation=DiffAug(), regularizers={"r1": R1()})
    images, reconstruction = torch.rand(2, 4, 3, 16, 16) * 2 - 1
    penalty = adversary.discriminator_step(reconstruction, images, 0).terms["r1"]
    gradients = torch.autograd.grad(penalty, adversary.trained, allow_unused=True)
    moved = sum(gradient is not None and bool(gradient.any()) for gradient in gradients)
    assert penalty > 0 and moved >= len(gradients) // 2  # biases behind the last nonlinearity get none


def test_r1_is_taken_every_so_many_updates():
    adversary = Adversary(PatchGAN(channels=4, num_layers=1), regularizers={"r1": R1(every=3)})
    images, reconstruction = torch.rand(2, 2, 3, 16, 16)
    taken = [i for i in range(7) if "r1" in adversary.discriminator_step(reconstruction, images, i).terms]
    assert taken == [0, 3, 6] and adversary.loss_names == ("adversarial", "discriminator", "r1")
    with pytest.raises(ValueError, match="every must be at least 1 update, not 0"):
        R1(every=0)


def test_lecam(golden, close):
    values = golden("discriminators", "lecam")
    lecam = LeCam()
    for step in (1, 2, 3):
        real, fake = (values[f"logits_{side}{step}"].requires_grad_() for side in ("real", "fake"))
        before = lecam.real.clone()
        loss = lecam(None, None, real, fake)
        close(loss, values[f"loss.reg{step}"])
        for side, gradient in zip(("real", "fake"), torch.autograd.grad(loss, [real, fake]), strict=True):
            close(gradient, values[f"grad.logits_{side}{step}"])
        assert torch.equal(lecam.real, before)  # a forward is pure
        lecam.update(real.detach().mean(), fake.detach().mean())
        close(lecam.real, values[f"ema_real{step}"], 1e-4)
        close(lecam.fake, values[f"ema_fake{step}"], 1e-4)
    assert {"real", "fake"} == set(lecam.state_dict())


def test_the_adversary_hands_on_the_mean_of_batches():
    adversary = Adversary(nn.Identity(), regularizers={"lecam": LeCam(decay=0.5)})
    first = adversary.discriminator_step(torch.full((2, 1, 1, 1), -1.0), torch.full((2, 1, 1, 1), 2.0), 0).stats()
    second = adversary.discriminator_step(torch.full((2, 1, 1, 1), -3.0), torch.full((2, 1, 1, 1), 4.0), 0).stats()
    adversary.update({name: first[name] + second[name] for name in first})
    lecam = adversary.regularizers["lecam"]
    assert (lecam.real.item(), lecam.fake.item()) == (1.5, -1.0)


def test_translation_by_hand():
    torch.manual_seed(0)
    images = torch.rand(64, 2, 4, 6) + 0.5
    moved = translate(images, 0.5)
    seen = set()
    for before, after in zip(images, moved, strict=True):
        matches = []
        for down in range(-2, 3):
            for right in range(-3, 4):
                expected = torch.zeros_like(before)
                rows, columns = slice(max(down, 0), 4 + min(down, 0)), slice(max(right, 0), 6 + min(right, 0))
                sources = slice(max(-down, 0), 4 + min(-down, 0)), slice(max(-right, 0), 6 + min(-right, 0))
                expected[:, rows, columns] = before[:, sources[0], sources[1]]
                if torch.equal(expected, after):
                    matches.append((down, right))
        assert len(matches) == 1
        seen |= set(matches)
    assert len(seen) > 15 and {down for down, _ in seen} == {-2, -1, 0, 1, 2}


def test_cutout_by_hand():
    torch.manual_seed(0)
    cut = mask_square(torch.ones(256, 3, 8, 8), 0.5) == 0
    assert torch.equal(cut[:, 0], cut[:, 2])
    heights, widths = cut[:, 0].any(2).sum(1), cut[:, 0].any(1).sum(1)
    assert torch.equal(cut[:, 0].sum((1, 2)), heights * widths)  # rectangles
    assert heights.max() == widths.max() == 4 and heights.min() == 2


def test_colours_keep_what_they_should():
    torch.manual_seed(0)
    grey = torch.full((16, 3, 4, 4), 0.25)
    changed = change_colour(grey)
    assert torch.allclose(changed, changed[:, :1, :1, :1].expand_as(changed))  # only brightness shows on a flat grey
    shift = changed[:, 0, 0, 0] - 0.25
    assert shift.abs().max() <= 0.5 and shift.std() > 0.1


def test_augmentation_of_both_and_only_in_training():
    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.seen = nn.Parameter(torch.ones(())), []

        def forward(self, images):
            self.seen.append(images.detach())
            return self.weight * images.mean((1, 2, 3))

    torch.manual_seed(0)
    adversary = Adversary(Recorder(), augmentation=DiffAug())
    images = torch.rand(2, 3, 16, 16)
    reconstruction = images.clone().requires_grad_()
    adversary.discriminator_step(reconstruction, images, 0)
    adversary.generator_loss(reconstruction).backward()
    real, fake, again = adversary.discriminator.seen
    assert not any(torch.equal(seen, images) for seen in (real, fake, again))
    assert reconstruction.grad.abs().sum() > 0
    adversary.eval().discriminate(images)
    assert torch.equal(adversary.discriminator.seen[-1], images)


@pytest.mark.parametrize("arguments, message", [
    ({"translation": 2}, "translation is a share"), ({"cutout": -0.1}, "cutout is a share"),
])  # fmt: skip
def test_wrong_shares(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiffAug(**arguments)


def test_wrong_decay():
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), not 1"):
        LeCam(decay=1)
