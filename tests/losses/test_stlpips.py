"""ST-LPIPS: the package's number with its weights, and what can be worked out without them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from vistok.losses import STLPIPS
from vistok.losses.stlpips import ReflectedBlur
from vistok.pretrained import WeightsUnavailable

SHARED = Path(__file__).parents[2].parent / "shared" / "weights" / "stlpips-alex.pt"
PACKAGE = 0.19845852  # of stlpips_pytorch 0.0.2, with its float32 weights, for pair()


def authors_names(network):
    """A state dict under the names of the authors' file, from a network of ours."""
    ours = network.state_dict()
    layers = {"slice1.0": "0.0", "slice2.5": "1.2", "slice3.9": "2.2", "slice4.11": "3.0", "slice5.13": "4.0"}
    state = {f"net.{a}.{k}": ours[f"trunk.{b}.{k}"] for a, b in layers.items() for k in ("weight", "bias")}
    state |= {f"lin{i}.model.1.weight": ours[f"heads.{i}.weight"] for i in range(5)}
    return state | {f"scaling_layer.{k}": ours[k][None] for k in ("shift", "scale")}


def pair():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    return torch.stack([x, y, x * y])[None], torch.stack([x.roll(4, 1), y, (x * y).abs()])[None]


def test_the_packages_number():
    if not SHARED.is_file():
        pytest.skip(f"the weights are not in the repository, and {SHARED} is not there")
    # The file here is in float16.
    assert STLPIPS(SHARED).distance(*pair()).item() == pytest.approx(PACKAGE, rel=1e-3)


def test_its_own_file_under_the_authors_names(tmp_path):
    network = STLPIPS("random")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 0.05)
    torch.save(authors_names(network), tmp_path / "alex.pth")
    loaded = STLPIPS(tmp_path / "alex.pth")
    torch.testing.assert_close(loaded.distance(*pair()), network.distance(*pair()), rtol=0, atol=0)
    state = authors_names(network)
    del state["lin4.model.1.weight"]
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(ValueError, match="does not hold ST-LPIPS's AlexNet: lin4.model.1.weight is missing"):
        STLPIPS(tmp_path / "broken.pth")


def test_the_blur_by_hand():
    row = torch.tensor([0.0, 4.0, 8.0, 0.0])
    image = row.expand(1, 1, 4, 4)  # constant down the columns, so that only the row's filter shows
    # reflected by 2: 8 4 | 0 4 8 0 | 8 4; then (a + 2 b + c) / 4 at every second place
    expected = torch.tensor([(8 + 8 + 0) / 4, (0 + 8 + 8) / 4, (8 + 0 + 8) / 4])
    torch.testing.assert_close(ReflectedBlur()(image), expected.expand(1, 1, 3, 3))


def test_the_distance_of_a_pair_of_one_stage():
    """With all but the first stage's head at 0, and that stage's convolution a constant, it is worked out by hand."""
    network = STLPIPS("random")
    with torch.no_grad():
        for head in network.heads:
            head.weight.zero_()
        network.heads[0].weight[0, :2] = torch.tensor([2.0, 3.0]).view(2, 1, 1)
        convolution = network.trunk[0][0]
        convolution.weight.zero_()
        convolution.bias.zero_()
        convolution.weight[0, 0, 5, 5] = 1.0  # the red of the middle pixel, scaled
        convolution.bias[1] = 1.0
    a, b = torch.full((1, 3, 64, 64), 0.428), torch.full((1, 3, 64, 64), -0.030)  # (x + 0.030) / 0.458 is 1 and 0
    u, v = torch.tensor([1.0, 1.0]) / 2**0.5, torch.tensor([0.0, 1.0])
    expected = (torch.tensor([2.0, 3.0]) * (u - v) ** 2).sum()
    assert network.distance(a, b).item() == pytest.approx(expected.item(), rel=1e-5)


def test_frozen_and_symmetric():
    network = STLPIPS("random")
    nn.ModuleDict({"stlpips": network}).train()
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    a, b = torch.rand(2, 2, 3, 48, 48) * 2 - 1
    assert network(a, a) == 0 and network(a, b) == network(b, a) > 0
    a.requires_grad_()
    network(a, b).backward()
    assert a.grad.abs().sum() > 0


def test_without_the_package(monkeypatch):
    monkeypatch.setattr("vistok.losses.stlpips.find_spec", lambda name: None)
    with pytest.raises(WeightsUnavailable, match="pip install --no-deps stlpips_pytorch"):
        STLPIPS()
