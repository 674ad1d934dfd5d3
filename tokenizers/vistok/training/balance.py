"""Backward pass of the generator that balances pixel losses and adversarial loss at the decoder's output."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vistok.losses.adversarial import gradient_ratio


class BalancedBackward:
    """Computes each gradient at the decoder's output y once, sums them, and backpropagates the sum in one pass.

    The networks receive the gradient of ``⟨y, ∂P/∂y + λ ∂A/∂y⟩``, where P is the weighted sum of pixel losses and A the
    adversarial loss. Its weight λ is a constant or VQGAN's adaptive weight (arXiv:2012.09841, Eq. 7),
    ``λ ∝ |∂P/∂w| / (|∂A/∂w| + 1e-4)`` with w the decoder's last layer, which needs the two gradients separately.

    Args:
        output: y, with its graph.
        to_images: Function from the decoder's output to images.

    Attributes:
        detached: y in float32, detached from the networks: the input of the losses, at which their gradients are taken.
        reconstruction: Images of ``detached``.
        gradient: Sum of the gradients at y so far.
    """

    gradient: Tensor

    def __init__(self, output: Tensor, to_images: Callable[[Tensor], Tensor]):
        self.output = output
        leaf = output.detach().requires_grad_()
        self.detached = leaf.view_as(leaf).float()  # a view: torch's FLOP counter cannot follow gradients to a leaf
        self.reconstruction = to_images(self.detached)
        self._parameter_term: Tensor | float = 0.0  # scalar with the gradients of the losses' own parameters

    def compare(self, loss: Tensor | float, parameters: Sequence[nn.Parameter]) -> None:
        """Computes the gradients of P.

        Args:
            loss: P; a plain number where no term has a weight.
            parameters: Parameters of the losses themselves.
        """
        if not isinstance(loss, Tensor):
            self.gradient = torch.zeros_like(self.detached)
            return
        wanted = [self.detached, *parameters]
        self.gradient, *own = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
        self._parameter_term = sum((p * gradient).sum() for p, gradient in zip(parameters, own, strict=True))

    def ratio(self, opposing: Tensor, weight: Tensor, maximum: float) -> Tensor:
        """Returns ``|∂P/∂w| / (|∂A/∂w| + 1e-4)``, clamped to at most ``maximum``, as a float32 scalar.

        Args:
            opposing: ∂A/∂y.
            weight: w, or another tensor that both gradients reach.
            maximum: Upper limit of the ratio.
        """
        at_weight = (
            torch.autograd.grad(self.output, weight, gradient.to(self.output.dtype), retain_graph=True)[0]
            for gradient in (self.gradient, opposing)
        )
        return gradient_ratio(*at_weight, maximum)

    def oppose(self, gradient: Tensor | float) -> None:
        """Adds λ ∂A/∂y to the gradient."""
        self.gradient = self.gradient + gradient

    def loss(self) -> Tensor:
        """Returns a scalar whose backward pass gives the networks and losses all gradients added so far."""
        return self._parameter_term + (self.output * self.gradient.to(self.output.dtype)).sum()
