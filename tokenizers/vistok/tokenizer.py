"""Tokenizer: encoder, quantization head and decoder, with the maps between them."""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from math import prod
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from vistok.backbones.interface import Decoder, Encoder, decode
from vistok.backbones.proxy_pixels import ProxyPixels
from vistok.images.input_checks import check_device, check_range, check_shape, check_size, check_type
from vistok.images.padding import padded
from vistok.images.ranges import LogitLaplaceMap, PixelMap
from vistok.pretrained import tensor_hash
from vistok.quantizers.base import Codes, Context, Quantized, Quantizer
from vistok.structure import brief, tree
from vistok.tiles import Tiles

BLACK = -1.0  # value of a hidden pixel
PADDINGS = 16  # sizes of each side that ``padded_size`` tries


class Autoencoded(NamedTuple):
    """Result of a tokenizer's ``forward``.

    Attributes:
        reconstruction: (b, c, H, W), unclamped.
        quantized: Result of the head: codes, codewords, losses and statistics.
    """

    reconstruction: Tensor
    quantized: Quantized


class Tokenizer(nn.Module):
    """Maps images to codes and back.

    Args:
        encoder: Encoder of images (b, c, H, W) to (b, encoder.dim, h, w); has ``factor`` (pixels along each side of a
            latent position) and ``dim``. A hierarchical encoder returns a tuple of such maps, coarsest first: the last
            one is quantized, and the head gets the others in ``context.maps``.
        quantizer: The quantization head.
        decoder: Decoder of (b, decoder.dim, h, w) to images; has ``dim`` and ``last_layer``.
        to_latent: Convolution from ``encoder.dim`` to ``quantizer.dim`` channels (VQGAN's quant_conv); None where they
            are equal.
        from_latent: Convolution from ``quantizer.dim`` to ``decoder.dim`` channels (post_quant_conv); None where they
            are equal.
        pixels: Pixel range of encoder and decoder; images are in [-1, 1] everywhere else.
        value_range: Values in the files of the training images that are -1 and 1; None for 0 and the largest value of
            the files' type. Readers of images use it, the networks do not.

    ``to(torch.bfloat16)`` converts the networks to bfloat16, and their images are then bfloat16 too. The head always
    computes in float32.
    """

    def __init__(
        self,
        encoder: Encoder,
        quantizer: Quantizer,
        decoder: Decoder,
        to_latent: nn.Conv2d | None = None,
        from_latent: nn.Conv2d | None = None,
        pixels: PixelMap | LogitLaplaceMap | ProxyPixels = PixelMap(),
        value_range: Sequence[float] | None = None,
    ):
        super().__init__()
        into = quantizer.input_dim or quantizer.dim
        if value_range is not None and (len(value_range) != 2 or not value_range[0] < value_range[1]):
            raise ValueError(f"value_range must be two rising numbers, not {value_range}")
        _check_widths("to_latent", to_latent, "encoder.dim", encoder.dim, "quantizer.dim", into)
        _check_widths("from_latent", from_latent, "quantizer.dim", quantizer.dim, "decoder.dim", decoder.dim)
        tokens = [getattr(part, "num_tokens", None) for part in (encoder, decoder)]  # a user's network may have none
        if tokens[0] != tokens[1]:
            gives, reads = ("a grid" if n is None else f"{n} tokens in a row" for n in tokens)
            raise ValueError(f"the encoder gives {gives}, but the decoder reads {reads}")
        if encoder.factor != decoder.factor:
            raise ValueError(f"the encoder shrinks by {encoder.factor}, but the decoder enlarges by {decoder.factor}")
        self.encoder = encoder
        self.to_latent = nn.Identity() if to_latent is None else to_latent
        self.quantizer = quantizer
        self.from_latent = nn.Identity() if from_latent is None else from_latent
        self.decoder = decoder
        self.pixels = pixels
        self.value_range = None if value_range is None else (float(value_range[0]), float(value_range[1]))

    @property
    def channels(self) -> int:
        """Channels of the images; 3 for a user's encoder that does not say it."""
        return getattr(self.encoder, "in_channels", 3)

    @property
    def factor(self) -> int:
        """Pixels along each side of a latent position."""
        return self.encoder.factor

    @property
    def num_tokens(self) -> int | None:
        """Number of 1-D tokens of an image, which have no places in it; None for a grid."""
        return getattr(self.encoder, "num_tokens", None)

    @property
    def only_size(self) -> tuple[int, int] | None:
        """The one size (H, W) of images in pixels that is accepted; None if there are several."""
        if self.num_tokens is not None:
            side = cast(int, self.encoder.image_size)
            return side, side
        only = self.quantizer.fixed_grid
        return None if only is None else (only[0] * self.factor, only[1] * self.factor)

    def grid(self, height: int, width: int, name: str | None = None) -> tuple[int, int]:
        """Grid (h, w) of the latent of images of a given size.

        Args:
            height: Height of the images in pixels.
            width: Width of the images in pixels.
            name: The user's option for the size, for the message.

        Raises:
            ValueError: Encoder or head do not accept images of this size.
        """
        own = f"image size {height}x{width}"
        try:
            # A user's encoder may have only ``factor``.
            h, w = getattr(self.encoder, "grid", partial(Encoder.grid, self.encoder))(height, width)
            multiple = self.quantizer.grid_multiple
            if h % multiple or w % multiple:
                raise ValueError(
                    f"{own} gives a latent of {h}x{w}, but this {type(self.quantizer).__name__} needs multiples of "
                    f"{multiple}"
                )
            only = self.quantizer.fixed_grid
            if only is not None and (h, w) != only:
                raise ValueError(
                    f"{own} gives a latent of {h}x{w}, but this {type(self.quantizer).__name__} accepts only "
                    f"{only[0]}x{only[1]}"
                )
        except ValueError as error:
            if name is None:
                raise
            text = str(error)
            text = text.removeprefix(own) if text.startswith(own) else f": {text}"
            raise ValueError(f"{name}{text}") from error
        return h, w

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Size (H, W) that ``reconstruct`` pads images to: the smallest from theirs that encoder and head accept.

        Raises:
            ValueError: None of the next sizes is accepted.
        """
        unit = self.factor * self.quantizer.grid_multiple
        heights, widths = ([unit * (-(-side // unit) + i) for i in range(PADDINGS)] for side in (height, width))
        refusals = []
        for size in [(height, width), *sorted(product(heights, widths), key=prod)]:
            try:
                self.grid(*size)
                return size
            except ValueError as error:
                refusals.append(error)  # first of the size itself, then of the smallest padded one
        raise ValueError(
            f"images of {height}x{width} cannot be padded to a size that the tokenizer accepts: {refusals[1]}"
        )

    def forward(self, images: Tensor, rate: float | Tensor | None = None, context: Context = Context()) -> Autoencoded:
        """Maps images (b, c, H, W) in [-1, 1] to their reconstruction and codes, with gradients."""
        quantized = self.quantize(images, rate, context)
        height, width = images.shape[-2:]
        context = context._replace(images=images)
        return Autoencoded(self.decode(quantized.latent, (height, width), quantized.keep, context), quantized)

    def quantize(self, images: Tensor, rate: float | Tensor | None = None, context: Context = Context()) -> Quantized:
        """Maps images (b, c, H, W) in [-1, 1] to the full result of the head.

        Args:
            images: The images.
            rate: Share of regions in [0, 1] that get fine codes, for a dynamic head: one number, or (b,) for each
                image.
            context: Further inputs of the head; images, the encoder's maps and the rate are filled in.
        """
        return self.quantizer(*self._head_inputs(images, context if rate is None else context._replace(rate=rate)))

    def encode(self, images: Tensor) -> Tensor:
        """Maps images (b, c, H, W) in [-1, 1] to the latent (b, d, h, w) before quantization, the finest of several."""
        return self._maps(images)[-1]

    def _head_inputs(self, images: Tensor, context: Context) -> tuple[Tensor, Context]:
        """Inputs of the head: the latent, and the context with the images and the encoder's coarser maps."""
        if isinstance(context.rate, float | int):
            context = context._replace(rate=torch.full((len(images),), float(context.rate)))
        *coarser, latent = self._maps(images)
        return latent, context._replace(images=images, maps=tuple(coarser) or None)

    def _maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """All maps of the encoder, coarsest first, in the channels of the latent."""
        self._check_shape(images)
        check_type(images, _device(self.encoder, images))
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
        """Maps a quantized latent (b, d, h, w) to unclamped images (b, c, H, W). Arguments: see ``decoder_output``."""
        return self.pixels.out(self.decoder_output(latent, size, keep, context))

    def decoder_output(
        self,
        latent: Tensor,
        size: tuple[int, int] | None = None,
        keep: Tensor | None = None,
        context: Context = Context(),
    ) -> Tensor:
        """Output of the decoder for a quantized latent (b, d, h, w), which ``pixels.out`` maps to images.

        Args:
            latent: The latent.
            size: Size (H, W) of the images in pixels; None where the latent determines it.
            keep: (b, h, w) bool, positions that were emitted.
            context: Further inputs of the decoder, such as a mask. Of the images in it the decoder sees the pixels that
                the mask says are known; the others are black.
        """
        latent = self.from_latent(latent.to(_dtype(self.decoder, latent)))
        return decode(self.decoder, latent, size, keep, self._visible(context))

    def _visible(self, context: Context) -> Context:
        """Context whose images are on the network's scale and black where the mask says that pixels are not known."""
        if context.mask is None or context.images is None:
            return context
        if context.mask.shape[-2:] != context.images.shape[-2:]:
            sizes = [f"{own.shape[-2]}x{own.shape[-1]}" for own in (context.mask, context.images)]
            raise ValueError(f"the context's mask of {sizes[0]} is not of the size of its images, {sizes[1]}")
        return context._replace(images=self.pixels.into(torch.where(context.mask.bool(), context.images, BLACK)))

    @torch.no_grad()
    def to_codes(self, images: Tensor, context: Context = Context()) -> Codes:
        """Maps images (b, c, H, W) in [-1, 1] to codes and, for a dynamic head, ``keep``; computes no loss.

        Args:
            images: The images.
            context: Further inputs of the head; images and the encoder's maps are filled in.
        """
        return self.quantizer.encode(*self._head_inputs(images, context))

    @torch.no_grad()
    def reconstruct(
        self, images: Tensor, context: Context = Context(), tile: int | None = None, overlap: int | None = None
    ) -> tuple[Tensor, Codes]:
        """Maps images (b, c, H, W) in [-1, 1] to unclamped reconstructions from their codes alone, and these codes.

        Images of a size that the tokenizer does not accept are padded to ``padded_size`` by repeating their last column
        and row; the codes are those of the padded images, and the reconstructions are cropped back.

        Args:
            images: The images.
            context: Further inputs of head and decoder; images and the encoder's maps are filled in.
            tile: Side in pixels of the windows that pass the networks, for large images; None for the full image.
            overlap: Pixels that a window has beside its own part, at each side; None for that of ``tiles.Tiles``.

        Raises:
            ValueError: No size that they can be padded to is accepted, or tiles do not fit the tokenizer.
        """
        self._check_shape(images)
        check_range(images)
        if tile is not None:
            found = Tiles(self, tile, overlap).reconstruct(images, context)
            return found.images, Codes(found.codes)
        height, width = images.shape[-2:]
        size = self.padded_size(height, width)
        if context.mask is not None:
            context = context._replace(images=padded(images, size), mask=padded(context.mask, size))
        emitted = self.to_codes(padded(images, size), context)
        full = self.decode(self.lookup(emitted.codes, size, emitted.keep), size, emitted.keep, context)
        return full[..., :height, :width], emitted

    @torch.no_grad()
    def tokenize(
        self, images: Tensor, context: Context = Context(), tile: int | None = None, overlap: int | None = None
    ) -> Tensor:
        """Maps images (b, c, H, W) in [-1, 1] to codes (b, k, h, w) int64.

        Codes of a dynamic head do not determine the granularity of regions; ``to_codes`` also returns ``keep``, which
        does. Images in tiles may have any size. Arguments: see ``reconstruct``.
        """
        self._check_shape(images)
        check_range(images)
        if tile is not None:
            return Tiles(self, tile, overlap).tokenize(images, context)
        return self.to_codes(images, context).codes

    @torch.no_grad()
    def detokenize(
        self,
        codes: Tensor,
        size: tuple[int, int] | None = None,
        keep: Tensor | None = None,
        context: Context = Context(),
        tile: int | None = None,
        overlap: int | None = None,
    ) -> Tensor:
        """Maps codes (b, k, *positions) to images (b, c, H, W), clamped to [-1, 1].

        Args:
            codes: Codes of any integer type. For a head of several depths or scales the first ones suffice.
            size: Size (H, W) of the images in pixels; needed where positions do not determine the grid.
            keep: (b, *positions) bool, positions that were emitted.
            context: Further inputs of the decoder.
            tile: Side in pixels of the windows that pass the decoder, as in ``reconstruct``; None for the full image.
            overlap: Pixels that a window has beside its own part, at each side.
        """
        if tile is not None:
            return Tiles(self, tile, overlap).detokenize(torch.as_tensor(codes), context)[0].clamp(-1, 1)
        return self.decode(self.lookup(codes, size, keep), size, keep, context).clamp(-1, 1)

    def lookup(self, codes: Tensor, size: tuple[int, int] | None = None, keep: Tensor | None = None) -> Tensor:
        """Maps codes (b, k, *positions) to the quantized latent (b, d, h, w). Arguments as for ``detokenize``."""
        codes = torch.as_tensor(codes)
        check_device("codes", codes, _device(self.decoder, codes))
        if size is None:
            return self.quantizer.lookup(codes, None, keep)
        check_size(size)
        layout = self.quantizer.layout(*self.grid(*size))
        checked = len(layout.grids) == 1 and codes.ndim == 4 and not torch.compiler.is_compiling()
        if checked and codes.shape[2:] != layout.positions:
            (h, w), wanted = codes.shape[2:], layout.positions
            raise ValueError(
                f"codes have {h}x{w} positions, but images of {size[0]}x{size[1]} have {wanted[0]}x{wanted[1]}"
            )
        return self.quantizer.lookup(codes, layout, keep)

    def _check_shape(self, images: Tensor) -> None:
        check_shape(images, getattr(self.encoder, "in_channels", None))  # a user's encoder need not say it

    @torch.no_grad()
    def fold(self) -> "Tokenizer":
        """Tokenizer for inference: it shares the networks, and its head is folded into a plain table."""
        return Tokenizer(
            self.encoder,
            self.quantizer.for_inference(),
            self.decoder,
            None if isinstance(self.to_latent, nn.Identity) else self.to_latent,
            None if isinstance(self.from_latent, nn.Identity) else self.from_latent,
            self.pixels,
            self.value_range,
        ).train(self.training)

    def tree(self) -> str:
        """Every layer with its settings, where ``print`` shows the parts alone."""
        return tree(self)

    def extra_repr(self) -> str:
        channels = f"{self.channels} channel{'s' * (self.channels > 1)}"
        pixels = () if self.pixels == PixelMap() else (f"pixels={self.pixels}",)
        values = () if self.value_range is None else (f"value_range={self.value_range}",)
        return ", ".join((channels, f"factor {self.factor}", *pixels, *values))

    def __repr__(self) -> str:
        parts = {name: part for name, part in self.named_children() if not isinstance(part, nn.Identity)}
        short = {name: repr(part) if name == "quantizer" else brief(part) for name, part in parts.items()}
        return brief(self, [f"({name}): {text}" for name, text in short.items()])


def fingerprint(tokenizer: Tokenizer, beside: Mapping[str, Tensor] | None = None) -> str:
    """SHA-256 of the pixel range and of the weights in evaluation: names, dtypes, shapes and values.

    Equal on every device, and for a tokenizer and its export: a head with a learned map is folded, on the CPU. Names of
    classes and their arguments are left out: a later version may add some, and files that hold the hash stay readable.

    Args:
        tokenizer: The tokenizer.
        beside: Further tensors, by name.
    """
    head = copy.deepcopy(tokenizer.quantizer).cpu().for_inference()
    tensors = {name: own for name, own in tokenizer.state_dict().items() if not name.startswith("quantizer.")}
    tensors |= {f"quantizer.{name}": own for name, own in head.state_dict().items()} | dict(beside or {})
    return tensor_hash(tensors, repr(tokenizer.pixels))


def _dtype(network: nn.Module, fallback: Tensor) -> torch.dtype:
    """Dtype of a network's weights, which is that of its inputs; that of ``fallback`` for a network without weights."""
    return next((weight.dtype for weight in network.parameters() if weight.is_floating_point()), fallback.dtype)


def _device(network: nn.Module, fallback: Tensor) -> torch.device:
    """Device of a network's weights; that of ``fallback`` for a network without weights."""
    return next((weight.device for weight in network.parameters()), fallback.device)


def _check_widths(name: str, conv: nn.Conv2d | None, before: str, d_before: int, after: str, d_after: int) -> None:
    if conv is None and d_before != d_after:
        raise ValueError(f"{before} is {d_before} but {after} is {d_after}: {name} must map one to the other")
    if conv is not None and (conv.in_channels, conv.out_channels) != (d_before, d_after):
        raise ValueError(
            f"{name} maps {conv.in_channels} to {conv.out_channels} channels, "
            f"but {before} is {d_before} and {after} is {d_after}"
        )
