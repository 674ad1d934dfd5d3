"""Importer of WeTok (arXiv:2508.05599) and of BitDance's autoencoder, the same network with several codes a position.

Their names are Open-MAGVIT2's. The decoder for high compression has noise as a second half of its input.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch

from vistok.backbones import MagvitDecoder, MagvitEncoder
from vistok.formats import plain
from vistok.formats.importers import from_openmagvit2, from_simvq, vqgan_rules
from vistok.formats.importers.hyperparameters import Unknown, get, need, only
from vistok.formats.importers.key_map import to_theirs
from vistok.formats.importers.published import Container, Published, averages
from vistok.quantizers import BinaryQuantizer
from vistok.tokenizer import Tokenizer

RULES, IGNORED = from_openmagvit2.RULES, from_openmagvit2.IGNORED
BITS = (32, 64, 128, 256)  # of the published models, with 256 channels and 4 blocks a level
EACH = 8  # bits of a code of theirs


def recognised(tensors: Mapping[str, Any]) -> bool:
    """True for the sizes of a published model, or a decoder with noise, under Open-MAGVIT2's names."""
    names = ("encoder.conv_in.weight", "encoder.conv_out.weight", "decoder.conv_in.weight")
    shapes: list[tuple[int, ...]] = [tuple(getattr(tensors.get(name), "shape", ())) for name in names]
    first, last, decoder = shapes
    if any(len(own) != 4 for own in (first, last, decoder)):
        return False
    return (first[0] == 256 and last[0] in BITS) or decoder[1] == 2 * last[0]


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names."""
    only(config, "ddconfig.double_z", False)
    encoder, decoder = from_simvq.networks(shapes)
    only(config, "gan_decoder", decoder.generative)
    return Tokenizer(
        encoder, head(encoder.dim, num_codebooks(encoder.dim, cast(int, encoder.channels), config)), decoder
    )


def head(bits: int, codes: int) -> BinaryQuantizer:
    """Head with WeTok's losses."""
    with torch.device("cpu"):  # files do not contain its powers of 2
        return BinaryQuantizer(bits, spherical=False, temperature=0.01, group=None, num_codebooks=codes, pooled=True)


def num_codebooks(bits: int, channels: int, config: Mapping[str, Any]) -> int:
    """Number of codes that the bits of a position make: the caller's, or that of a published model.

    Raises:
        Unknown: The caller gives none, and there is no published model of this size.
        ValueError: The bits cannot be divided into the caller's number, or ``n_embed`` is not the size of each code.
    """
    known = bits // EACH if channels == 256 and bits in BITS else None
    choices = [k for k in range(1, bits + 1) if bits % k == 0 and bits // k <= 62]
    listed = ", ".join(map(str, choices))
    if known is None and get(config, "num_codebooks") is None:
        raise Unknown(
            f"its keys do not determine how many codes the {bits} bits of a position make, which WeTok and BitDance "
            f"divide into codes of {EACH}: give config={{'num_codebooks': ...}}, one of {listed}"
        )
    codes = need(config, "num_codebooks", int, known)
    if codes not in choices:
        raise ValueError(f"config's num_codebooks={codes} must be one of {listed}, for {bits} bits")
    only(config, "n_embed", 2 ** (bits // codes))
    return codes


WETOK, BITDANCE = "WeTok's layout", "BitDance's layout"
USAGE = """
import torch
from omegaconf import OmegaConf
from src.WeTok.models.lfqgan import VQModel  # WeTok's repository

model = VQModel(**OmegaConf.load("FOLDER/config.yaml").model.init_args)
model.load_state_dict(torch.load("FOLDER/model.ckpt")["state_dict"])
"""
BITDANCE_USAGE = """
import json

from modeling.vision_encoder.autoencoder import VQModel  # BitDance's repository
from safetensors.torch import load_file

model = VQModel(**json.load(open("FOLDER/ae_config.json")))
model.load_state_dict(load_file("FOLDER/ae.safetensors"))
"""


def write(tokenizer: Tokenizer, target: str = WETOK) -> Published:
    """Open-MAGVIT2's networks, with noise beside the latent or not, and the signs of all channels in equal codes."""
    plain.check_kinds(tokenizer, target, MagvitEncoder, MagvitDecoder)
    bits = tokenizer.quantizer
    if type(bits) is not BinaryQuantizer or bits.spherical:
        raise plain.refuse(target, f"a {type(bits).__name__}, only for a BinaryQuantizer with spherical=False")
    if not tokenizer.decoder.adaptive:
        raise plain.refuse(target, "a decoder without adaptive norms")
    own = plain.inference_copy(tokenizer)
    config = {
        "ddconfig": from_simvq.magvit_config(own, target),
        "n_embed": 2**bits.bits,
        "embed_dim": bits.dim,
        "num_codebooks": bits.num_codebooks,
        "sample_minimization_weight": bits.sample_weight,
        "batch_maximization_weight": bits.batch_weight,
        "gan_decoder": own.decoder.generative,
    }
    averaged = averages(to_theirs(RULES, own.state_dict())) if target == WETOK else {}
    return Published(own, config, averaged)


def write_bitdance(tokenizer: Tokenizer) -> Published:
    """The same networks and bits; BitDance's files do not tell how the bits are divided into codes."""
    return write(tokenizer, BITDANCE)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model in the configuration of Lightning's command line."""
    arguments = {**config, "lossconfig": {"target": "torch.nn.Identity"}, "use_ema": True}
    return {"config.yaml": {"model": {"class_path": "src.WeTok.models.lfqgan.VQModel", "init_args": arguments}}}


def bitdance_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of BitDance's class, in the file that its pipelines read."""
    return {"ae_config.json": {name: config[name] for name in ("ddconfig", "gan_decoder")}}


CONTAINER = Container("model.ckpt", "state_dict", settings, USAGE)
BITDANCE_CONTAINER = Container("ae.safetensors", None, bitdance_settings, BITDANCE_USAGE)
