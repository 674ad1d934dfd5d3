"""Images of a decoder that predicts the codes of another tokenizer."""

import torch
from torch import Tensor, nn

from vistok.backbones.interface import Decoder


class ProxyPixels(nn.Module):
    """Pixel map of a decoder of logits: the decoder of another tokenizer turns them into images.

    The logits' softmax weighs the codewords of that tokenizer, and the mean codewords are decoded (TiTok's second
    stage, arXiv:2406.07550, section 3.3). Its networks have pixels in [0, 1].

    Args:
        decoder: Decoder of the other tokenizer.
        codebook_size: Number of its codewords, and of the logits.
    """

    def __init__(self, decoder: Decoder, codebook_size: int = 1024):
        super().__init__()
        self.decoder, self.codebook_size = decoder, codebook_size
        self.codewords = nn.Parameter(torch.empty(codebook_size, decoder.dim).uniform_(-1, 1) / codebook_size)

    def into(self, images: Tensor) -> Tensor:
        return images * 0.5 + 0.5

    def out(self, logits: Tensor) -> Tensor:
        """Maps logits (b, codebook_size, h, w) to images (b, c, h * factor, w * factor)."""
        mixed = torch.einsum("b n h w, n d -> b d h w", logits.softmax(dim=1), self.codewords.to(logits.dtype))
        return self.decoder(mixed) * 2 - 1

    def __repr__(self) -> str:
        return f"ProxyPixels({self.codebook_size})"  # weights have their own names

    def channels(self, outputs: int) -> int:
        """Number of channels of the images."""
        return self.decoder.out_channels
