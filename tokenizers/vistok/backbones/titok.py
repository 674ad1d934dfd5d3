"""One-dimensional tokens: the encoder and decoder of TiTok (arXiv:2406.07550) and TA-TiTok (arXiv:2501.07730).

The encoder is a vision transformer over the patches of an image, a class token and T learned latent tokens; only the
latent tokens leave it. The decoder is a vision transformer over a class token, one learned mask token for each patch
and the T quantized tokens; the mask tokens become the image. Tokens have no places in the image, so that T is free:
32, 64, 128. Images have one size, that of the learned positions.

Published sizes, as width, depth and heads of 64 channels: S 512, 8, 8; B 768, 12, 12; L 1024, 24, 16. With 128 tokens
of 12 channels, S has 25,818,636 parameters in the encoder, 65,536 in the latent tokens and 27,000,832 in the decoder.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from vistok.backbones.interface import Decoder, Encoder, Sizes
from vistok.backbones.vit import Block
from vistok.quantizers.base import Context

HEADS = ("pixels", "logits")


@dataclass(frozen=True)
class TiTokSizes(Sizes):
    """Sizes of an encoder or a decoder; ``TiTokEncoder`` explains them."""

    dim: int
    width: int
    depth: int
    num_heads: int
    num_tokens: int
    patch: int
    image_size: int

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            raise ValueError(f"image_size={self.image_size} is not a multiple of patch={self.patch}")
        if self.width % self.num_heads:
            raise ValueError(f"width={self.width} is not a multiple of num_heads={self.num_heads}")

    @property
    def factor(self) -> int:
        return self.patch

    @property
    def side(self) -> int:
        """Patches along each side of an image."""
        return self.image_size // self.patch

    def blocks(self) -> nn.ModuleList:
        """Transformer blocks."""
        block = (self.width, self.num_heads, self.width // self.num_heads, 4, "gelu", True)
        return nn.ModuleList(Block(*block) for _ in range(self.depth))

    def learned(self, count: int) -> nn.Parameter:
        """Learned tokens or positions (count, width), normal with variance 1 / width."""
        return nn.Parameter(torch.randn(count, self.width) * self.width**-0.5)


class TiTokEncoder(Encoder):
    """Maps images (b, in_channels, image_size, image_size) to a latent (b, dim, 1, num_tokens).

    Args:
        dim: Channels of the latent.
        width: Channels of a token in the transformer.
        depth: Number of blocks.
        num_heads: Attention heads of each block.
        num_tokens: Number T of latent tokens.
        patch: Side in pixels of a patch.
        image_size: Side in pixels of the images.
        in_channels: Channels of the images.
        legacy: True reads the tokens' values (T, width) in memory order as (width, T) before the last convolution, as
            the first published models do; each position of the latent then mixes several tokens.
    """

    sizes: TiTokSizes

    def __init__(
        self,
        dim: int = 12,
        width: int = 512,
        depth: int = 8,
        num_heads: int = 8,
        num_tokens: int = 128,
        patch: int = 16,
        image_size: int = 256,
        in_channels: int = 3,
        legacy: bool = False,
    ):
        super().__init__()
        sizes = TiTokSizes(dim, width, depth, num_heads, num_tokens, patch, image_size)
        sizes.describe(self)
        self.in_channels, self.legacy = in_channels, legacy

        self.conv_in = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.class_token = sizes.learned(1)
        self.positions = sizes.learned(1 + sizes.side**2)
        self.latent_tokens = sizes.learned(num_tokens)
        self.latent_positions = sizes.learned(num_tokens)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = sizes.blocks()
        self.norm_out = nn.LayerNorm(width)
        self.conv_out = nn.Conv2d(width, dim, 1)
        self.apply(initialise)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        check_size(self.image_size, height, width)
        return 1, self.num_tokens

    def forward(self, images: Tensor) -> Tensor:
        patches = rearrange(self.conv_in(images), "b d h w -> b (h w) d")
        batch = patches.shape[0]  # symbolic in graphs
        first = torch.cat([self.class_token.expand(batch, -1, -1), patches], dim=1) + self.positions
        x = torch.cat([first, (self.latent_tokens + self.latent_positions).expand(batch, -1, -1)], dim=1)
        x = self.norm_in(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm_out(x[:, -self.num_tokens :])
        shape = (-1, self.sizes.width, 1, self.num_tokens)
        return self.conv_out(x.reshape(shape) if self.legacy else rearrange(x, "b n d -> b d 1 n"))


class TiTokDecoder(Decoder):
    """Maps a latent (b, dim, 1, n) of n <= num_tokens tokens to images, or to logits over the codes of another model.

    The arguments of the transformer are the encoder's; both may have different ones.

    Args:
        dim: Channels of the latent.
        width: Channels of a token in the transformer.
        depth: Number of blocks.
        num_heads: Attention heads of each block.
        num_tokens: Largest number T of tokens.
        patch: Side in pixels of a patch.
        image_size: Side in pixels of the images.
        out_channels: Channels of the images with the head ``pixels``; number of codes with ``logits``.
        head: ``pixels`` ends in images (b, out_channels, image_size, image_size). ``logits`` ends in logits (b,
            out_channels, side, side) with one position for each patch, which a pixel map such as
            ``vistok.backbones.ProxyPixels`` decodes.
        text_dim: Channels of the text features that TA-TiTok's decoder also reads; None for no text.
        text_length: Number of text features.

    ``keep`` (b, 1, n) hides tokens from all others, which gives the images of a shorter latent. With text, the context
    has the features: ``Context(text=...)``, (b, text_length, text_dim).

    Raises:
        ValueError: ``head`` is unknown, or sizes do not divide.
    """

    sizes: TiTokSizes

    def __init__(
        self,
        dim: int = 12,
        width: int = 512,
        depth: int = 8,
        num_heads: int = 8,
        num_tokens: int = 128,
        patch: int = 16,
        image_size: int = 256,
        out_channels: int = 3,
        head: Literal["pixels", "logits"] = "pixels",
        text_dim: int | None = None,
        text_length: int = 77,
    ):
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"head must be {' or '.join(HEADS)}, not {head!r}")
        sizes = TiTokSizes(dim, width, depth, num_heads, num_tokens, patch, image_size)
        sizes.describe(self)
        self.out_channels, self.head, self.text_dim, self.text_length = out_channels, head, text_dim, text_length

        self.linear_in = nn.Linear(dim, width)
        self.class_token, self.mask_token = sizes.learned(1), sizes.learned(1)
        self.positions = sizes.learned(1 + sizes.side**2)
        self.latent_positions = sizes.learned(num_tokens)
        if text_dim is not None:
            self.context_fields = frozenset({"text"})
            self.text_in = nn.Linear(text_dim, width)
            self.text_positions = sizes.learned(text_length)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = sizes.blocks()
        self.norm_out = nn.LayerNorm(width)
        if head == "pixels":
            self.hidden = nn.Sequential(nn.Conv2d(width, out_channels * patch**2, 1))
            self.conv_out = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        else:
            self.hidden = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.Tanh())
            self.conv_out = nn.Conv2d(2 * width, out_channels, 1)
        self.apply(initialise)

    def forward(
        self,
        latent: Tensor,
        size: tuple[int, int] | None = None,
        keep: Tensor | None = None,
        context: Context = Context(),
    ) -> Tensor:
        batch, count = latent.shape[0], latent.shape[3]
        if latent.shape[2] != 1 or count > self.num_tokens:
            raise ValueError(f"the latent is {latent.shape[2]}x{count}, not 1x{self.num_tokens} or shorter")
        if size is not None:
            check_size(self.image_size, *size)
        side = self.sizes.side
        first = torch.cat([self.class_token, self.mask_token.expand(side**2, -1)]) + self.positions
        parts = [first.expand(batch, -1, -1)]
        parts.append(self.linear_in(rearrange(latent, "b d 1 n -> b n d")) + self.latent_positions[:count])
        if self.text_dim is not None:
            parts.append(self.text_in(self.text_of(context, batch)) + self.text_positions)
        x = self.norm_in(torch.cat(parts, dim=1))
        visible = None if keep is None else self.visible(keep, x.shape[1])
        for block in self.blocks:
            x = block(x, visible)
        x = rearrange(self.norm_out(x[:, 1 : 1 + side**2]), "b (h w) d -> b d h w", h=side)
        x = self.hidden(x)
        if self.head == "pixels":
            x = rearrange(x, "b (p q c) h w -> b c (h p) (w q)", p=self.patch, q=self.patch)
        return self.conv_out(x)

    def visible(self, keep: Tensor, length: int) -> Tensor:
        """Mask (b, 1, 1, length) bool of the tokens that attention reads."""
        before = 1 + self.sizes.side**2
        kept = rearrange(keep, "b 1 n -> b 1 1 n")
        after = kept.new_ones(len(keep), 1, 1, length - before - kept.shape[3])
        return torch.cat([kept.new_ones(len(keep), 1, 1, before), kept, after], dim=3)

    def text_of(self, context: Context, batch: int) -> Tensor:
        """Text features of the context.

        Raises:
            ValueError: There are none, or they have another shape.
        """
        wanted = (batch, self.text_length, self.text_dim)
        if context.text is None or context.text.shape != wanted:
            found = "none were given" if context.text is None else f"not {tuple(context.text.shape)}"
            raise ValueError(f"this decoder reads text features {wanted} from Context(text=...): {found}")
        return context.text.to(self.text_in.weight.dtype)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight at which the adaptive adversarial weight compares gradients."""
        return self.conv_out.weight


def check_size(image_size: int, height: int, width: int) -> None:
    """Refuses images of another size than that of the learned positions."""
    if (height, width) != (image_size, image_size):
        raise ValueError(
            f"image size {height}x{width} is not {image_size}x{image_size}: 1-D tokens are learned for one size"
        )


def initialise(module: nn.Module) -> None:
    """Truncated normal weights of deviation 0.02 and biases of 0; queries, keys and values Xavier-uniform."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, Block):
        nn.init.xavier_uniform_(module.attention.qkv.weight)
