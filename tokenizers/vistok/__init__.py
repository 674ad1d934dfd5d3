"""vistok: discrete visual tokenizers, any quantization head on any backbone."""

from vistok.export.hub import load
from vistok.quantizers.base import Quantized
from vistok.tokenizer import PixelMap, Tokenizer

__all__ = ["PixelMap", "Quantized", "Tokenizer", "load"]
__version__ = "0.1.0"
