"""Quantization heads: an encoder's latent to codes and codewords."""

from vistok.quantizers.base import Context, Quantized, Quantizer
from vistok.quantizers.estimators import DiVeQ, RotationTrick, StraightThrough
from vistok.quantizers.fq import FactorizedQuantizer, factorized
from vistok.quantizers.simvq import SimVQ
from vistok.quantizers.vq import VectorQuantizer

__all__ = [
    "Context",
    "DiVeQ",
    "FactorizedQuantizer",
    "Quantized",
    "Quantizer",
    "RotationTrick",
    "SimVQ",
    "StraightThrough",
    "VectorQuantizer",
    "factorized",
]
