"""LeCam regularisation: logits stay near moving averages of the other side's logits (arXiv:2104.03310)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vistok.distributed.collectives import mean_over_ranks
from vistok.losses.adversarial import Regularizer


class LeCam(Regularizer):
    """``mean relu(D(x) - a_fake)² + mean relu(a_real - D(x̂))²``, the form of the authors' and Open-MAGVIT2's code.

    The paper's Eq. 3 has no relu: in the code a logit on the wrong side of the average is not penalised. As in the
    code, the averages first include the batch's own logits. They are buffers, saved with the run and equal on all
    ranks.

    Args:
        decay: Decay of the averages for each update, in [0, 1).
        batch_means: True is the form of MaskBit and TiTok: the means of the batch's logits, over all ranks, in place of
            the single logits, and averages of the earlier updates only.
    """

    every = 1
    real: Tensor
    fake: Tensor

    def __init__(self, decay: float = 0.999, batch_means: bool = False):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), not {decay}")
        self.decay, self.batch_means = decay, batch_means
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def forward(self, discriminate: Callable[[Tensor], Tensor], images: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        means = mean_over_ranks(torch.stack([real.detach().mean(), fake.detach().mean()]))
        mean_real, mean_fake = self.real, self.fake
        if self.batch_means:  # values of all ranks, gradients of this one: ranks average them to those of one process
            own = torch.stack([real.mean(), fake.mean()])
            real, fake = own - own.detach() + means
        else:
            mean_real, mean_fake = self._follow(mean_real, means[0]), self._follow(mean_fake, means[1])
        return F.relu(real - mean_fake).square().mean() + F.relu(mean_real - fake).square().mean()

    def update(self, real: Tensor, fake: Tensor) -> None:
        self.real.copy_(self._follow(self.real, real))
        self.fake.copy_(self._follow(self.fake, fake))

    def _follow(self, average: Tensor, value: Tensor) -> Tensor:
        return self.decay * average + (1 - self.decay) * value
