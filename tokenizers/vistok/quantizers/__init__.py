"""Quantization heads: an encoder's latent to codes and codewords."""

from vistok.quantizers.base import Context, Quantized, Quantizer
from vistok.quantizers.vq import VectorQuantizer

__all__ = ["Context", "Quantized", "Quantizer", "VectorQuantizer"]
