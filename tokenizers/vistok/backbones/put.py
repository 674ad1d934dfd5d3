"""Patches without overlap, and a decoder that sees the known pixels: PUT's P-VQVAE (arXiv:2205.05076, 2404.00513).

The encoder maps each patch alone, so that hidden pixels reach no other patch. The decoder also reads the known pixels
of the image: a side encoder makes maps of every size from them, and before each level the decoder's own map is replaced
by the side encoder's where pixels are known.

Two generations were published for images of 256 pixels. A (CVPR 2022): 8 blocks in the decoder, transposed
convolutions, no blocks in levels. B (TPAMI 2024): 2 blocks, nearest neighbours and a convolution, 2 blocks in each
level. The authors' blocks start with a ReLU in place, so that the skip carries relu(x), not x; here it is written out.
"""

from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from vistok.backbones.interface import Decoder, Encoder
from vistok.quantizers.base import Context

UPSAMPLES = ("transposed", "nearest")


class RectifiedBlock(nn.Module):
    """relu(x) + conv2(relu(conv1(relu(x)))) through half the channels; the second convolution is 1x1.

    Args:
        width: Channels.
        kernel: Side of the first convolution, odd; 1 for a block that mixes no positions.
    """

    def __init__(self, width: int, kernel: int = 3):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width // 2, kernel, padding=kernel // 2)
        self.conv2 = nn.Conv2d(width // 2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return x + self.conv2(F.relu(self.conv1(x)))


class PUTEncoder(Encoder):
    """Maps images (b, in_channels, H, W) to a latent (b, dim, H / patch, W / patch), each patch alone.

    Args:
        dim: Channels of the latent.
        width: Channels of the blocks, even.
        num_blocks: Number of blocks.
        patch: Side in pixels of a patch.
        in_channels: Channels of the images.
    """

    def __init__(self, dim: int = 256, width: int = 256, num_blocks: int = 8, patch: int = 8, in_channels: int = 3):
        super().__init__()
        self.dim, self.width, self.num_blocks, self.patch, self.in_channels = dim, width, num_blocks, patch, in_channels
        self.factor = patch
        self.conv_in = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.blocks = nn.Sequential(*(RectifiedBlock(width, 1) for _ in range(num_blocks)))
        self.conv_out = nn.Conv2d(width, dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.conv_out(F.relu(self.blocks(self.conv_in(images)))))


class PUTDecoder(Decoder):
    """Maps a latent (b, dim, h, w) and the known pixels of images to images (b, out_channels, factor h, factor w).

    The context has the images, black where pixels are not known (``Tokenizer`` sees to this), and the mask of known
    pixels. Without a mask no pixel is known, and the latent alone decides. Known pixels are seen, but not copied.

    Args:
        dim: Channels of the latent.
        width: Channels of the blocks before the levels, even.
        num_blocks: Number of these blocks.
        channels: Channels at full size, even; each level down doubles them.
        num_levels: Number of levels, each of which doubles the sides.
        level_blocks: Blocks of each level, and of each level of the side encoder.
        upsample: ``transposed`` enlarges by a transposed convolution, ``nearest`` by nearest neighbours and a
            convolution.
        out_channels: Channels of the images.

    Raises:
        ValueError: ``upsample`` is unknown.
    """

    context_fields = frozenset({"mask"})

    def __init__(
        self,
        dim: int = 256,
        width: int = 256,
        num_blocks: int = 8,
        channels: int = 64,
        num_levels: int = 3,
        level_blocks: int = 0,
        upsample: Literal["transposed", "nearest"] = "transposed",
        out_channels: int = 3,
    ):
        super().__init__()
        if upsample not in UPSAMPLES:
            raise ValueError(f"upsample must be {' or '.join(UPSAMPLES)}, not {upsample!r}")
        self.dim, self.width, self.num_blocks, self.channels = dim, width, num_blocks, channels
        self.num_levels, self.level_blocks, self.upsample = num_levels, level_blocks, upsample
        self.out_channels, self.factor = out_channels, 2**num_levels

        wide = [channels << level for level in range(num_levels)]  # of each level's output, from full size down
        self.conv_in = nn.Conv2d(dim, width, 3, padding=1)
        self.blocks = nn.Sequential(*(RectifiedBlock(width) for _ in range(num_blocks)))
        up: list[nn.Module] = []
        for before, after in zip([width, *wide[:0:-1]], wide[::-1], strict=True):
            up.append(
                nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
                if upsample == "transposed"
                else nn.Conv2d(before, after, 3, padding=1)
            )
            up += [RectifiedBlock(after) for _ in range(level_blocks)]
        self.up = nn.ModuleList(up)
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)

        side: list[nn.Module] = [nn.Conv2d(out_channels, channels, 3, padding=1)]
        for before, after in zip(wide, [*wide[1:], width], strict=True):
            side += [RectifiedBlock(before) for _ in range(level_blocks)]
            side.append(nn.Conv2d(before, after, 4, stride=2, padding=1))
        self.side = nn.ModuleList(side)

    def forward(
        self,
        latent: Tensor,
        size: tuple[int, int] | None = None,
        keep: Tensor | None = None,
        context: Context = Context(),
    ) -> Tensor:
        maps = None if context.mask is None else self.side_maps(self.known_pixels(latent, context))
        x = self.blocks(self.conv_in(latent))
        for layer in self.up:
            if not isinstance(layer, RectifiedBlock):
                x = F.relu(mixed(x, maps, context.mask))
                x = F.interpolate(x, scale_factor=2.0) if self.upsample == "nearest" else x
            x = layer(x)
        return self.conv_out(F.relu(mixed(x, maps, context.mask)))

    def known_pixels(self, latent: Tensor, context: Context) -> Tensor:
        """Images (b, out_channels, H, W) of the context, black where pixels are not known.

        Raises:
            ValueError: They are missing, or images or mask have another size.
        """
        height, width = latent.shape[2] * self.factor, latent.shape[3] * self.factor
        if context.images is None:
            raise ValueError(
                "a mask says which pixels are known: give the images too, as Context(images=..., mask=...)"
            )
        for name, own, channels in (("mask", context.mask, 1), ("images", context.images, self.out_channels)):
            wanted = (len(latent), channels, height, width)
            if own is not None and own.shape != wanted:
                raise ValueError(f"the context's {name} must have the shape {wanted}, not {tuple(own.shape)}")
        return context.images.to(latent.dtype)

    def side_maps(self, visible: Tensor) -> list[Tensor]:
        """Maps of the known pixels (b, d, H, W), from full size down to that of the latent.

        A map before a block has passed the block's ReLU, as in the authors' code, where that ReLU is in place.
        """
        maps, x = [], visible
        for i, layer in enumerate(self.side):
            if isinstance(layer, RectifiedBlock):
                x = layer(x)
                continue
            x = layer(F.relu(x) if i else x)
            blocks_follow = self.level_blocks > 0 and len(maps) < self.num_levels
            maps.append(F.relu(x) if blocks_follow else x)
        return maps

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight at which the adaptive adversarial weight compares gradients."""
        return cast(nn.Parameter, self.conv_out.weight)


def mixed(x: Tensor, maps: list[Tensor] | None, known: Tensor | None) -> Tensor:
    """A map (b, d, h, w), with the smallest of the remaining side maps where pixels (b, 1, H, W) are known."""
    if maps is None or known is None:
        return x
    known = F.interpolate(known.to(x.dtype), size=x.shape[2:])
    return x * (1 - known) + maps.pop() * known
