"""What a tokenizer needs of an encoder and a decoder."""

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from vistok.quantizers.base import Context


@dataclass(frozen=True)
class Sizes:
    """The sizes that an encoder and its decoder share: the arguments that both constructors take."""

    @property
    @abstractmethod
    def factor(self) -> int:
        """Pixels along each side of a position of the latent."""

    def describe(self, network: nn.Module) -> None:
        """Make the sizes, each of them, and the factor attributes of a network: exported folders read them there."""
        network.sizes = self
        for field in fields(self):
            setattr(network, field.name, getattr(self, field.name))
        network.factor = self.factor


class Encoder(nn.Module):
    """Images (b, in_channels, H, W) to a latent (b, dim, h, w), or to several, the coarsest first.

    Attributes:
        factor: Pixels along each side of a position of the finest latent.
        dim: Channels of the latent, of each of several.
        in_channels: Channels of images.
    """

    factor: int
    dim: int
    in_channels: int

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Positions (h, w) of the latent of an image of so many pixels; (1, n) for 1-D tokens.

        Raises:
            ValueError: It takes no images of this size.
        """
        if height % self.factor or width % self.factor:
            raise ValueError(f"image size {height}x{width} is not a multiple of the tokenizer's factor {self.factor}")
        return height // self.factor, width // self.factor


class Decoder(nn.Module):
    """A latent (b, dim, h, w) to images (b, out_channels, H, W), unbounded.

    Beside these a decoder has ``last_layer``, the weight on which the adaptive adversarial weight compares gradients.

    Attributes:
        factor: Pixels along each side of a position.
        dim: Channels of the latent.
    """

    factor: int
    dim: int

    @abstractmethod
    def forward(
        self,
        latent: Tensor,
        size: tuple[int, int] | None = None,
        keep: Tensor | None = None,
        context: Context = Context(),
    ) -> Tensor:
        """Decode. Most decoders read the latent alone.

        Args:
            latent: (b, dim, h, w).
            size: Of the images, (H, W), where the latent does not tell it; else h and w times the factor.
            keep: (b, h, w) bool, positions that were emitted; None for all.
            context: What else it may look at, such as a mask of known pixels.
        """


def decode(
    decoder: nn.Module,
    latent: Tensor,
    size: tuple[int, int] | None = None,
    keep: Tensor | None = None,
    context: Context = Context(),
) -> Tensor:
    """What a decoder makes of a latent, told what it has to know: one of one's own may take the latent alone.

    The size is left out where the latent tells it, and the context where it has no mask.
    """
    told: dict[str, Any] = {}
    if size is not None and tuple(size) != tuple(side * decoder.factor for side in latent.shape[-2:]):
        told["size"] = tuple(size)
    if keep is not None:
        told["keep"] = keep
    if context.mask is not None:
        told["context"] = context
    return decoder(latent, **told)
