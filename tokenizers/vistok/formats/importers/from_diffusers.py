"""Importer of diffusers' VQModel: VQGAN with decoder levels in reverse order, and with linear layers in attention."""

from collections.abc import Mapping
from typing import Any

from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.hyperparameters import Unknown, need, only
from vistok.formats.importers.key_map import Rule, linear, under
from vistok.quantizers import VectorQuantizer
from vistok.tokenizer import Tokenizer

ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "out"}
# Names before diffusers 0.15, for import only.
OLD_ATTENTION = {"query": "q", "key": "k", "value": "v", "proj_attn": "out"}
# Codewords and dimension of published models with 32 groups, whose first level has 128 channels: latent diffusion's,
# VQ-Diffusion's, aMUSEd's.
PUBLISHED = ((8192, 3), (4096, 256), (8192, 64))
ENDS = {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"}


def attention(theirs: str, ours: str) -> list[Rule]:
    """Rules of a self-attention block, whose 1x1 convolutions are linear layers in diffusers."""
    return [linear(rule) for names in (ATTENTION, OLD_ATTENTION) for rule in under(theirs, ours, names)]


def network(side: str, blocks: str, resample: str) -> list[Rule]:
    """Rules of the encoder or decoder, from the names in diffusers of its levels and of their change of resolution."""
    level, ours = f"{side}.{blocks}.{{i}}", f"{side}.levels.{{i}}"
    return [
        *under(side, side, ENDS),
        *vqgan_rules.residual(f"{level}.resnets.{{j}}", f"{ours}.blocks.{{j}}", "conv_shortcut"),
        *attention(f"{level}.attentions.{{j}}", f"{ours}.attentions.{{j}}"),
        *under(level, ours, {resample: "resample.conv"}),
        *vqgan_rules.residual(f"{side}.mid_block.resnets.0", f"{side}.mid.0", "conv_shortcut"),
        *attention(f"{side}.mid_block.attentions.0", f"{side}.mid.1"),
        *vqgan_rules.residual(f"{side}.mid_block.resnets.1", f"{side}.mid.2", "conv_shortcut"),
    ]


RULES = (
    *network("encoder", "down_blocks", "downsamplers.0.conv"),
    *network("decoder", "up_blocks", "upsamplers.0.conv"),
    *vqgan_rules.MAPS,
    vqgan_rules.TABLE,
)


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with vistok's names.

    Norms have ``norm_num_groups`` groups: 32, the default of diffusers, if ``config`` is that of a VQModel without this
    number, or if the model has the sizes of a published one.

    Raises:
        Unknown: The number of groups does not divide the channels of every norm.
        ValueError: ``config`` has another activation or norm than VQGAN's.
    """
    only(config, "act_fn", "silu")
    only(config, "norm_type", "group", None)
    size, dim = vqgan_rules.shape(shapes, "quantizer.table", 2)
    first = vqgan_rules.shape(shapes, "encoder.conv_in.weight", 4)[0]
    known = config.get("_class_name") == "VQModel" or (first == 128 and (size, dim) in PUBLISHED)
    groups = need(config, "norm_num_groups", int, 32 if known else None, ", which config.json in its folder has")
    encoder, decoder = vqgan_rules.encoder(shapes, groups), vqgan_rules.decoder(shapes, norm_groups=groups)
    widths = {*encoder.sizes.widths, *decoder.sizes.widths}
    uneven = sorted(width for width in {encoder.sizes.channels, *widths} if width % groups)
    if uneven:
        raise Unknown(
            f"norm_num_groups={groups} does not divide {uneven}, the channels of its norms: give "
            "config={'norm_num_groups': ...}"
        )
    head = VectorQuantizer(size, dim)
    return Tokenizer(
        encoder, head, decoder, vqgan_rules.conv(shapes, "to_latent"), vqgan_rules.conv(shapes, "from_latent")
    )
