"""Importer of Open-MAGVIT2's image models (arXiv:2409.04410)."""

from collections.abc import Mapping
from typing import Any

import torch

from vistok.backbones import MagvitDecoder, MagvitEncoder
from vistok.formats import plain
from vistok.formats.importers import from_simvq, vqgan_rules
from vistok.formats.importers.hyperparameters import Unknown, only
from vistok.formats.importers.key_map import Rule, to_theirs
from vistok.formats.importers.published import Container, Published, averages
from vistok.quantizers import BinaryQuantizer
from vistok.tokenizer import Tokenizer

RULES = (
    *from_simvq.NETWORKS,
    Rule("decoder.adaptive.{i}.gamma.{p}", "decoder.norms.{~i}.gamma.{p}"),
    Rule("decoder.adaptive.{i}.beta.{p}", "decoder.norms.{~i}.beta.{p}"),
)
IGNORED = (r"quantize\.(mask|codebook)",)  # powers of 2, and signs
BITS = (14, 18)  # of the published models, with 128 channels and 4 blocks a level


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names.

    Raises:
        Unknown: It may be WeTok's or BitDance's.
    """
    only(config, "ddconfig.double_z", False)
    only(config, "num_codebooks", 1)
    encoder, decoder = from_simvq.networks(shapes)
    if not sure and (encoder.channels, encoder.num_blocks) + (encoder.dim in BITS,) != (128, 4, True):
        raise Unknown(
            "Open-MAGVIT2, WeTok and BitDance have the same names of tensors, but Open-MAGVIT2 has one code of all "
            f"bits at a position. No published model of it has {encoder.dim} bits, {encoder.num_blocks} blocks a level "
            f"and a base width of {encoder.channels} channels: give family='openmagvit2' if it is one, otherwise "
            "family='wetok' or family='bitdance' and config={'num_codebooks': ...}, the number of codes"
        )
    with torch.device("cpu"):  # files do not contain its powers of 2
        head = BinaryQuantizer(encoder.dim, spherical=False, temperature=0.01, group=None)
    return Tokenizer(encoder, head, decoder)


TARGET = "Open-MAGVIT2's layout"
USAGE = """
import torch
from omegaconf import OmegaConf
from src.Open_MAGVIT2.models.lfqgan import VQModel  # SEED-Voken's repository

model = VQModel(**OmegaConf.load("FOLDER/config.yaml").model.init_args)
model.load_state_dict(torch.load("FOLDER/model.ckpt")["state_dict"])
"""


def write(tokenizer: Tokenizer) -> Published:
    """Open-MAGVIT2's networks with one code of the signs of all channels."""
    plain.check_kinds(tokenizer, TARGET, MagvitEncoder, MagvitDecoder)
    head = tokenizer.quantizer
    if type(head) is not BinaryQuantizer or head.spherical or head.num_codebooks > 1:
        what = f"a {type(head).__name__} of {len(head.codebook_sizes)} codes"
        raise plain.refuse(TARGET, f"{what}, only for one code of a BinaryQuantizer with spherical=False")
    if not tokenizer.decoder.adaptive:
        raise plain.refuse(TARGET, "a decoder without adaptive norms")
    if tokenizer.decoder.generative:
        raise plain.refuse(TARGET, "a generative decoder")
    own = plain.inference_copy(tokenizer)
    config = {
        "ddconfig": from_simvq.magvit_config(own, TARGET),
        "n_embed": 2**head.bits,
        "embed_dim": head.dim,
        "sample_minimization_weight": head.sample_weight,
        "batch_maximization_weight": head.batch_weight,
    }
    return Published(own, config, averages(to_theirs(RULES, own.state_dict())))


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model in the configuration of Lightning's command line."""
    arguments = {**config, "lossconfig": {"target": "torch.nn.Identity"}, "use_ema": True}
    return {"config.yaml": {"model": {"class_path": "src.Open_MAGVIT2.models.lfqgan.VQModel", "init_args": arguments}}}


CONTAINER = Container("model.ckpt", "state_dict", settings, USAGE)
