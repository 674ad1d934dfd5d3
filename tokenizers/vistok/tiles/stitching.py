"""A tokenizer on images that are too large for its networks: tile by tile, each with some surroundings.

The codes of an image come from windows of pixels, each code from the window whose edges are far away. The image comes
from windows of these codes, blended where they overlap. The networks see one window at a time, so memory does not grow
with the image, but for the image itself and its reconstruction.

Networks of convolutions alone, with an overlap of at least their reach, give the result of the full image. Norms over
all positions and attention see the window instead of the image; ``Seams`` says by how much neighbouring tiles differ.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from vistok.backbones import noise
from vistok.images.padding import padded
from vistok.images.ranges import to_float
from vistok.quantizers.base import Context, Quantizer
from vistok.tiles.reach import decoder_reach, encoder_reach
from vistok.tiles.seams import SeamDifferences, Seams, paste
from vistok.tiles.spans import Span, spans

if TYPE_CHECKING:
    from vistok.tokenizer import Tokenizer


class Tiled(NamedTuple):
    """Result of a reconstruction in tiles.

    Attributes:
        images: (b, c, H, W) float32, unclamped.
        codes: (b, k, h, w) int64, codes of the padded images.
        seams: Differences where tiles overlap.
    """

    images: Tensor
    codes: Tensor
    seams: Seams


class Tiles:
    """Windows in which a tokenizer maps images of any size to codes and back.

    Args:
        tokenizer: The tokenizer. Its networks may be on another device than the images.
        tile: Side in pixels of the windows that pass the networks, rounded down to a multiple of the factor.
        overlap: Pixels of a window beside the part that is kept of it, at each side; rounded up to a multiple of the
            factor. None is the reach of the networks plus one position, at most a quarter of the tile, or an eighth of
            the tile if they have no bounded reach.
        argument: The user's name of ``tile``, for messages.

    Attributes:
        exact: True if the overlap is at least the reach of both networks, so that tiles change nothing.
        reach: Pixels over which outputs depend on inputs, of encoder and decoder; infinite with norms over all
            positions, with attention, and where it is half of the tile or more.

    Raises:
        ValueError: The tile is too small, the overlap too large, or the head needs the full image.
    """

    def __init__(self, tokenizer: "Tokenizer", tile: int, overlap: int | None = None, argument: str = "tile"):
        self.tokenizer, head, given = tokenizer, tokenizer.quantizer, f"{argument}={tile}"
        refuse_global(head, given)
        f, unit = tokenizer.factor, tokenizer.factor * head.grid_multiple
        self.unit = head.grid_multiple  # of the windows, in positions
        self.window = tile // unit * self.unit
        if self.window < 1:
            raise ValueError(f"{given} must be at least {unit} pixels")
        side = self.window * f
        if tokenizer.grid(side, side, given) != (self.window, self.window):
            raise ValueError(f"{given}: the tokens of a {type(tokenizer.encoder).__name__} do not form a grid")
        most = (self.window - 1) // 2
        reaches = [encoder_reach(tokenizer, most), decoder_reach(tokenizer, most)]
        self.reach = tuple(f * reach for reach in reaches)
        self.margins = [
            self._margin(reach) if overlap is None else -(-overlap // unit) * self.unit for reach in reaches
        ]
        if overlap is not None and (overlap < 0 or 2 * max(self.margins) >= self.window):
            name = argument.replace("tile", "overlap")
            raise ValueError(f"{name}={overlap} must be 0 or more, and less than half of {given}")
        self.exact = all(margin >= reach for margin, reach in zip(self.margins, reaches, strict=True))
        decoder = self.margins[1]
        self.guard = int(reaches[1]) if reaches[1] <= decoder else decoder // 2  # of a tile's edges, not blended

    def _margin(self, reach: float) -> int:
        """Default overlap in positions."""
        quarter, eighth = (self.window // (part * self.unit) for part in (4, 8))
        return int(min(-(-(reach + 1) // self.unit), quarter) if reach < self.window else eighth) * self.unit

    def count(self, height: int, width: int) -> int:
        """Number of passes through encoder and decoder for an image of this size."""
        grid = self.tokenizer.grid(*self.tokenizer.padded_size(height, width))
        return sum(len(rows) * len(columns) for rows, columns in (self._spans(grid, m) for m in self.margins))

    @torch.no_grad()
    def tokenize(
        self, images: Tensor, context: Context = Context(), advance: Callable[[], object] | None = None
    ) -> Tensor:
        """Maps images (b, c, H, W) in [-1, 1], or uint8, to codes (b, k, h, w) int64, padded as by ``reconstruct``."""
        size = self.tokenizer.padded_size(*images.shape[-2:])
        rows, columns = self._spans(self.tokenizer.grid(*size), self.margins[0])
        codes = None
        for y in rows:
            for x in columns:
                part = self._pixels(images, y, x)
                mask = None if context.mask is None else self._pixels(context.mask, y, x)
                own = self.tokenizer.to_codes(to_float(part), context._replace(mask=mask)).codes.to(images.device)
                if codes is None:
                    codes = own.new_empty(*own.shape[:2], rows[-1].stop, columns[-1].stop)
                kept = own[..., y.first - y.start : y.last - y.start, x.first - x.start : x.last - x.start]
                codes[..., y.first : y.last, x.first : x.last] = kept
                if advance:
                    advance()
        assert codes is not None
        return codes

    @torch.no_grad()
    def detokenize(
        self, codes: Tensor, context: Context = Context(), advance: Callable[[], object] | None = None
    ) -> tuple[Tensor, Seams]:
        """Maps codes (b, k, h, w) to unclamped images (b, c, H, W) float32, on the device of the codes."""
        f, grid = self.tokenizer.factor, (codes.shape[2], codes.shape[3])
        rows, columns = self._spans(grid, self.margins[1])
        context, found = self._with_noise(context, len(codes), grid), SeamDifferences()
        images = torch.empty(0)
        for y, above in zip(rows, [None, *rows], strict=False):
            strip = torch.empty(0)
            for x, left in zip(columns, [None, *columns], strict=False):
                own = self._decoded(codes, context, y, x).to(codes.device, torch.float32)
                if left is None:
                    strip = own.new_empty(*own.shape[:3], grid[1] * f)
                paste(strip, own, 3, x.start * f, self._seam(left, x), found)
                if advance:
                    advance()
            if above is None:
                images = strip.new_empty(*strip.shape[:2], grid[0] * f, grid[1] * f)
            paste(images, strip, 2, y.start * f, self._seam(above, y), found)
        return images, found.result()

    def reconstruct(
        self, images: Tensor, context: Context = Context(), advance: Callable[[], object] | None = None
    ) -> Tiled:
        """Maps images (b, c, H, W) in [-1, 1], or uint8, to reconstructions from their codes, on their own device.

        Args:
            images: Images of any size, padded as by ``Tokenizer.reconstruct``.
            context: Further inputs of head and decoder, for the full image.
            advance: Called after each of ``count`` passes.
        """
        height, width = images.shape[-2:]
        codes = self.tokenize(images, context, advance)
        if context.mask is not None:
            size = (codes.shape[2] * self.tokenizer.factor, codes.shape[3] * self.tokenizer.factor)
            context = context._replace(mask=padded(context.mask, size))
        found, seams = self.detokenize(codes, context, advance)
        return Tiled(found[..., :height, :width], codes, seams)

    def _spans(self, grid: tuple[int, int], margin: int) -> tuple[list[Span], list[Span]]:
        """Windows on both axes of a grid, in positions."""
        units = (spans(side // self.unit, self.window // self.unit, margin // self.unit) for side in grid)
        rows, columns = ([Span(*(self.unit * end for end in span)) for span in axis] for axis in units)
        return rows, columns

    def _pixels(self, images: Tensor, y: Span, x: Span) -> Tensor:
        """Pixels of a window, on the tokenizer's device; beyond the image its last row and column."""
        f, (height, width) = self.tokenizer.factor, images.shape[-2:]
        part = images[..., min(f * y.start, height - 1) : f * y.stop, min(f * x.start, width - 1) : f * x.stop]
        return padded(part.to(self._device), (f * (y.stop - y.start), f * (x.stop - x.start)))

    def _decoded(self, codes: Tensor, context: Context, y: Span, x: Span) -> Tensor:
        """Image of a window of codes."""
        tokenizer, f = self.tokenizer, self.tokenizer.factor
        part = codes[..., y.start : y.stop, x.start : x.stop].to(self._device)
        own = context
        if context.mask is not None:
            own = own._replace(mask=self._pixels(context.mask, y, x))
        if isinstance(context.noise, Tensor):
            own = own._replace(noise=context.noise[..., y.start : y.stop, x.start : x.stop])
        size = (f * (y.stop - y.start), f * (x.stop - x.start))
        return tokenizer.decode(tokenizer.lookup(part, size), size, None, own)

    def _with_noise(self, context: Context, count: int, grid: tuple[int, int]) -> Context:
        """Context with the noise of the full latent, for a generative decoder."""
        decoder = self.tokenizer.decoder
        if "noise" not in getattr(decoder, "context_fields", ()):  # a user's decoder may have none
            return context
        latent = torch.empty(count, decoder.dim, *grid)
        return context._replace(noise=noise.drawn(latent, context.noise, self.tokenizer.training))

    def _seam(self, before: Span | None, own: Span) -> tuple[int, int]:
        """Pixels from which to which the image changes from one window to the next; equal for no transition."""
        first, last = own.start + self.guard, own.start
        if before is not None:
            last = before.stop - self.guard
        if before is None or first >= last:
            first = last = own.first
        return first * self.tokenizer.factor, last * self.tokenizer.factor

    @property
    def _device(self) -> torch.device:
        return next(iter(self.tokenizer.parameters())).device


def refuse_global(head: Quantizer, option: str, consequence: str = "it takes no tiles") -> None:
    """Refuses a head whose codes at a position do not depend on the latent at this position alone.

    Args:
        head: The head.
        option: The user's option and its value, for the message.
        consequence: What follows for the user, for the message.

    Raises:
        ValueError: The message names the user's option and the head.
    """
    layout = head.layout(*head.example_grid)
    if layout.granularities > 1:
        reason = "chooses granularities from the full image"
    elif len(layout.grids) > 1:
        reason = "has scales of the full image"
    elif head.fixed_grid or layout.positions != head.example_grid:
        reason = "has tokens for images of one size, not for each place"
    elif head.context_fields:
        reason = f"reads {' and '.join(sorted(head.context_fields))} beside the latent"
    else:
        return
    raise ValueError(f"{option}: a {type(head).__name__} {reason}, so {consequence}")
