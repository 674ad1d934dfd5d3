"""The generator's backward pass in one go has the gradients of the plain form, two passes through all networks."""

import pytest
import torch
from torch import nn

from vistok.losses.adversarial import adaptive_weight
from vistok.training.balance import BalancedBackward


class Learned(nn.Module):
    """A pixel loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, a, b):
        return self.scale * (a - b).square().mean()


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_plain_form(adaptive):
    torch.manual_seed(0)
    network, critic, loss = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)), nn.Conv2d(3, 1, 2), Learned()
    images, last = torch.randn(2, 3, 4, 4), network[1].weight
    learned = [*network.parameters(), *loss.parameters()]

    output = network(images)
    pixels, adversarial = loss(output.tanh(), images), -critic(output.tanh()).mean()
    ratio = adaptive_weight(pixels, adversarial, last) if adaptive else 1.0
    expected = torch.autograd.grad(pixels + 0.3 * ratio * adversarial, learned)

    output = network(images)
    balance = BalancedBackward(output, torch.tanh)
    balance.compare(loss(balance.reconstruction, images), list(loss.parameters()))
    (gradient,) = torch.autograd.grad(-critic(balance.detached.tanh()).mean(), balance.detached)
    own = balance.ratio(gradient, last, 1e4) if adaptive else 1.0
    torch.testing.assert_close(own, ratio)
    balance.oppose(0.3 * own * gradient)
    torch.testing.assert_close(torch.autograd.grad(balance.loss(), learned), expected)


def test_no_pixel_loss_has_a_weight():
    layer = nn.Conv2d(1, 1, 1)
    balance = BalancedBackward(layer(torch.ones(1, 1, 2, 2)), lambda y: y)
    balance.compare(0, [])
    balance.oppose(torch.full((1, 1, 2, 2), 0.5))
    (of_bias,) = torch.autograd.grad(balance.loss(), layer.bias)
    assert of_bias.item() == 2
