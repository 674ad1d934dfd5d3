"""The generator's backward pass, in which pixel losses and adversary are balanced at the decoder's output."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vistok.losses.adversarial import gradient_ratio


class BalancedBackward:
    """Gradients that meet at the decoder's output y, each computed once, and from there go back in one pass.

    The networks get the gradient of ``⟨y, ∂P/∂y + λ ∂A/∂y⟩``, with P the weighted pixel losses and A the adversarial
    loss. Its weight λ is a constant, or VQGAN's adaptive one (arXiv:2012.09841, Eq. 7),
    ``λ ∝ |∂P/∂w| / (|∂A/∂w| + 1e-4)`` with w the decoder's last layer, which needs both gradients apart.

    Args:
        output: y, with its graph.
        show: From the decoder's output to images.

    Attributes:
        seen: y in float32, cut off from the networks: what losses compare, and where their gradients end.
        reconstruction: The images that it shows.
        gradient: At y, so far.
    """

    gradient: Tensor

    def __init__(self, output: Tensor, show: Callable[[Tensor], Tensor]):
        self.output = output
        cut = output.detach().requires_grad_()
        self.seen = cut.view_as(cut).float()  # a view, since torch's FLOP counter cannot follow gradients to a leaf
        self.reconstruction = show(self.seen)
        self._own: Tensor | float = 0.0  # has the gradients of the losses' own parameters

    def compare(self, loss: Tensor | float, parameters: Sequence[nn.Parameter]) -> None:
        """Take the gradients of P.

        Args:
            loss: P; a number where no term has a weight.
            parameters: The losses' own.
        """
        if not isinstance(loss, Tensor):
            self.gradient = torch.zeros_like(self.seen)
            return
        wanted = [self.seen, *parameters]
        self.gradient, *own = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
        self._own = sum((p * gradient).sum() for p, gradient in zip(parameters, own, strict=True))

    def ratio(self, opposing: Tensor, weight: Tensor, maximum: float) -> Tensor:
        """``|∂P/∂w| / (|∂A/∂w| + 1e-4)``, at most ``maximum``: a float32 scalar.

        Args:
            opposing: ∂A/∂y.
            weight: w; or what else the gradients of both still reach.
            maximum: The largest.
        """
        at_weight = (
            torch.autograd.grad(self.output, weight, gradient.to(self.output.dtype), retain_graph=True)[0]
            for gradient in (self.gradient, opposing)
        )
        return gradient_ratio(*at_weight, maximum)

    def oppose(self, gradient: Tensor | float) -> None:
        """Add λ ∂A/∂y."""
        self.gradient = self.gradient + gradient

    def loss(self) -> Tensor:
        """A scalar whose gradients are those of all that was compared and opposed."""
        return self._own + (self.output * self.gradient.to(self.output.dtype)).sum()
