"""Importer of SimVQ's image models (arXiv:2411.02038)."""

import math
from collections.abc import Mapping
from typing import Any

from vistok.backbones import MagvitDecoder, MagvitEncoder
from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.hyperparameters import only
from vistok.formats.importers.key_map import Rule, under
from vistok.quantizers import SimVQ
from vistok.tokenizer import Tokenizer

NETWORKS = (
    *under("encoder", "encoder", vqgan_rules.ENDS),
    *vqgan_rules.residual("encoder.down.{i}.block.{j}", "encoder.levels.{i}.blocks.{j}"),
    Rule("encoder.down.{i}.downsample.{p}", "encoder.levels.{i}.resample.{p}"),
    *vqgan_rules.residual("encoder.mid_block.{j}", "encoder.mid.{j}"),
    *under("decoder", "decoder", vqgan_rules.ENDS),
    *vqgan_rules.residual("decoder.mid_block.{j}", "decoder.mid.{j}"),
    *vqgan_rules.residual("decoder.up.{i}.block.{j}", "decoder.levels.{~i}.blocks.{j}"),
    Rule("decoder.up.{i}.upsample.conv1.{p}", "decoder.levels.{~i}.resample.conv.{p}"),
)
RULES = (
    *NETWORKS,
    Rule("quantize.embedding.weight", "quantizer.basis"),
    Rule("quantize.embedding_proj.{p}", "quantizer.projection.{p}"),
)


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names; its head keeps basis and map separate, for training."""
    only(config, "l2_norm", False)
    encoder, decoder = networks(shapes)
    return Tokenizer(encoder, SimVQ(*vqgan_rules.shape(shapes, "quantizer.basis", 2)), decoder)


def networks(shapes: vqgan_rules.Shapes) -> tuple[MagvitEncoder, MagvitDecoder]:
    """Networks of SimVQ and Open-MAGVIT2 for tensors with our names; a decoder with noise has twice the channels."""
    wide = vqgan_rules.widths(shapes, "decoder.levels.")[::-1]
    channels = math.gcd(*wide)
    dim = vqgan_rules.shape(shapes, "encoder.conv_out.weight", 4)[0]
    entering = vqgan_rules.shape(shapes, "decoder.conv_in.weight", 4)[1]
    generative = entering == 2 * dim
    decoder = MagvitDecoder(
        channels=channels,
        multipliers=[width // channels for width in wide],
        num_blocks=vqgan_rules.count(shapes, "decoder.levels.0.blocks."),
        dim=dim if generative else entering,
        out_channels=vqgan_rules.image_channels(vqgan_rules.shape(shapes, "decoder.conv_out.weight", 4)[0]),
        adaptive="decoder.norms.0.gamma.weight" in shapes,
        generative=generative,
    )
    return MagvitEncoder(**vqgan_rules.path_down(shapes), dim=dim), decoder
