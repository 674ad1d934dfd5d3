"""Base of heads whose codebook is a function of learned parameters, such as SimVQ and VQBridge."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

from torch import Tensor

from vistok.quantizers import base
from vistok.quantizers.base import Codes, Context, Layout, Quantized, Quantizer, Table
from vistok.quantizers.estimators import StraightThrough
from vistok.quantizers.vq import VectorQuantizer, plain


class MappedCodebook(Quantizer):
    """Nearest codeword by L2 in a codebook that ``codebook()`` computes; a subclass needs to define nothing else.

    Gradients reach the parameters from which the codebook is computed. For inference the head is folded into the
    resulting plain table.
    """

    loss_names = ("commitment", "codebook")
    computed: Tensor | None = None  # codewords within ``computed_once``

    @abstractmethod
    def codebook(self) -> Tensor:
        """Codewords (n, d), with gradients; called with autocast off."""

    @cached_property
    def dim(self) -> int:
        return self._codebook().shape[1]

    @cached_property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (len(self._codebook()),)

    @base.in_float32
    def _codebook(self) -> Tensor:
        return self.codebook().float() if self.computed is None else self.computed

    @base.in_float32
    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        estimator = self.estimator if self.training else StraightThrough()
        return base.quantize(z.float(), self._codebook(), estimator, context.weight)

    @base.in_float32
    def encode(self, z: Tensor, context: Context = Context()) -> Codes:
        return Codes(base.nearest(z.float(), self._codebook()))

    def lookup(self, codes: Tensor, layout: Layout | None = None, keep: Tensor | None = None) -> Tensor:
        codes = base.check_codes(codes, self.codebook_sizes)
        return base.lookup(codes, self._codebook())

    def table(self, i: int) -> Table:
        codebook = self._codebook().detach()
        return Table(codebook, "l2", codebook)

    def for_inference(self) -> VectorQuantizer:
        return plain(self._codebook())


@contextmanager
def computed_once(head: Quantizer) -> Iterator[None]:
    """Block in which each mapped codebook of a head is computed once, for all calls of the head that has it."""
    mapped = [part for part in head.modules() if isinstance(part, MappedCodebook) and part.computed is None]
    for part in mapped:
        part.computed = part._codebook()
    try:
        yield
    finally:
        for part in mapped:
            part.computed = None
