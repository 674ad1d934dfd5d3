"""LPIPS: the authors' package, frozen and always in evaluation mode."""

import pytest
import torch
from torch import nn

from vistok.losses import LPIPS
from vistok.pretrained import WeightsUnavailable


@pytest.fixture(scope="module")
def squeeze():
    torch.manual_seed(0)
    return LPIPS("squeeze", weights="random")


def test_a_parent_cannot_switch_dropout_on(squeeze):
    nn.ModuleDict({"lpips": squeeze}).train()
    assert not any(module.training for module in squeeze.modules())
    assert any(isinstance(module, nn.Dropout) for module in squeeze.modules())
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    assert squeeze(images, -images) == squeeze(images, -images)


def test_it_is_the_packages_number(squeeze):
    a, b = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    expected = squeeze.distance(a, b)
    assert expected.shape == (2, 1, 1, 1)
    torch.testing.assert_close(squeeze(a, b), expected.mean())
    assert squeeze(a, a) == 0


def test_gradients_reach_the_reconstruction_only(squeeze):
    reconstruction = torch.rand(1, 3, 64, 64, requires_grad=True)
    squeeze(reconstruction, torch.rand(1, 3, 64, 64)).backward()
    assert reconstruction.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in squeeze.parameters())


def test_of_the_images_only_the_compared_maps_are_kept(squeeze):
    """Beside what the reconstruction's own pass through the trunk keeps: the maps of the images, and the weights."""
    reconstruction, images = torch.rand(2, 1, 3, 64, 64).unbind()
    reconstruction.requires_grad_()

    def kept(function):
        """Bytes kept for the backward pass, by place in memory."""
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t, lambda t: t
        ):
            result = function()
        return sum(sizes.values()), result

    of_trunk, maps = kept(lambda: squeeze.features(reconstruction))
    of_loss, _ = kept(lambda: squeeze(reconstruction, images))
    compared = sum(4 * (features.numel() + features.shape[1]) for features in maps)
    assert of_loss == of_trunk + compared + 4 * maps[-1].numel()  # which no layer of the trunk reads


def test_trunk_from_a_file(squeeze, tmp_path):
    from torchvision.models import squeezenet1_1

    trunk = squeezenet1_1(weights=None)
    torch.save(trunk.state_dict(), tmp_path / "squeezenet.pth")
    loaded = LPIPS("squeeze", weights=str(tmp_path / "squeezenet.pth"))
    own = dict(loaded.distance.net.named_parameters())
    assert torch.equal(own["slice1.0.weight"], trunk.features[0].weight)
    assert torch.equal(own["slice7.12.expand3x3.bias"], trunk.features[12].expand3x3.bias)
    with pytest.raises(ValueError, match="does not fit the alex trunk"):
        LPIPS("alex", weights=str(tmp_path / "squeezenet.pth"))


def test_weights_that_cannot_be_downloaded(monkeypatch, tmp_path):
    def offline(*arguments, **keywords):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(WeightsUnavailable, match=r"AlexNet trunk could not be downloaded \(no network\)"):
        LPIPS("alex")


def test_unknown_net():
    with pytest.raises(ValueError, match="net must be vgg, alex or squeeze, not 'resnet'"):
        LPIPS("resnet", weights="random")
