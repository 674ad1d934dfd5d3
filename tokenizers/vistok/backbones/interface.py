"""Interfaces of encoders and decoders."""

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from vistok.quantizers.base import Context
from vistok.structure import brief


@dataclass(frozen=True)
class Sizes:
    """Sizes that an encoder and its decoder share: the arguments of both constructors."""

    @property
    @abstractmethod
    def factor(self) -> int:
        """Pixels along each side of a latent position."""

    def describe(self, network: nn.Module) -> None:
        """Sets the sizes and the factor as attributes of a network, where exported folders read them."""
        network.sizes = self
        for field in fields(self):
            setattr(network, field.name, getattr(self, field.name))
        network.factor = self.factor


class Encoder(nn.Module):
    """Maps images (b, in_channels, H, W) to a latent (b, dim, h, w), or to several, coarsest first.

    Attributes:
        factor: Pixels along each side of a position of the finest latent.
        dim: Channels of each latent.
        in_channels: Channels of images.
        num_tokens: Number of 1-D tokens of an image, which have no places in it; None for a grid. An encoder with 1-D
            tokens has images of one size.
        image_size: Side in pixels of the images that learned positions are for; None without such.
    """

    factor: int
    dim: int
    in_channels: int
    num_tokens: int | None = None
    image_size: int | None = None

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Grid (h, w) of the latent of an image with this height and width in pixels; (1, n) for 1-D tokens.

        Raises:
            ValueError: The encoder does not accept images of this size.
        """
        if height % self.factor or width % self.factor:
            raise ValueError(f"image size {height}x{width} is not a multiple of the tokenizer's factor {self.factor}")
        return height // self.factor, width // self.factor

    def extra_repr(self) -> str:
        return f"from {self.in_channels} to {self.dim} channels, factor {self.factor}"

    def __repr__(self) -> str:
        return brief(self)


class Decoder(nn.Module):
    """Maps a latent (b, dim, h, w) to unbounded images (b, out_channels, H, W).

    A decoder also has ``last_layer``, the weight at which the adaptive adversarial weight compares gradients.

    Attributes:
        factor: Pixels along each side of a position.
        dim: Channels of the latent.
        num_tokens: Number of 1-D tokens that it reads; None for a grid.
        context_fields: Fields of the context that images depend on; graphs, which lack them, refuse the decoder.
    """

    factor: int
    dim: int
    num_tokens: int | None = None
    context_fields: frozenset[str] = frozenset()

    @abstractmethod
    def forward(
        self,
        latent: Tensor,
        size: tuple[int, int] | None = None,
        keep: Tensor | None = None,
        context: Context = Context(),
    ) -> Tensor:
        """Decodes a latent. Most decoders read no other argument.

        Args:
            latent: (b, dim, h, w).
            size: Size (H, W) of the images in pixels, where the latent does not determine it; else h and w times the
                factor.
            keep: (b, h, w) bool, positions that were emitted; None for all.
            context: Further inputs, such as a mask of known pixels or the noise of a generative decoder.
        """

    def extra_repr(self) -> str:
        return f"from {self.dim} channels, factor {self.factor}"

    def __repr__(self) -> str:
        return brief(self)


def decode(
    decoder: nn.Module,
    latent: Tensor,
    size: tuple[int, int] | None = None,
    keep: Tensor | None = None,
    context: Context = Context(),
) -> Tensor:
    """Calls a decoder with only the arguments it needs, so that a user's decoder may accept the latent alone.

    The size is omitted where the latent determines it, and the context where it has neither mask, noise nor text.
    """
    keywords: dict[str, Any] = {}
    if size is not None and tuple(size) != tuple(side * decoder.factor for side in latent.shape[-2:]):
        keywords["size"] = tuple(size)
    if keep is not None:
        keywords["keep"] = keep
    if any(own is not None for own in (context.mask, context.noise, context.text)):
        keywords["context"] = context
    return decoder(latent, **keywords)
