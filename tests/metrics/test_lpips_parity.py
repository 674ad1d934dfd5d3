"""LPIPS of local trunks against the package ``lpips`` itself, which reads them in its own way: values and gradients."""

import pytest
import torch
from torch import nn
from torchvision import models

from vistok.images.ranges import to_float
from vistok.losses import LPIPS


@pytest.fixture
def trunk(tmp_path):
    """``trunk(net)``: the path of torchvision's state dict of a network initialised after He."""

    def save(net: str):
        torch.manual_seed(0)
        network = models.vgg16(weights=None) if net == "vgg" else models.alexnet(weights=None)
        for module in network.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.normal_(module.bias, std=0.1)
        path = tmp_path / f"{net}.pt"
        torch.save(network.features.state_dict(prefix="features."), path)
        return path

    return save


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_a_trunk_from_a_file_is_the_packages(trunk, net, monkeypatch):
    import lpips

    path = trunk(net)
    state = torch.load(path, weights_only=True)
    build = getattr(models, {"vgg": "vgg16", "alex": "alexnet"}[net])

    def loaded(**ignored):  # what torchvision would give lpips, without a download
        network = build(weights=None)
        network.load_state_dict(state, strict=False)
        return network

    monkeypatch.setattr(models, {"vgg": "vgg16", "alex": "alexnet"}[net], loaded)
    theirs = lpips.LPIPS(net=net, pretrained=True, pnet_rand=False, verbose=False).eval()
    random = torch.Generator().manual_seed(1)
    images = torch.randint(256, (3, 3, 64, 64), generator=random, dtype=torch.uint8)
    copies = (images // 2 + torch.randint(128, images.shape, generator=random)).to(torch.uint8)
    ours = LPIPS(net, str(path))
    with torch.no_grad():
        expected = theirs(to_float(copies), to_float(images)).flatten()
        torch.testing.assert_close(
            ours.distance(to_float(copies), to_float(images)).flatten(), expected, rtol=1e-5, atol=0
        )
    assert expected.min() > 0.01 and expected.std() > 0

    def loss(compare, dtype):
        reconstruction = to_float(copies).requires_grad_()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            value = compare(reconstruction, to_float(images)).mean()
        return value.detach().float(), torch.autograd.grad(value, reconstruction)[0]

    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        (value, gradient), (wanted, of_package) = loss(ours, dtype), loss(theirs, dtype)
        torch.testing.assert_close(wanted, expected.mean(), rtol=bound, atol=0)
        torch.testing.assert_close(value, wanted, rtol=bound, atol=0)
        assert (gradient - of_package).norm() < bound * of_package.norm()
