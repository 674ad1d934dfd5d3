"""Quantization heads: an encoder's latent to codes and codewords."""

from vistok.quantizers.base import Codes, Context, Layout, Quantized, Quantizer, Table
from vistok.quantizers.bsq import BinaryQuantizer
from vistok.quantizers.dqvae import DynamicQuantizer
from vistok.quantizers.estimators import CodewordGradient, DiVeQ, RotationTrick, StraightThrough
from vistok.quantizers.fq import FactorizedQuantizer, factorized
from vistok.quantizers.fsq import FSQ
from vistok.quantizers.gumbel import GumbelQuantizer
from vistok.quantizers.ibq import IBQ
from vistok.quantizers.janus import JanusQuantizer
from vistok.quantizers.mapped import MappedCodebook
from vistok.quantizers.masked import MaskedQuantizer
from vistok.quantizers.multiscale import MultiScaleQuantizer
from vistok.quantizers.residual import ResidualQuantizer, in_depths
from vistok.quantizers.routers import EntropyRouter, FeatureRouter
from vistok.quantizers.sf_diveq import SFDiVeQ
from vistok.quantizers.simvq import SimVQ
from vistok.quantizers.vq import VectorQuantizer
from vistok.quantizers.vqbridge import VQBridge

__all__ = [
    "FSQ",
    "IBQ",
    "BinaryQuantizer",
    "Codes",
    "CodewordGradient",
    "Context",
    "DiVeQ",
    "DynamicQuantizer",
    "EntropyRouter",
    "FactorizedQuantizer",
    "FeatureRouter",
    "GumbelQuantizer",
    "JanusQuantizer",
    "Layout",
    "MappedCodebook",
    "MaskedQuantizer",
    "MultiScaleQuantizer",
    "Quantized",
    "Quantizer",
    "ResidualQuantizer",
    "RotationTrick",
    "SFDiVeQ",
    "SimVQ",
    "StraightThrough",
    "Table",
    "VQBridge",
    "VectorQuantizer",
    "factorized",
    "in_depths",
]
