"""Importer of MaskGIT's tokenizer (arXiv:2202.04200) in the layout of open-muse and 1d-tokenizer."""

import math
from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from vistok.backbones import MaskGITDecoder, MaskGITEncoder
from vistok.backbones.magvit import MagvitSizes
from vistok.formats import plain
from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.hyperparameters import only
from vistok.formats.importers.key_map import Rule, under
from vistok.formats.importers.learned_heads import as_learned
from vistok.formats.importers.published import RESOLUTION, Container, Published
from vistok.images.ranges import PixelMap
from vistok.quantizers import VectorQuantizer
from vistok.tokenizer import Tokenizer


def decoder_rules(theirs: str, ours: str) -> list[Rule]:
    """Rules of a decoder."""
    return [
        *under(theirs, ours, vqgan_rules.ENDS),
        *vqgan_rules.residual(f"{theirs}.mid.{{j}}", f"{ours}.mid.{{j}}"),
        *vqgan_rules.residual(f"{theirs}.up.{{i}}.block.{{j}}", f"{ours}.levels.{{~i}}.blocks.{{j}}"),
        Rule(f"{theirs}.up.{{i}}.upsample_conv.{{p}}", f"{ours}.levels.{{~i}}.resample.conv.{{p}}"),
    ]


RULES = (
    *under("encoder", "encoder", vqgan_rules.ENDS),
    *vqgan_rules.residual("encoder.down.{i}.block.{j}", "encoder.levels.{i}.blocks.{j}"),
    *vqgan_rules.residual("encoder.mid.{j}", "encoder.mid.{j}"),
    *decoder_rules("decoder", "decoder"),
    vqgan_rules.TABLE,
)
PIXELS = PixelMap(0.5, 0.5)


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names."""
    only(config, "dropout", 0.0, 0)
    codebook_size, own = vqgan_rules.shape(shapes, "quantizer.table", 2)
    head = VectorQuantizer(codebook_size, own)
    dim = vqgan_rules.shape(shapes, "encoder.conv_out.weight", 4)[0]
    return Tokenizer(MaskGITEncoder(**vqgan_rules.path_down(shapes), dim=dim), head, decoder(shapes), pixels=PIXELS)


def decoder(shapes: vqgan_rules.Shapes, prefix: str = "decoder.") -> MaskGITDecoder:
    """Decoder for tensors with our names."""
    wide = vqgan_rules.widths(shapes, f"{prefix}levels.")[::-1]
    channels = math.gcd(*wide)
    return MaskGITDecoder(
        channels=channels,
        multipliers=[width // channels for width in wide],
        num_blocks=vqgan_rules.count(shapes, f"{prefix}levels.0.blocks."),
        dim=vqgan_rules.shape(shapes, f"{prefix}conv_in.weight", 4)[1],
        out_channels=vqgan_rules.image_channels(vqgan_rules.shape(shapes, f"{prefix}conv_out.weight", 4)[0]),
    )


TARGET = "MaskGIT's layout"
USAGE = """
from muse import MaskGitVQGAN  # open-muse's repository

model = MaskGitVQGAN.from_pretrained("FOLDER")

from modeling.titok import PretrainedTokenizer  # 1d-tokenizer's repository, for networks of the published sizes

model = PretrainedTokenizer("FOLDER/pytorch_model.bin")
"""


def write(tokenizer: Tokenizer) -> Published:
    """MaskGIT's networks with any head that folds into one table, which the ports search by L2."""
    plain.check_kinds(tokenizer, TARGET, MaskGITEncoder, MaskGITDecoder, PIXELS)
    for name in ("to_latent", "from_latent"):
        if not isinstance(getattr(tokenizer, name), nn.Identity):
            raise plain.refuse(TARGET, f"a {name}: the head's channels must be those of both networks")
    head = as_learned(tokenizer.quantizer, TARGET, l2=True)
    own = plain.inference_copy(tokenizer, folded=False)
    own.quantizer = head
    down, up = (cast(MagvitSizes, part.sizes) for part in (own.encoder, own.decoder))
    plain.norms_of_32(own, TARGET)
    plain.same_blocks(own, TARGET)
    if up.widths != down.widths:
        raise plain.refuse(TARGET, f"levels of {down.widths} channels in the encoder, {up.widths} in the decoder")
    if own.encoder.in_channels != own.decoder.out_channels:
        raise plain.refuse(TARGET, "images of other channels at the decoder than at the encoder")
    config = {
        "resolution": RESOLUTION,
        "num_channels": own.encoder.in_channels,
        "hidden_channels": down.channels,
        "channel_mult": list(down.multipliers),
        "num_res_blocks": down.num_blocks,
        "z_channels": own.encoder.dim,
        "num_embeddings": head.codebook_size,
        "quantized_embed_dim": head.dim,
        "dropout": 0.0,
    }
    return Published(own, config)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration of open-muse's class."""
    return {"config.json": {"_class_name": "MaskGitVQGAN", **config}}


CONTAINER = Container("pytorch_model.bin", None, settings, USAGE)
