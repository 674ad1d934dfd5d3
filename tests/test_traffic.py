"""The count of bytes and FLOPs, benchmarks/traffic.py: layers worked by hand, and the parts of an update."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vistok.kernels import nearest_code, soft_assignment

IMAGE, WEIGHT = 4 * 2 * 8 * 16 * 16, 4 * 6 * 8 * 3 * 3  # bytes of (2, 8, 16, 16), and of 8 → 6 channels by 3 × 3
OUTPUT = 4 * 2 * 6 * 16 * 16


@pytest.fixture
def counted(monkeypatch):
    """``counted(function, *shapes)``: a Traffic over the call with fake tensors of these shapes."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    import traffic

    def count(function, *shapes, parts=()):
        with FakeTensorMode(allow_non_fake_inputs=True):
            inputs = [torch.empty(shape, requires_grad=True) for shape in shapes]
            with traffic.Traffic() as counted, counted.by_part(parts):
                function(*inputs)
        return counted

    yield count
    for name in ("traffic", "measure"):
        sys.modules.pop(name, None)


def of(traffic, kind):
    rows = [row for row in traffic.bytes if row.kind == kind]
    return sum(traffic.bytes[row] for row in rows), sum(traffic.flops[row] for row in rows)


def test_a_convolution(counted):
    def layer(x, weight, bias):
        F.conv2d(x, weight, bias, padding=1).backward(torch.empty(2, 6, 16, 16))

    forward = IMAGE + WEIGHT + 24 + OUTPUT
    to_input, to_weight, to_bias = OUTPUT + WEIGHT + IMAGE, OUTPUT + IMAGE + WEIGHT, OUTPUT + 24
    product = 2 * (2 * 16 * 16) * 6 * 8 * 9
    traffic = counted(layer, (2, 8, 16, 16), (6, 8, 3, 3), (6,))
    assert of(traffic, "convolution") == (forward + to_input + to_weight + to_bias, 3 * product)

    def frozen(x, weight):
        F.conv2d(x, weight.detach(), padding=1).backward(torch.empty(2, 6, 16, 16))

    traffic = counted(frozen, (2, 8, 16, 16), (6, 8, 3, 3))
    assert of(traffic, "convolution") == (IMAGE + WEIGHT + OUTPUT + to_input, 2 * product)


def test_a_group_norm(counted):
    def layer(x, weight, bias):
        F.group_norm(x, 4, weight, bias).backward(torch.empty(2, 8, 16, 16))

    channels, statistics = 4 * 8, 2 * 4 * 2 * 4  # a weight; mean and 1 / deviation of 2 × 4 groups
    forward = 3 * IMAGE + 2 * channels + statistics
    backward = 5 * IMAGE + statistics + channels + 2 * channels
    assert of(counted(layer, (2, 8, 16, 16), (8,), (8,)), "group_norm") == (forward + backward, 0)


def test_a_linear_layer(counted):
    """Three products, and the sum of the bias's gradient."""
    x, weight, bias, output = 4 * 5 * 7, 4 * 3 * 7, 4 * 3, 4 * 5 * 3

    def layer(*inputs):
        F.linear(*inputs).backward(torch.empty(5, 3))

    traffic = counted(layer, (5, 7), (3, 7), (3,))
    product = 2 * 5 * 3 * 7
    assert of(traffic, "addmm") == (x + weight + bias + output, product)
    assert of(traffic, "mm") == ((output + weight + x) + (output + x + weight), 2 * product)
    assert of(traffic, "sum") == (output + bias, 0)
    assert sum(traffic.bytes.values()) == sum(of(traffic, kind)[0] for kind in ("addmm", "mm", "sum"))


@pytest.mark.parametrize("function, expected", [
    (lambda x: x.view(8, 64).T[:3].expand(2, 3, 8).detach(), 0),
    (lambda x: x.detach().mul_(2.0), 2 * 2048),
    (lambda x: x.detach().copy_(torch.empty(512)), 2 * 2048),
    (lambda x: x.detach().zero_(), 2048),
    (lambda x: x.bfloat16(), 2048 + 1024),
    (lambda x: x * x, 2 * 2048),
    (lambda x: x.expand(100, 512) + 1.0, 2048 + 100 * 2048),
    (lambda x: torch._foreach_add_([x.detach(), x.detach()[:256]], [x, x[:256]]), 3 * (2048 + 1024)),
])  # fmt: skip
def test_views_and_changes_in_place(counted, function, expected):
    assert sum(counted(function, (512,)).bytes.values()) == expected


def test_copies_are_named_by_their_purpose(counted):
    traffic = counted(
        lambda x: (x.bfloat16(), x.clone(), x.detach().copy_(torch.empty(512, dtype=torch.bfloat16))), 512
    )
    assert of(traffic, "cast")[0] == 2 * (2048 + 1024) and of(traffic, "copy")[0] == 2 * 2048


def test_custom_operations_declare_their_passes(counted):
    traffic = counted(nearest_code, (100, 8), (50, 8))
    assert of(traffic, "nearest_code") == (4 * (3 * 100 * 8 + 4 * 50 * 8) + 8 * 100, 2 * 100 * 8 * 50)
    traffic = counted(lambda *inputs: soft_assignment(*inputs, 1.0), (100, 8), (50, 8), (100,))
    assert of(traffic, "soft_assignment")[0] == 4 * (10 * 100 * 50 + 100 * 8 + 50 * 8 + 100 + 3 * 100 + 50)

    @torch.library.custom_op("vistok::undeclared", mutates_args=())
    def undeclared(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    undeclared.register_fake(torch.empty_like)
    with pytest.raises(ValueError, match="undeclared has no formula of its bytes"):
        counted(undeclared, (4,))


def test_an_operation_belongs_to_the_part_that_recorded_it(counted):
    first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

    def both(x):
        second(first(x).sigmoid()).sum().backward()

    traffic = counted(both, (1, 3, 8, 8), parts=[("first", first), ("second", second)])
    calls = {row: count for row, count in traffic.calls.items() if row.kind in ("convolution", "sigmoid")}
    assert calls == {("first", "convolution"): 2, ("second", "convolution"): 2, ("other", "sigmoid"): 2}
    assert traffic.flops["first", "convolution"] == 3 * 2 * 36 * 4 * 27
