"""vistok: discrete visual tokenizers, any quantization head on any backbone."""

from vistok.export.checkpoints import load
from vistok.photos import read_image, write_image
from vistok.pixels import PixelMap
from vistok.quantizers.base import Quantized
from vistok.tokenizer import Tokenizer

__all__ = ["PixelMap", "Quantized", "Tokenizer", "load", "read_image", "write_image"]
__version__ = "0.1.0"
