"""Representation learning: a latent's features drawn to those of a frozen teacher (FQGAN, arXiv:2411.16681)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(predicted: Tensor, teacher: Tensor) -> Tensor:
    """How badly each prediction tells its own image's teacher feature from those of the batch (section 3.4 and code).

    ``-mean_b log softmax_j cos(p_b, t_j)`` at ``j = b``, without a temperature; the negatives are the other images of
    this process's batch.

    Args:
        predicted: (b, d), one vector for each image.
        teacher: The same shape; gets no gradient.

    Returns:
        A scalar; ln b for features that tell nothing.
    """
    similarity = F.normalize(predicted.float(), dim=1) @ F.normalize(teacher.detach().float(), dim=1).T
    return F.cross_entropy(similarity, torch.arange(len(predicted), device=predicted.device))
