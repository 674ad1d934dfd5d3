"""Feature losses against the networks' own numbers."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models
from torchvision.transforms.functional import normalize

from vistok.images.rgb_view import RGBView
from vistok.losses import FeatureLoss
from vistok.losses.feature_loss import distance

RESNET = {"model": "resnet10t", "weights": "random", "size": None}


def test_distance_by_hand():
    u = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    v = torch.tensor([0.0, -2.0]).view(1, 2, 1, 1)
    assert distance(u, v).item() == pytest.approx(0.6**2 + 1.8**2)
    assert distance(u, 5 * u).item() == pytest.approx(0, abs=1e-6)


def test_logits_are_the_classifiers():
    loss = FeatureLoss(**RESNET)
    a, b = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    mean, std = torch.tensor(timm.data.IMAGENET_DEFAULT_MEAN), torch.tensor(timm.data.IMAGENET_DEFAULT_STD)
    logits = [loss.network((((x + 1) / 2).movedim(1, 3) - mean).div(std).movedim(3, 1)) for x in (a, b)]
    assert logits[0].shape == (2, 1000)
    torch.testing.assert_close(loss(a, b), F.mse_loss(*logits))


@pytest.mark.parametrize("model, shapes", [
    ("resnet10t", [(64, 16), (128, 8)]),
    ("convnext_atto", [(80, 8), (160, 4)]),
])  # fmt: skip
def test_stages(model, shapes):
    loss = FeatureLoss(model, "random", stages=[1, 2], size=None)
    a, b = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    maps, others = loss.features(a), loss.features(b)
    assert [(m.shape[1], m.shape[2]) for m in maps] == shapes
    expected = sum(distance(u, v).mean() for u, v in zip(maps, others, strict=True)) / 2
    torch.testing.assert_close(loss(a, b), expected)
    assert 0 < loss(a, b) < 4


def test_frozen_and_gradients_reach_the_reconstruction_only():
    loss = FeatureLoss(**RESNET, stages=[0]).train()
    assert not loss.training and not any(p.requires_grad for p in loss.parameters())
    a, b = (torch.rand(1, 3, 32, 32, requires_grad=True) for _ in range(2))
    loss(a, b).backward()
    assert a.grad.abs().sum() > 0 and b.grad is None


def test_weights_from_a_file(tmp_path):
    network = timm.create_model("resnet10t", pretrained=False)
    torch.save(network.state_dict(), tmp_path / "resnet.pth")
    logits = FeatureLoss("resnet10t", tmp_path / "resnet.pth", size=None)
    stages = FeatureLoss("resnet10t", tmp_path / "resnet.pth", stages=[1], size=None)
    assert torch.equal(logits.network.fc.weight, network.fc.weight)
    assert torch.equal(stages.network.conv1[0].weight, network.conv1[0].weight)
    with pytest.raises(ValueError, match="does not fit"):
        FeatureLoss("convnext_atto", tmp_path / "resnet.pth")


@pytest.mark.parametrize("stages", [[], [7], [-1]])
def test_no_such_stage(stages):
    with pytest.raises(ValueError, match=r"stages must be in 0, ..., 4 for resnet10t"):
        FeatureLoss("resnet10t", "random", stages=stages)


def test_layers_of_a_torchvision_network(tmp_path):
    """Its own layers on images as torchvision prepares them, from a file; nothing is overwritten."""
    torch.manual_seed(0)
    network = models.squeezenet1_1().eval()
    torch.save(network.state_dict(), tmp_path / "squeezenet.pth")
    loss = FeatureLoss("squeezenet1_1", tmp_path / "squeezenet.pth", stages=[0, 4], size=None, library="torchvision")
    a, b = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    prepared = normalize((a + 1) / 2, timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
    first = F.conv2d(prepared, network.features[0].weight, network.features[0].bias, stride=2)
    assert first.min() < 0  # the ReLU behind works in place in torchvision's networks
    maps = loss.features(a)
    torch.testing.assert_close(maps[0], first)
    torch.testing.assert_close(maps[1], network.features[:5](prepared))
    expected = sum(distance(u, v).mean() for u, v in zip(maps, loss.features(b), strict=True)) / 2
    torch.testing.assert_close(loss(a, b), expected)


def test_a_classifier_of_grey_images_with_its_own_range(tmp_path):
    """As torchxrayvision's: one channel, black at -1024 and white at 1024; it sees the mean of red, green and blue."""
    torch.manual_seed(0)
    network = models.squeezenet1_1().eval()
    network.features[0] = nn.Conv2d(1, 64, 3, stride=2)
    torch.save(network.state_dict(), tmp_path / "grey.pth")
    grey = {"channels": 1, "pixel_range": [-1024, 1024], "size": None}
    loss = FeatureLoss("squeezenet1_1", tmp_path / "grey.pth", [0, 4], library="torchvision", **grey)
    a, b = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    seen = [(x[:, :1] + x[:, 1:2] + x[:, 2:]) / 3 * 1024 for x in (a, b)]
    (first, last), (first_b, last_b) = ([network.features[:end](x) for end in (1, 5)] for x in seen)
    for ours, theirs in zip(loss.features(a), (first, last), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    expected = (distance(first, first_b).mean() + distance(last, last_b).mean()) / 2
    torch.testing.assert_close(loss(a, b), expected)
    loss.view = RGBView(1)
    one = loss(a[:, :1], b[:, :1])
    torch.testing.assert_close(one, loss(*(x[:, :1].expand(-1, 3, -1, -1) for x in (a, b))))


def test_a_pixel_range_by_hand():
    """Of timm's networks too: -1 is the low end, 1 the high end."""
    loss = FeatureLoss(**RESNET, channels=1, pixel_range=[0, 255])
    assert loss.network.conv1[0].in_channels == 1
    loss.network = nn.Flatten()
    pixels = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    torch.testing.assert_close(loss.features(pixels)[0], torch.tensor([[0.0, 127.5, 255.0]]))


@pytest.mark.parametrize("arguments, message", [
    ({"channels": 2}, "channels must be 1 or 3, not 2"),
    ({"channels": 1}, "channels=1 needs pixel_range"),
    ({"pixel_range": [1, 1]}, r"pixel_range is \[LOW, HIGH\], with LOW below HIGH, not \[1, 1\]"),
    ({"pixel_range": [1]}, r"pixel_range is \[LOW, HIGH\], with LOW below HIGH, not \[1\]"),
    ({"channels": 1, "pixel_range": [0, 1], "weights": "pretrained"},
     "torchvision has no weights of squeezenet1_1 for channels=1: give the path of a file"),
])  # fmt: skip
def test_inputs_that_no_classifier_has(arguments, message):
    settings = {"model": "squeezenet1_1", "weights": "random", "library": "torchvision", "stages": [0]}
    with pytest.raises(ValueError, match=message):
        FeatureLoss(**settings | arguments)


@pytest.mark.parametrize("arguments, message", [
    ({"stages": [13]}, r"stages must be in 0, ..., 12 for squeezenet1_1"),
    ({"stages": None}, "stages=null compares logits, which torchvision's networks are not read for"),
    ({"model": "vit_b_16", "stages": [0]}, "is not a convnet with `features`; timm may have it"),
    ({"library": "keras"}, "library must be one of timm, torchvision, not 'keras'"),
])  # fmt: skip
def test_what_torchvision_does_not_have(arguments, message):
    with pytest.raises(ValueError, match=message):
        FeatureLoss(**{"model": "squeezenet1_1", "weights": "random", "library": "torchvision"} | arguments)
