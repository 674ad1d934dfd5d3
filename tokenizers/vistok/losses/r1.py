"""R1: gradient penalty of the discriminator at real images (arXiv:1801.04406, Eq. 9)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vistok.losses.adversarial import Regularizer


class R1(Regularizer):
    """``every / 2 · mean_b |∂D(x_b) / ∂x_b|²``; its weight is the γ of the papers.

    Applied every ``every`` updates and multiplied by ``every``, as in StyleGAN2 (arXiv:1912.04958, appendix B). D of an
    image is the mean of its logits. Images are in [-1, 1]: a γ that was chosen for [0, 1] has to be four times as large
    here for the same penalty.

    Args:
        every: Number of updates from one penalty to the next.
    """

    def __init__(self, every: int = 16):
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least 1 update, not {every}")
        self.every = every

    def forward(self, discriminate: Callable[[Tensor], Tensor], images: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        images = images.detach().float().requires_grad_()
        # Second derivatives need float32, and fused attention has none.
        with torch.autocast(images.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
            scores = discriminate(images).flatten(1).mean(1)
            (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
        return self.every / 2 * gradient.square().flatten(1).sum(1).mean()

    def update(self, real: Tensor, fake: Tensor) -> None:
        """Does nothing: there is no state."""
