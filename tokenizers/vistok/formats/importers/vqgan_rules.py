"""Parts that the convolutional families share: the rules of VQGAN's networks, and the networks for given tensors."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.formats.importers.key_map import Rule, under
from vistok.quantizers import Quantizer
from vistok.tokenizer import Tokenizer

MAX_LEVELS = 32  # each level doubles the pixels of a position

Shapes = Mapping[str, tuple[int, ...]]

ENDS = {"conv_in": "conv_in", "norm_out": "norm_out", "conv_out": "conv_out"}
MAPS = (
    Rule("quant_conv.{p}", "to_latent.{p}"),
    Rule("post_quant_conv.{p}", "from_latent.{p}"),
)
TABLE = Rule("quantize.embedding.weight", "quantizer.table")


def residual(theirs: str, ours: str, shortcut: str = "nin_shortcut") -> list[Rule]:
    """Rules of a residual block."""
    layers = {name: name for name in ("norm1", "conv1", "norm2", "conv2")}
    return under(theirs, ours, {**layers, shortcut: "shortcut"})


def attention(theirs: str, ours: str) -> list[Rule]:
    """Rules of a self-attention block."""
    return under(theirs, ours, {"norm": "norm", "q": "q", "k": "k", "v": "v", "proj_out": "out"})


def fused_attention(theirs: str, ours: str) -> list[Rule]:
    """Rules of a self-attention block that has one convolution for queries, keys and values."""
    parts = [Rule(f"{theirs}.qkv.{{p}}#{k}", f"{ours}.{name}.{{p}}") for k, name in enumerate("qkv")]
    return [*under(theirs, ours, {"norm": "norm", "proj_out": "out"}), *parts]


def middle(
    theirs: str,
    ours: str,
    places: Sequence[str] = ("block_1", "attn_1", "block_2"),
    attend: Callable[[str, str], list[Rule]] = attention,
) -> list[Rule]:
    """Rules of a middle part: residual, attention, residual."""
    first, between, last = (f"{theirs}.{place}" for place in places)
    return [*residual(first, f"{ours}.0"), *attend(between, f"{ours}.1"), *residual(last, f"{ours}.2")]


def level(
    theirs: str,
    ours: str,
    block: str = "block",
    resample: str = "downsample.conv",
    attend: Callable[[str, str], list[Rule]] = attention,
) -> list[Rule]:
    """Rules of a level's blocks, attentions and change of resolution."""
    blocks = residual(f"{theirs}.{block}.{{j}}", f"{ours}.blocks.{{j}}")
    attentions = attend(f"{theirs}.attn.{{j}}", f"{ours}.attentions.{{j}}")
    return [*blocks, *attentions, *under(theirs, ours, {resample: "resample.conv"})]


def networks(attend: Callable[[str, str], list[Rule]] = attention) -> list[Rule]:
    """Rules of encoder, decoder and the maps around the head under taming-transformers' names."""
    return [
        *under("encoder", "encoder", ENDS),
        *level("encoder.down.{i}", "encoder.levels.{i}", attend=attend),
        *middle("encoder.mid", "encoder.mid", attend=attend),
        *under("decoder", "decoder", ENDS),
        *middle("decoder.mid", "decoder.mid", attend=attend),
        *level("decoder.up.{i}", "decoder.levels.{~i}", resample="upsample.conv", attend=attend),
        *MAPS,
    ]


def shape(shapes: Shapes, name: str, ndim: int) -> tuple[int, ...]:
    """Shape of one of our tensors.

    Raises:
        ValueError: The tensor does not exist, or has another number of dimensions, or an empty one.
    """
    if name not in shapes:
        raise ValueError(f"it has no tensor for our {name}")
    if len(shapes[name]) != ndim or 0 in shapes[name]:
        raise ValueError(f"our {name} cannot have the sizes {list(shapes[name])}")
    return tuple(shapes[name])


def count(shapes: Shapes, prefix: str) -> int:
    """Number of consecutive numbers 0, 1, ... that follow ``prefix``.

    Raises:
        ValueError: A number is missing, or there is none.
    """
    found = {int(match[1]) for name in shapes if (match := re.match(rf"{re.escape(prefix)}(\d{{1,5}})\.", name))}
    if not found or found != set(range(len(found))):
        raise ValueError(f"our {prefix}* cannot be numbered {sorted(found)[:10]}")
    return len(found)


def widths(shapes: Shapes, prefix: str) -> list[int]:
    """Channels of each level.

    Raises:
        ValueError: There are more than 32 levels.
    """
    levels = count(shapes, prefix)
    if levels > MAX_LEVELS:
        raise ValueError(f"it has {levels:,} levels, more than {MAX_LEVELS}")
    return [shape(shapes, f"{prefix}{i}.blocks.0.conv1.weight", 4)[0] for i in range(levels)]


def path_down(shapes: Shapes, prefix: str = "encoder.") -> dict[str, Any]:
    """Arguments of an encoder with VQGAN's levels.

    Raises:
        ValueError: A level's width is not a multiple of the first convolution's.
    """
    channels = shape(shapes, f"{prefix}conv_in.weight", 4)[0]
    wide = widths(shapes, f"{prefix}levels.")
    if any(width % channels for width in wide):
        raise ValueError(
            f"its levels have {wide} channels, which are not multiples of the {channels} of the first convolution"
        )
    return {
        "channels": channels,
        "multipliers": [width // channels for width in wide],
        "num_blocks": count(shapes, f"{prefix}levels.0.blocks."),
        "in_channels": image_channels(shape(shapes, f"{prefix}conv_in.weight", 4)[1]),
    }


def image_channels(channels: int) -> int:
    """Number of channels of images; refuses networks whose input channels are squares of pixels.

    Raises:
        ValueError: There are more than 4 channels. No published model has them, and they do not determine the square.
    """
    if channels > 4:
        raise ValueError(f"its images would have {channels} channels; no layout has squares of pixels as channels")
    return channels


def attended(shapes: Shapes, prefix: str) -> list[int]:
    """Levels that have attention, by their number in the file."""
    return [i for i in range(count(shapes, prefix)) if f"{prefix}{i}.attentions.0.q.weight" in shapes]


def encoder(shapes: Shapes, norm_groups: int = 32, halvings: int | None = None) -> CNNEncoder:
    """Encoder for tensors with our names."""
    return CNNEncoder(
        **path_down(shapes),
        attention=attended(shapes, "encoder.levels."),
        dim=shape(shapes, "encoder.conv_out.weight", 4)[0],
        mid_attention="encoder.mid.1.q.weight" in shapes,
        norm_groups=norm_groups,
        halvings=halvings,
    )


def decoder(shapes: Shapes, prefix: str = "decoder.", norm_groups: int = 32, halvings: int | None = None) -> CNNDecoder:
    """Decoder for tensors with our names."""
    wide = widths(shapes, f"{prefix}levels.")[::-1]
    channels = math.gcd(*wide)
    return CNNDecoder(
        channels=channels,
        multipliers=[width // channels for width in wide],
        num_blocks=count(shapes, f"{prefix}levels.0.blocks.") - 1,
        attention=sorted(len(wide) - 1 - i for i in attended(shapes, f"{prefix}levels.")),
        dim=shape(shapes, f"{prefix}conv_in.weight", 4)[1],
        out_channels=image_channels(shape(shapes, f"{prefix}conv_out.weight", 4)[0]),
        mid_attention=f"{prefix}mid.1.q.weight" in shapes,
        norm_groups=norm_groups,
        halvings=halvings,
    )


def conv(shapes: Shapes, name: str, groups: int = 1) -> nn.Conv2d:
    """Convolution with a bias that keeps the grid, with the shape in the file."""
    width, before, side, _ = shape(shapes, f"{name}.weight", 4)
    return nn.Conv2d(before * groups, width, side, padding=side // 2, groups=groups)


def tokenizer(shapes: Shapes, head: Quantizer) -> Tokenizer:
    """Tokenizer of VQGAN's networks with convolutions around a head, for tensors with our names."""
    return Tokenizer(encoder(shapes), head, decoder(shapes), conv(shapes, "to_latent"), conv(shapes, "from_latent"))
