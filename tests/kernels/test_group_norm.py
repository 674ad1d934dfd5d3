"""The fused group norm on a CPU: equal to torch's composition, one operation of graphs, and off where it should be."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.backends.common import aot_autograd

from vistok.backbones.cnn import ResnetBlock
from vistok.kernels import conv_norm_act, forked_norm_act, norm_act
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


def test_gradients_of_a_residual_connection_are_added(norm):
    x, of_y, of_x = random(2, 8, 5, 3), *torch.randn(2, 2, 8, 5, 3)
    wanted = (x, norm.weight, norm.bias)
    y, same = forked_norm_act(x, norm)
    assert same is x and torch.equal(y, F.silu(norm(x)))
    theirs = torch.autograd.grad((y, same), wanted, (of_y, of_x))
    with fused_everywhere():
        y, same = forked_norm_act(x, norm)
    assert same.data_ptr() == x.data_ptr() and type(same.grad_fn) is type(y.grad_fn)
    torch.testing.assert_close(torch.autograd.grad((y, same), wanted, (of_y, of_x), retain_graph=True), theirs)
    (alone,) = torch.autograd.grad(same, x, of_x)
    assert torch.equal(alone, of_x)


def test_a_convolutions_bias_is_added_by_the_norm(norm):
    conv, x, gradient = nn.Conv2d(6, 8, 3, padding=1), random(2, 6, 5, 3), torch.randn(2, 8, 5, 3)
    wanted = (x, *conv.parameters(), *norm.parameters())
    plain = conv_norm_act(x, conv, norm)
    assert torch.equal(plain, F.silu(norm(conv(x))))
    with fused_everywhere():
        y = conv_norm_act(x, conv, norm)
    torch.testing.assert_close(y, plain)
    ours, theirs = (torch.autograd.grad(out, wanted, gradient, create_graph=True) for out in (y, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(y, wanted, gradient, retain_graph=True), theirs, rtol=1e-4, atol=1e-5
    )
    second = [torch.autograd.grad(sum(t.square().sum() for t in first), wanted) for first in (ours, theirs)]
    torch.testing.assert_close(*second, rtol=1e-3, atol=1e-3)


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
    for shift in (None, torch.randn(8, requires_grad=True)):
        torch.library.opcheck(fused, (random(2, 8, 5, 3), shift, norm.weight, norm.bias, 4, 1e-6, True))


def test_compiled_graphs_have_one_operation():
    """For each norm; and torch.compile gives the gradients of the eager block."""
    torch.manual_seed(0)
    block, x, graphs = ResnetBlock(8, 8, groups=4), random(2, 8, 5, 3), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(block, backend=aot_autograd(fw_compiler=backend, bw_compiler=backend))
    with fused_everywhere():
        results = [torch.autograd.grad(run(x).square().sum(), (x, *block.parameters())) for run in (block, compiled)]
    torch.testing.assert_close(*results)
    targets = [[str(node.target) for node in graph.graph.nodes if node.op == "call_function"] for graph in graphs]
    assert [sum("vistok.group_norm.default" in target for target in graph) for graph in targets] == [2, 0]
    assert [sum("vistok.group_norm_backward.default" in target for target in graph) for graph in targets] == [0, 2]
    assert not any("silu" in target or "native" in target for graph in targets for target in graph)


def test_exported_graphs_have_torchs_operations():
    block, x = ResnetBlock(8, 8, groups=4).eval(), torch.randn(1, 8, 5, 3)
    with fused_everywhere():
        program = torch.export.export(block, (x,))
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.silu.default" in targets and not any("vistok" in target for target in targets)
    assert torch.equal(program.module()(x), block(x))
