"""SimVQ: a frozen codebook seen through one learned linear map (arXiv:2411.02038)."""

import torch
from torch import Tensor, nn

from vistok.quantizers import base
from vistok.quantizers.estimators import Estimator, StraightThrough
from vistok.quantizers.mapped import MappedCodebook


class SimVQ(MappedCodebook):
    """Every step moves every codeword, since all pass through the same map; none can die alone.

    Args:
        codebook_size: Number of codewords n, at least 2.
        dim: Codeword dimension d, the channels of the latent.
        trainable_basis: Learn the basis as well: the paper's ablation.
        estimator: How gradients pass the choice of a codeword.
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
