"""Encoders and decoders: any of them goes with any quantization head."""

from vistok.backbones.cnn import CNNDecoder, CNNEncoder

__all__ = ["CNNDecoder", "CNNEncoder"]
