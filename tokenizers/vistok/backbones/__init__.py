"""Encoders and decoders: any of them goes with any quantization head."""

from vistok.backbones.adapters import BranchedEncoder
from vistok.backbones.cnn import CNNDecoder, CNNEncoder
from vistok.backbones.cosmos import CosmosDecoder, CosmosEncoder
from vistok.backbones.hierarchical import HierarchicalEncoder
from vistok.backbones.interface import Decoder, Encoder
from vistok.backbones.magvit import MagvitDecoder, MagvitEncoder
from vistok.backbones.maskgit import MaskGITDecoder, MaskGITEncoder
from vistok.backbones.positional import PositionalDecoder
from vistok.backbones.proxy_pixels import ProxyPixels
from vistok.backbones.put import PUTDecoder, PUTEncoder
from vistok.backbones.titok import TiTokDecoder, TiTokEncoder
from vistok.backbones.vit import ViTDecoder, ViTEncoder

__all__ = [
    "BranchedEncoder",
    "CNNDecoder",
    "CNNEncoder",
    "CosmosDecoder",
    "CosmosEncoder",
    "Decoder",
    "Encoder",
    "HierarchicalEncoder",
    "MagvitDecoder",
    "MagvitEncoder",
    "MaskGITDecoder",
    "MaskGITEncoder",
    "PUTDecoder",
    "PUTEncoder",
    "PositionalDecoder",
    "ProxyPixels",
    "TiTokDecoder",
    "TiTokEncoder",
    "ViTDecoder",
    "ViTEncoder",
]
