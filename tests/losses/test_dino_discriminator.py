"""The discriminator on a frozen ViT: what it looks at, what learns, and that images are judged alone."""

import pytest
import timm
import torch

from vistok.losses import Adversary, DINODiscriminator

TINY = {"model": "vit_tiny_patch16_224", "weights": "random", "blocks": (0, 2), "size": 64}


@pytest.fixture(scope="module")
def discriminator():
    torch.manual_seed(0)
    return DINODiscriminator(**TINY)


def test_it_looks_at_the_blocks_outputs(discriminator):
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    network, seen = discriminator.features.network, []
    hooks = [network.blocks[i].register_forward_hook(lambda *arguments: seen.append(arguments[2])) for i in (0, 2)]
    maps = discriminator.features(images)
    for hook in hooks:
        hook.remove()
    assert len(seen) == 2
    for ours, tokens in zip(maps, seen, strict=True):
        torch.testing.assert_close(ours, tokens[:, 1:].mT)  # without the class token
    assert discriminator(images).shape == (2, 2 * 4 * 4)


def test_images_are_prepared_as_the_network_wants_them(discriminator):
    config = discriminator.features.network.pretrained_cfg
    torch.testing.assert_close(discriminator.features.mean.flatten(), torch.tensor(config["mean"]))
    torch.testing.assert_close(discriminator.features.std.flatten(), torch.tensor(config["std"]))


def test_only_the_heads_learn(discriminator):
    adversary = Adversary(discriminator)
    assert adversary.frozen[0] == "discriminator.features"
    adversary.train()
    assert not discriminator.features.network.training
    images, reconstruction = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    adversary.discriminator_step(reconstruction, images, 0).terms["discriminator"].backward()
    assert all(p.grad is not None for p in discriminator.heads.parameters())
    assert all(p.grad is None for p in discriminator.features.parameters())
    adversary.learns(False)
    reconstruction.requires_grad_()
    adversary.generator_loss(reconstruction).backward()
    assert reconstruction.grad.abs().sum() > 0


def test_an_image_is_judged_alone(discriminator):
    discriminator.eval()
    images = torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(discriminator(images)[:1], discriminator(images[:1]), rtol=1e-4, atol=1e-5)


def test_both_sides_are_one_batch(discriminator):
    """In evaluation, where spectral norms take no step, two passes give the same."""
    discriminator.eval()
    images, reconstruction = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    adversary, seen = Adversary(discriminator), []
    hook = discriminator.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    ours = adversary.discriminate_both(images, reconstruction)
    hook.remove()
    assert len(seen) == 1
    torch.testing.assert_close(ours, (discriminator(images), discriminator(reconstruction)), rtol=1e-4, atol=1e-5)


def test_weights_from_a_file(tmp_path):
    torch.manual_seed(1)
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    loaded = DINODiscriminator("vit_tiny_patch16_224", tmp_path / "vit.pth", blocks=(1,), size=224)
    assert torch.equal(loaded.features.network.blocks[1].mlp.fc1.weight, network.blocks[1].mlp.fc1.weight)


@pytest.mark.parametrize("change, message", [
    ({"blocks": (12,)}, r"blocks must be in 0, ..., 11 for vit_tiny_patch16_224, not \[12\]"),
    ({"blocks": ()}, "blocks must be in"),
    ({"model": "resnet10t"}, "model=resnet10t is not a vision transformer"),
    ({"model": "no_such_vit"}, "timm has no model 'no_such_vit'"),
])  # fmt: skip
def test_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        DINODiscriminator(**(TINY | change))
