"""Importer of SimVQ's image models (arXiv:2411.02038)."""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from vistok.backbones import MagvitDecoder, MagvitEncoder
from vistok.backbones.magvit import MagvitSizes
from vistok.formats import plain
from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.hyperparameters import only
from vistok.formats.importers.key_map import Rule, to_theirs, under
from vistok.formats.importers.learned_heads import as_learned
from vistok.formats.importers.published import RESOLUTION, Container, Published, averages
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
    codebook_size, dim = vqgan_rules.shape(shapes, "quantizer.basis", 2)
    return Tokenizer(encoder, SimVQ(codebook_size, dim), decoder)


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


TARGET = "SimVQ's layout"
BASIS = "quantize.embedding.weight"
USAGE = """
import torch
from omegaconf import OmegaConf
from taming.models.vq import VQModel  # SimVQ's repository

model = VQModel(**OmegaConf.load("FOLDER/config.yaml").model.init_args)
model.load_state_dict(torch.load("FOLDER/model.ckpt")["state_dict"])
"""


def write(tokenizer: Tokenizer) -> Published:
    """SimVQ's networks with its head, or with any other that folds into one table, which the map leaves unchanged."""
    plain.check_kinds(tokenizer, TARGET, MagvitEncoder, MagvitDecoder)
    own = plain.inference_copy(tokenizer, folded=type(tokenizer.quantizer) is not SimVQ)
    if type(tokenizer.quantizer) is not SimVQ:
        table = as_learned(own.quantizer, TARGET, l2=True).codewords
        own.quantizer = SimVQ(len(table), table.shape[1])
        own.quantizer.load_state_dict(
            {"basis": table, "projection.weight": torch.eye(table.shape[1]), "projection.bias": 0 * table[0]}
        )
    config = config_of(own)
    return Published(own.eval(), config, averages(to_theirs(RULES, own.state_dict()), frozen=[BASIS]))


def config_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Settings of the networks and of the head."""
    if tokenizer.decoder.adaptive or tokenizer.decoder.generative:
        raise plain.refuse(TARGET, "adaptive norms or noise in the decoder")
    head, ddconfig = tokenizer.quantizer, magvit_config(tokenizer, TARGET)
    return {"ddconfig": ddconfig, "n_e": head.codebook_sizes[0], "e_dim": head.dim, "beta": 0.25, "legacy": False}


def magvit_config(tokenizer: Tokenizer, target: str) -> dict[str, Any]:
    """Arguments of ``Encoder`` and ``Decoder`` in the code of SimVQ and Open-MAGVIT2.

    Raises:
        ValueError: The layout has the same arguments for both networks, and these differ; or there are maps between
            these and the head.
    """
    encoder, decoder = tokenizer.encoder, tokenizer.decoder
    down, up = cast(MagvitSizes, encoder.sizes), cast(MagvitSizes, decoder.sizes)
    for name in ("to_latent", "from_latent"):
        if not isinstance(getattr(tokenizer, name), nn.Identity):
            raise plain.refuse(target, f"a {name}: the head's channels must be those of both networks")
    plain.norms_of_32(tokenizer, target)
    plain.same_blocks(tokenizer, target)
    if up.widths != down.widths:
        raise plain.refuse(target, f"levels of {down.widths} channels in the encoder, {up.widths} in the decoder")
    return {
        "double_z": False,
        "z_channels": encoder.dim,
        "resolution": RESOLUTION,
        "in_channels": encoder.in_channels,
        "out_ch": decoder.out_channels,
        "ch": down.channels,
        "ch_mult": list(down.multipliers),
        "num_res_blocks": down.num_blocks,
    }


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model in the configuration of Lightning's command line."""
    head = {name: config[name] for name in ("n_e", "e_dim", "beta", "legacy")}
    arguments = {
        "ddconfig": config["ddconfig"],
        "quantconfig": {"target": "taming.modules.vqvae.quantize.SimVQ", "params": head},
        "lossconfig": {"target": "taming.modules.losses.vqperceptual.DummyLoss"},
        "use_ema": True,
    }
    return {"config.yaml": {"model": {"class_path": "taming.models.vq.VQModel", "init_args": arguments}}}


CONTAINER = Container("model.ckpt", "state_dict", settings, USAGE)
