"""vistok: discrete visual tokenizers, any quantization head on any backbone."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vistok.formats.load import load
    from vistok.formats.native import register
    from vistok.images.photos import read_image, write_image
    from vistok.images.ranges import PixelMap
    from vistok.quantizers.base import Quantized
    from vistok.tokenizer import Tokenizer

__all__ = ["PixelMap", "Quantized", "Tokenizer", "load", "read_image", "register", "write_image"]
__version__ = "0.1.0"

_HOMES = {  # imported at their first use: a command sets OpenMP's variables before torch is loaded
    "PixelMap": "vistok.images.ranges",
    "Quantized": "vistok.quantizers.base",
    "Tokenizer": "vistok.tokenizer",
    "load": "vistok.formats.load",
    "read_image": "vistok.images.photos",
    "register": "vistok.formats.native",
    "write_image": "vistok.images.photos",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        found = getattr(import_module(_HOMES[name]), name)
    elif not name.startswith("_") and find_spec(f"vistok.{name}"):
        found = import_module(f"vistok.{name}")
    else:
        raise AttributeError(f"module 'vistok' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
