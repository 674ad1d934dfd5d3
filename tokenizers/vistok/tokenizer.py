"""The tokenizer: encoder, quantization head and decoder, with the maps between them."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vistok.backbones.interface import Decoder, Encoder, decode
from vistok.images.ranges import LogitLaplaceMap, PixelMap
from vistok.quantizers.base import Codes, Context, Quantized, Quantizer


class Autoencoded(NamedTuple):
    """What a tokenizer's forward returns."""

    reconstruction: Tensor  # (b, c, H, W), unclamped
    quantized: Quantized


class Tokenizer(nn.Module):
    """Images to codes and back.

    Args:
        encoder: Images (b, c, H, W) to (b, encoder.dim, h, w); has ``factor`` (pixels of a latent's side) and ``dim``.
            A hierarchical one gives a tuple of such maps, the coarsest first: the last one is quantized, and the head
            gets the others in ``context.maps``.
        quantizer: The quantization head.
        decoder: (b, decoder.dim, h, w) to images; has ``dim`` and ``last_layer``.
        to_latent: From ``encoder.dim`` to ``quantizer.dim`` channels (VQGAN's quant_conv); None where they agree.
        from_latent: From ``quantizer.dim`` to ``decoder.dim`` channels (post_quant_conv); None where they agree.
        pixels: The pixel range of encoder and decoder; images are in [-1, 1] everywhere else.

    ``to(torch.bfloat16)`` gives networks in bfloat16, whose images are too. The head computes in float32 as always.
    """

    def __init__(
        self,
        encoder: Encoder,
        quantizer: Quantizer,
        decoder: Decoder,
        to_latent: nn.Conv2d | None = None,
        from_latent: nn.Conv2d | None = None,
        pixels: PixelMap | LogitLaplaceMap = PixelMap(),
    ):
        super().__init__()
        into = quantizer.input_dim or quantizer.dim
        _check_widths("to_latent", to_latent, "encoder.dim", encoder.dim, "quantizer.dim", into)
        _check_widths("from_latent", from_latent, "quantizer.dim", quantizer.dim, "decoder.dim", decoder.dim)
        if encoder.factor != decoder.factor:
            raise ValueError(f"the encoder shrinks by {encoder.factor}, but the decoder enlarges by {decoder.factor}")
        self.encoder = encoder
        self.to_latent = nn.Identity() if to_latent is None else to_latent
        self.quantizer = quantizer
        self.from_latent = nn.Identity() if from_latent is None else from_latent
        self.decoder = decoder
        self.pixels = pixels

    @property
    def factor(self) -> int:
        """Pixels along each side of a latent position."""
        return self.encoder.factor

    def grid(self, height: int, width: int, name: str | None = None) -> tuple[int, int]:
        """Positions (h, w) of the latent of images of so many pixels.

        Args:
            height: Of the images.
            width: Of the images.
            name: How the user gave the size, for the message.

        Raises:
            ValueError: Encoder or head take no such images.
        """
        own = f"image size {height}x{width}"
        try:
            # An encoder of one's own may have a factor alone.
            h, w = getattr(self.encoder, "grid", partial(Encoder.grid, self.encoder))(height, width)
            multiple = self.quantizer.grid_multiple
            if h % multiple or w % multiple:
                raise ValueError(
                    f"{own} gives a latent of {h}x{w}, but this {type(self.quantizer).__name__} needs multiples of "
                    f"{multiple}"
                )
        except ValueError as error:
            if name is None:
                raise
            text = str(error)
            text = text.removeprefix(own) if text.startswith(own) else f": {text}"
            raise ValueError(f"{name}{text}") from error
        return h, w

    def forward(self, images: Tensor, rate: float | Tensor | None = None, context: Context = Context()) -> Autoencoded:
        """Images (b, c, H, W) in [-1, 1] to their reconstruction and codes, with gradients."""
        quantized = self.quantize(images, rate, context)
        height, width = images.shape[-2:]
        return Autoencoded(self.decode(quantized.latent, (height, width), quantized.keep, context), quantized)

    def quantize(self, images: Tensor, rate: float | Tensor | None = None, context: Context = Context()) -> Quantized:
        """Images (b, c, H, W) in [-1, 1] to all that the head returns.

        Args:
            images: The images.
            rate: For a dynamic head, the share of regions in [0, 1] that get fine codes: one number, or (b,) for each.
            context: What else the head may look at; images, the encoder's maps and the rate are filled in.
        """
        return self.quantizer(*self._seen(images, context if rate is None else context._replace(rate=rate)))

    def encode(self, images: Tensor) -> Tensor:
        """Images (b, c, H, W) in [-1, 1] to the latent (b, d, h, w) before quantization, the finest of several."""
        return self._maps(images)[-1]

    def _seen(self, images: Tensor, context: Context) -> tuple[Tensor, Context]:
        """The inputs of the head: the latent, and the context with the images and the encoder's coarser maps."""
        if isinstance(context.rate, float | int):
            context = context._replace(rate=torch.full((len(images),), float(context.rate)))
        *coarser, latent = self._maps(images)
        return latent, context._replace(images=images, maps=tuple(coarser) or None)

    def _maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """All maps of the encoder, coarsest first, in the channels of the latent."""
        if not images.is_floating_point():
            raise ValueError(f"images are {str(images.dtype).removeprefix('torch.')}, not floats in [-1, 1]")
        height, width = images.shape[-2:]
        self.grid(height, width)
        maps = self.encoder(self.pixels.into(images).to(_dtype(self.encoder, images)))
        return tuple(self.to_latent(m) for m in (maps if isinstance(maps, tuple) else (maps,)))

    def decode(
        self,
        latent: Tensor,
        size: tuple[int, int] | None = None,
        keep: Tensor | None = None,
        context: Context = Context(),
    ) -> Tensor:
        """A quantized latent (b, d, h, w) to images (b, c, H, W), unclamped; the rest is as for ``decoder_output``."""
        return self.pixels.out(self.decoder_output(latent, size, keep, context))

    def decoder_output(
        self,
        latent: Tensor,
        size: tuple[int, int] | None = None,
        keep: Tensor | None = None,
        context: Context = Context(),
    ) -> Tensor:
        """The decoder's output for a quantized latent (b, d, h, w), which ``pixels.out`` turns into images.

        Args:
            latent: The latent.
            size: Of the images, (H, W); left out where the latent tells it.
            keep: (b, h, w) bool, positions that were emitted.
            context: What else the decoder may look at: a mask.
        """
        return decode(self.decoder, self.from_latent(latent.to(_dtype(self.decoder, latent))), size, keep, context)

    @torch.no_grad()
    def to_codes(self, images: Tensor, context: Context = Context()) -> Codes:
        """Images (b, c, H, W) in [-1, 1] to codes and, of a dynamic head, which of them to keep; no loss is computed.

        Args:
            images: The images.
            context: What else the head may look at; images and the encoder's maps are filled in.
        """
        return self.quantizer.encode(*self._seen(images, context))

    @torch.no_grad()
    def reconstruct(self, images: Tensor, context: Context = Context()) -> tuple[Tensor, Codes]:
        """Images (b, c, H, W) in [-1, 1] to what is left of them, unclamped, by way of their codes alone."""
        emitted = self.to_codes(images, context)
        size = (images.shape[-2], images.shape[-1])
        return self.decode(self.lookup(emitted.codes, size, emitted.keep), size, emitted.keep, context), emitted

    @torch.no_grad()
    def tokenize(self, images: Tensor, context: Context = Context()) -> Tensor:
        """Images (b, c, H, W) in [-1, 1] to codes (b, k, h, w) int64.

        Of a dynamic head the codes say nothing of the grain: ``to_codes`` returns ``keep`` beside them.
        """
        return self.to_codes(images, context).codes

    @torch.no_grad()
    def detokenize(
        self,
        codes: Tensor,
        size: tuple[int, int] | None = None,
        keep: Tensor | None = None,
        context: Context = Context(),
    ) -> Tensor:
        """Codes (b, k, *positions) to images (b, c, H, W), clamped to [-1, 1].

        Args:
            codes: Of any whole numbers; of a head of several depths or scales the first ones may stand alone.
            size: Of the images, (H, W); needed where positions do not tell the grid.
            keep: (b, *positions) bool, positions that were emitted.
            context: What else the decoder may look at.
        """
        return self.decode(self.lookup(codes, size, keep), size, keep, context).clamp(-1, 1)

    def lookup(self, codes: Tensor, size: tuple[int, int] | None = None, keep: Tensor | None = None) -> Tensor:
        """Codes (b, k, *positions) to the quantized latent (b, d, h, w); the arguments are those of ``detokenize``."""
        layout = None if size is None else self.quantizer.layout(*self.grid(*size))
        return self.quantizer.lookup(torch.as_tensor(codes), layout, keep)

    @torch.no_grad()
    def fold(self) -> "Tokenizer":
        """For inference: shares the networks, with the head folded into a plain table."""
        return Tokenizer(
            self.encoder,
            self.quantizer.for_inference(),
            self.decoder,
            None if isinstance(self.to_latent, nn.Identity) else self.to_latent,
            None if isinstance(self.from_latent, nn.Identity) else self.from_latent,
            self.pixels,
        ).train(self.training)


def _dtype(network: nn.Module, like: Tensor) -> torch.dtype:
    """Of a network's weights, which is what it takes; of a tensor where it has none."""
    return next((weight.dtype for weight in network.parameters() if weight.is_floating_point()), like.dtype)


def _check_widths(name: str, conv: nn.Conv2d | None, before: str, d_before: int, after: str, d_after: int) -> None:
    if conv is None and d_before != d_after:
        raise ValueError(f"{before} is {d_before} but {after} is {d_after}: {name} must map one to the other")
    if conv is not None and (conv.in_channels, conv.out_channels) != (d_before, d_after):
        raise ValueError(
            f"{name} maps {conv.in_channels} to {conv.out_channels} channels, "
            f"but {before} is {d_before} and {after} is {d_after}"
        )
