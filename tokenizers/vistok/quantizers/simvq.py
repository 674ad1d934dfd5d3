"""SimVQ: a frozen codebook reparameterised by one learned linear map (arXiv:2411.02038)."""

import torch
from torch import Tensor, nn

from vistok.quantizers import base
from vistok.quantizers.estimators import Estimator, StraightThrough
from vistok.quantizers.mapped import MappedCodebook


class SimVQ(MappedCodebook):
    """Frozen basis times a learned linear map: every step moves every codeword, so that no codeword can die alone.

    Args:
        codebook_size: Number of codewords n, at least 2.
        dim: Codeword dimension d, the channels of the latent.
        trainable_basis: True learns the basis as well: the paper's ablation.
        estimator: Gradient estimator of the codeword choice.
    """

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        trainable_basis: bool = False,
        estimator: Estimator = StraightThrough(),
    ):
        super().__init__()
        base.check_size(codebook_size)
        self.codebook_size, self.dim, self.codebook_sizes = codebook_size, dim, (codebook_size,)
        self.trainable_basis, self.estimator = trainable_basis, estimator
        basis = torch.randn(codebook_size, dim) * dim**-0.5
        if trainable_basis:
            self.basis = nn.Parameter(basis)
        else:
            self.register_buffer("basis", basis)
        self.projection = nn.Linear(dim, dim)

    @base.in_float32
    def codebook(self) -> Tensor:  # (n, d)
        return base.called_in_float32(self.projection, self.basis.float())
