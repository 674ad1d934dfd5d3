"""The fused group norm on a CPU: equal to torch's composition, one operation of graphs, and off where it should be."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import EagerAndRecordGraphs

from vistok.backbones.cnn import ResnetBlock
from vistok.kernels import norm_act
from vistok.kernels.group_norm import fused, fused_everywhere

LAST = {"memory_format": torch.channels_last}


@pytest.fixture
def norm():
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 8, eps=1e-6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def random(*shape, dtype=torch.float32):
    return torch.randn(*shape).to(dtype).to(**LAST).requires_grad_()


def test_a_cpu_has_torchs_own_composition(norm):
    x = random(2, 8, 5, 3)
    assert torch.equal(norm_act(x, norm), F.silu(norm(x))) and torch.equal(norm_act(x, norm, silu=False), norm(x))
    assert "group_norm" not in type(norm_act(x, norm).grad_fn).__name__.lower()  # SiLU is the last operation


@pytest.mark.parametrize("silu", [True, False])
def test_the_fused_operation_equals_the_plain_one(norm, silu):
    x, gradient = random(2, 8, 5, 3), torch.randn(2, 8, 5, 3)
    wanted = (x, norm.weight, norm.bias)
    plain = norm_act(x, norm, silu)
    with fused_everywhere():
        y = norm_act(x, norm, silu)
    assert y.is_contiguous(**LAST) and "group_norm" in type(y.grad_fn).__name__.lower()
    torch.testing.assert_close(y, plain)
    ours, theirs = (torch.autograd.grad(out, wanted, gradient) for out in (y, plain))
    torch.testing.assert_close(ours, theirs)


def test_a_residual_is_added_first(norm):
    """Both summands get the gradients of the sum and of its norm."""
    x, residual = random(2, 8, 5, 3), random(2, 8, 5, 3)
    of_y, of_total = torch.randn(2, 2, 8, 5, 3)
    y, total, *_ = fused(x, residual, norm.weight, norm.bias, 4, norm.eps, True)
    plain = x + residual
    torch.testing.assert_close((y, total), (F.silu(norm(plain)), plain))
    wanted = (x, residual, norm.weight, norm.bias)
    ours = torch.autograd.grad((y, total), wanted, (of_y, of_total), retain_graph=True)
    theirs = torch.autograd.grad((F.silu(norm(plain)), plain), wanted, (of_y, of_total))
    torch.testing.assert_close(ours, theirs)
    only = torch.autograd.grad(total, (x, residual), of_total)
    assert torch.equal(only[0], of_total) and torch.equal(only[1], of_total)


def test_bfloat16_stays_bfloat16_and_only_the_input_is_kept(norm):
    x, kept = random(2, 8, 16, 16, dtype=torch.bfloat16), []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
        torch.autocast("cpu", torch.bfloat16),
        fused_everywhere(),
    ):
        y = norm_act(x, norm)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), F.silu(norm(x.float())), rtol=2**-8, atol=1e-6)
    assert sum(t.numel() * t.element_size() for t in kept) == 2 * 2 * 8 * 16 * 16 + 2 * 4 * 2 * 4 + 2 * 4 * 8
    to_x, to_weight, _ = torch.autograd.grad(y.float().square().sum(), (x, norm.weight, norm.bias))
    assert to_x.dtype == torch.bfloat16 and to_weight.dtype == torch.float32


def test_second_derivatives_are_those_of_the_plain_form(norm):
    x, weights = random(2, 8, 5, 3), torch.randn(2, 8, 5, 3)

    def penalty(function):
        """As R1 has it: the squared gradient at the input, and its gradient."""
        (gradient,) = torch.autograd.grad((function() * weights).sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), (x, norm.weight, norm.bias))

    with fused_everywhere():
        ours = penalty(lambda: norm_act(x, norm))
    torch.testing.assert_close(ours, penalty(lambda: norm_act(x, norm)), rtol=1e-4, atol=1e-4)


def test_torchs_own_checks_of_an_operation(norm):
    arguments = (norm.weight, norm.bias, 4, 1e-6, True)
    for residual in (None, random(2, 8, 5, 3)):
        torch.library.opcheck(fused, (random(2, 8, 5, 3), residual, *arguments))


def test_compiled_graphs_have_one_operation(norm):
    graphs = EagerAndRecordGraphs()
    x = random(2, 8, 5, 3)
    with fused_everywhere():
        y = torch.compile(lambda x: norm_act(x, norm), backend=graphs)(x)
        torch.testing.assert_close(y, norm_act(x, norm))
    (graph,) = graphs.graphs
    targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert sum("vistok.group_norm" in target for target in targets) == 1
    assert not any("silu" in target or target.startswith("<function group_norm") for target in targets)


def test_exported_graphs_have_torchs_operations():
    block, x = ResnetBlock(8, 8, groups=4).eval(), torch.randn(1, 8, 5, 3)
    with fused_everywhere():
        program = torch.export.export(block, (x,))
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.silu.default" in targets and not any("vistok" in target for target in targets)
    assert torch.equal(program.module()(x), block(x))
