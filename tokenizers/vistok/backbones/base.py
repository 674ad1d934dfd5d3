"""What a tokenizer needs of an encoder and a decoder."""

from torch import nn


class Encoder(nn.Module):
    """Images (b, in_channels, H, W) to a latent (b, dim, H / factor, W / factor), or to several, the coarsest first.

    Attributes:
        factor: Pixels along each side of a position of the finest latent.
        dim: Channels of the latent, of each of several.
        in_channels: Channels of images.
    """

    factor: int
    dim: int
    in_channels: int


class Decoder(nn.Module):
    """A latent (b, dim, h, w) to images (b, out_channels, h * factor, w * factor), unbounded.

    Beside these a decoder has ``last_layer``, the weight on which the adaptive adversarial weight compares gradients.

    Attributes:
        factor: Pixels along each side of a position.
        dim: Channels of the latent.
    """

    factor: int
    dim: int
