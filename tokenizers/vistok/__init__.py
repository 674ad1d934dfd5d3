"""vistok: discrete visual tokenizers, any quantization head on any backbone.

    tokenizer = vistok.load("sample")
    images = vistok.read_image("photo.jpg", size=256)
    codes = tokenizer.tokenize(images)
    vistok.show(images, tokenizer.detokenize(codes), codes)

Heads are names of ``vistok`` and of ``vistok.quantizers``; encoders and decoders are in ``vistok.backbones``. These and
``vistok.losses``, ``metrics``, ``tokens``, ``codec``, ``data``, ``evaluation`` and ``training`` need no import of their
own: each is imported at its first use.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vistok import backbones as backbones
    from vistok import codec as codec
    from vistok import data as data
    from vistok import evaluation as evaluation
    from vistok import formats as formats
    from vistok import losses as losses
    from vistok import metrics as metrics
    from vistok import quantizers as quantizers
    from vistok import tokens as tokens
    from vistok import training as training
    from vistok.formats.load import load
    from vistok.formats.native import register, save
    from vistok.images.photos import read_image, write_image
    from vistok.images.ranges import PixelMap
    from vistok.plots.showing import show
    from vistok.quantizers import (
        FSQ,
        IBQ,
        BinaryQuantizer,
        DynamicQuantizer,
        FactorizedQuantizer,
        GumbelQuantizer,
        JanusQuantizer,
        MaskedQuantizer,
        MultiScaleQuantizer,
        Quantized,
        Quantizer,
        ResidualQuantizer,
        SFDiVeQ,
        SimVQ,
        VectorQuantizer,
        VQBridge,
    )
    from vistok.tokenizer import Tokenizer

__all__ = [
    "FSQ",
    "IBQ",
    "BinaryQuantizer",
    "DynamicQuantizer",
    "FactorizedQuantizer",
    "GumbelQuantizer",
    "JanusQuantizer",
    "MaskedQuantizer",
    "MultiScaleQuantizer",
    "PixelMap",
    "Quantized",
    "Quantizer",
    "ResidualQuantizer",
    "SFDiVeQ",
    "SimVQ",
    "Tokenizer",
    "VQBridge",
    "VectorQuantizer",
    "load",
    "read_image",
    "register",
    "save",
    "show",
    "write_image",
]
__version__ = "0.1.0"

_HOMES = {  # imported at their first use: a command sets OpenMP's variables before torch is loaded
    "PixelMap": "vistok.images.ranges",
    "Tokenizer": "vistok.tokenizer",
    "load": "vistok.formats.load",
    "read_image": "vistok.images.photos",
    "register": "vistok.formats.native",
    "save": "vistok.formats.native",
    "show": "vistok.plots.showing",
    "write_image": "vistok.images.photos",
}  # all others are in vistok.quantizers
_PACKAGES = {  # of a user; the others are parts of these
    *("backbones", "codec", "data", "evaluation", "formats", "losses", "metrics", "quantizers", "tokens", "training")
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        found = getattr(import_module(_HOMES.get(name, "vistok.quantizers")), name)
    elif not name.startswith("_") and find_spec(f"vistok.{name}"):
        found = import_module(f"vistok.{name}")
    else:
        raise AttributeError(f"module 'vistok' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *_PACKAGES, *(name for name in globals() if name.startswith("__"))})
