"""The distance of normalised features on a CPU: worked by hand, beside torch's composition, and in graphs."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import EagerAndRecordGraphs

from vistok.kernels import feature_distance, normalised_distances
from vistok.kernels.feature_distance import normalised_distance


def composed(x: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """As the package ``lpips`` has it."""
    x, target = (t / (t.square().sum(1, keepdim=True).sqrt() + 1e-10) for t in (x, target))
    return F.conv2d((x - target).square(), weight.view(1, -1, 1, 1)).mean((1, 2, 3))


def random(b, c, h, w, dtype=torch.float32, last=False):
    """Features after a ReLU, two maps and weights; no position is 0 in all channels."""
    generator = torch.Generator().manual_seed(0)
    x, target = (torch.randn(b, c, h, w, generator=generator).relu_().to(dtype) for _ in range(2))
    x[:, 0] += 0.1
    memory = torch.channels_last if last else torch.contiguous_format
    weight = torch.rand(c, generator=generator)
    return x.contiguous(memory_format=memory).requires_grad_(), target.contiguous(memory_format=memory), weight


def test_by_hand():
    """Two positions: (3, 4) beside (0, 2), and (1, 0) beside itself."""
    x = torch.tensor([[3.0, 1.0], [4.0, 0.0]]).view(1, 2, 1, 2).requires_grad_()
    target = torch.tensor([[0.0, 1.0], [2.0, 0.0]]).view(1, 2, 1, 2)
    weight = torch.tensor([10.0, 5.0])
    distance = normalised_distance(x, target, weight)
    assert distance.item() == pytest.approx((10 * 0.6**2 + 5 * 0.2**2) / 2)
    distance.sum().backward()
    # of the unit vector (0.6, 0.8): (10 · 0.6, -5 · 0.2); across x, divided by its length 5
    across = (6 * 0.8 - -1 * 0.6) / 5
    expected = torch.tensor([[across * 0.8, 0.0], [-across * 0.6, 0.0]]).view(1, 2, 1, 2)
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("shape", [(3, 5, 7, 4), (5, 64, 8, 8), (1, 300, 30, 31)])
@pytest.mark.parametrize("last", [False, True])
def test_it_is_torchs_composition(shape, last, monkeypatch):
    monkeypatch.setattr(feature_distance, "PART", 5_000)  # several images, one, or some of its positions at once
    x, target, weight = random(*shape, last=last)
    ours, theirs = normalised_distance(x, target, weight), composed(x, target, weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    factors = torch.arange(1.0, 1 + len(x))
    (own,), (other,) = (torch.autograd.grad((d * factors).sum(), x) for d in (ours, theirs))
    assert own.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6 * other.abs().max().item())


def test_in_float64_it_is_exact():
    x, target, weight = (t.detach().double() for t in random(2, 4, 3, 3))
    assert torch.autograd.gradcheck(lambda x: normalised_distance(x, target, weight), x.requires_grad_())
    torch.testing.assert_close(normalised_distance(x, target, weight), composed(x, target, weight), rtol=1e-14, atol=0)


def test_equal_features_are_0_apart_and_positions_of_zeros_have_no_gradient():
    x, _, weight = random(2, 40, 9, 9)
    assert (normalised_distance(x, x.detach().clone(), weight) == 0).all()
    with torch.no_grad():
        x[:, :, 2, 3] = 0
    distance = normalised_distance(x, x.detach().flip(2), weight)
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    assert gradient.isfinite().all() and (gradient[:, :, 2, 3] == 0).all() and gradient.abs().sum() > 0


def test_bfloat16_features_are_compared_in_float32_and_alone_are_kept():
    x, target, weight = random(2, 64, 8, 8, dtype=torch.bfloat16)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        distance = normalised_distance(x, target, weight)
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in (x, target, weight)}
    wide = x.detach().float().requires_grad_()
    expected = composed(wide, target.float(), weight)
    torch.testing.assert_close(distance, expected, rtol=1e-6, atol=0)
    (own,) = torch.autograd.grad(distance.sum(), x)
    (other,) = torch.autograd.grad(expected.sum(), wide)
    assert own.dtype == torch.bfloat16
    torch.testing.assert_close(own.float(), other, rtol=2**-8, atol=1e-9)


def test_layers_add_up():
    pairs = [random(2, 4, 6, 6), random(2, 8, 3, 3)]
    maps, targets, weights = zip(*pairs, strict=True)
    total = normalised_distances(maps, targets, [weight.view(1, -1, 1, 1) for weight in weights])
    torch.testing.assert_close(total, sum(composed(*pair) for pair in pairs), rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="shorter"):
        normalised_distances(maps, targets[:1], weights)


def test_no_images():
    x, target, weight = random(2, 4, 3, 3)
    assert normalised_distance(x[:0], target[:0], weight).shape == (0,)


def test_torchs_own_checks_of_an_operation():
    for last in (False, True):
        torch.library.opcheck(normalised_distance, random(2, 6, 5, 3, last=last))


def test_compiled_graphs_have_one_operation():
    graphs = EagerAndRecordGraphs()
    x, target, weight = random(2, 8, 5, 3)
    distance = torch.compile(lambda x: normalised_distances([x], [target], [weight]), backend=graphs)(x)
    torch.testing.assert_close(distance, composed(x, target, weight))
    (graph,) = graphs.graphs
    targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert sum("vistok.normalised_distance" in target for target in targets) == 1


def test_bytes_of_both_passes():
    x, target, weight = random(2, 6, 5, 4, dtype=torch.bfloat16)
    from vistok.kernels.passes import FORMULAS

    features = 2 * math.prod(x.shape)
    forward, backward = (FORMULAS[getattr(torch.ops.vistok, f"normalised_distance{end}")] for end in ("", "_backward"))
    distance = torch.empty(2)
    assert forward(x, target, weight, out_val=distance) == 2 * features + 4 * 6 + 4 * 2
    assert backward(distance, x, target, weight, out_val=x) == 3 * features + 4 * 6 + 4 * 2
