"""Head of transformers' Janus, which selects codes in one table and decodes another."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.quantizers import base
from vistok.quantizers.base import Codes, Context, Layout, Quantized, Quantizer, Table
from vistok.quantizers.estimators import with_gradient_of


class JanusQuantizer(Quantizer):
    """Selects the nearest codewords by L2, and decodes the same codewords at unit length.

    transformers' port of LlamaGen's head normalises codewords when it decodes but not when it encodes. This head gives
    the same codes and images as that library for its files. To train a tokenizer use ``VectorQuantizer(cosine=True)``,
    the head that was ported; the weights are interchangeable.

    Args:
        codebook_size: Number of codewords n, at least 2.
        dim: Codeword dimension d, the channels of the latent.
    """

    loss_names = ("commitment", "codebook")
    stored_names = {"codewords": "table"}

    def __init__(self, codebook_size: int, dim: int):
        super().__init__()
        base.check_size(codebook_size)
        self.codebook_size, self.dim, self.codebook_sizes = codebook_size, dim, (codebook_size,)
        self.codewords = nn.Parameter(F.normalize(torch.randn(codebook_size, dim)))

    @base.in_float32
    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        quantized = base.quantize(z.float(), self.codewords.float(), weight=context.weight)
        unit = base.lookup(quantized.codes, F.normalize(self.codewords.float()))
        return quantized._replace(latent=with_gradient_of(unit, quantized.latent), codewords=unit)

    @base.in_float32
    def encode(self, z: Tensor, context: Context = Context()) -> Codes:
        return Codes(base.nearest(z.float(), self.codewords.float()))

    def lookup(self, codes: Tensor, layout: Layout | None = None, keep: Tensor | None = None) -> Tensor:
        codes = base.check_codes(codes, self.codebook_sizes)
        return base.lookup(codes, F.normalize(self.codewords.float()))

    def table(self, i: int) -> Table:
        search = self.codewords.detach().float()
        return Table(search, "l2", F.normalize(search))
