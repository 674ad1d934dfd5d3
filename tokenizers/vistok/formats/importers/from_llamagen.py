"""Importer of LlamaGen's VQ models (arXiv:2406.06525), and of FVQ's with bridge or folded (arXiv:2509.10140)."""

from collections.abc import Mapping
from typing import Any, cast

import torch

from vistok.formats import plain
from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.hyperparameters import need
from vistok.formats.importers.key_map import Rule, under
from vistok.formats.importers.published import Container, Published
from vistok.quantizers import Quantizer, VectorQuantizer, VQBridge
from vistok.quantizers.vqbridge import SIZES, Size
from vistok.tokenizer import Tokenizer

PLACES = ("0", "1", "2")
NETWORKS = (
    Rule("encoder.conv_in.{p}", "encoder.conv_in.{p}"),
    *vqgan_rules.level("encoder.conv_blocks.{i}", "encoder.levels.{i}", block="res"),
    *vqgan_rules.middle("encoder.mid", "encoder.mid", PLACES),
    *under("decoder", "decoder", vqgan_rules.ENDS),
    *vqgan_rules.middle("decoder.mid", "decoder.mid", PLACES),
    *vqgan_rules.level("decoder.conv_blocks.{i}", "decoder.levels.{i}", block="res", resample="upsample.conv"),
)
OUTPUT = under("encoder", "encoder", {"norm_out": "norm_out", "conv_out": "conv_out"})
RULES = (*NETWORKS, *OUTPUT, *vqgan_rules.MAPS, vqgan_rules.TABLE)
BRIDGE = (
    Rule("quantize.qbridge.pos_embed", "quantizer.bridge.positions", lambda t: t[0], lambda t: t[None]),
    Rule(
        "quantize.qbridge.y_embedder.embedding_table.weight",
        "quantizer.bridge.condition",
        lambda t: t[0] if len(t) == 1 else t,  # further rows are conditions, which ours does not have
        lambda t: t[None],
    ),
    *under("quantize.qbridge", "quantizer.bridge", {
        "x_embedder.proj": "compress",
        "final_layer.linear": "recover",
        "final_layer.adaLN_modulation.1": "modulation",
    }),
    *under("quantize.qbridge.blocks.{i}", "quantizer.bridge.blocks.{i}", {
        "attn.qkv": "qkv",
        "attn.proj": "out",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.2",
        "adaLN_modulation.1": "modulation",
    }),
)  # fmt: skip
WHY = ", or family='llamagen' (unit vectors) or family='fvq' (as they are): both have these names"
IGNORED = (r"quantize\.codebook_used",)  # a window of recent codes


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds LlamaGen's tokenizer: nearest codewords by cosine, unless ``config`` has ``codebook_l2_norm: False``.

    Released files with codes of 8 channels are LlamaGen's. For other files the metric is known only if the caller names
    the family.
    """
    size, dim = vqgan_rules.shape(shapes, "quantizer.table", 2)
    cosine = need(config, "codebook_l2_norm", bool, True if sure or dim == 8 else None, WHY)
    return tokenizer(shapes, VectorQuantizer(size, dim, cosine=cosine))


def build_fvq(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds FVQ's tokenizer: nearest codewords by L2, after the bridge if there is one."""
    size, dim = vqgan_rules.shape(shapes, "quantizer.table", 2)
    if need(config, "codebook_l2_norm", bool, False):
        raise ValueError("codebook_l2_norm=True cannot be imported with a bridge or as FVQ; family='llamagen' has it")
    if "quantizer.bridge.compress.weight" not in shapes:
        return tokenizer(shapes, VectorQuantizer(size, dim))
    return tokenizer(shapes, bridge(shapes, size, dim))


def bridge(shapes: vqgan_rules.Shapes, size: int, dim: int) -> Quantizer:
    width, _, patch, _ = vqgan_rules.shape(shapes, "quantizer.bridge.compress.weight", 4)
    names: dict[int, Size] = {value: name for name, value in SIZES.items()}
    if width not in names:
        raise ValueError(f"its bridge is {width} wide, FVQ's are {', '.join(map(str, names))}")
    variant = "dit" if "quantizer.bridge.positions" in shapes else "vit"
    if round(size**0.5) ** 2 != size or round(size**0.5) % patch:
        raise ValueError(f"its {size} codewords are not a square of squares of {patch} x {patch}")
    return VQBridge(size, dim, names[width], patch, vqgan_rules.count(shapes, "quantizer.bridge.blocks."), variant)


def tokenizer(shapes: vqgan_rules.Shapes, head: Quantizer) -> Tokenizer:
    to_latent, from_latent = vqgan_rules.conv(shapes, "to_latent"), vqgan_rules.conv(shapes, "from_latent")
    return Tokenizer(vqgan_rules.encoder(shapes), head, vqgan_rules.decoder(shapes), to_latent, from_latent)


WINDOW = 65536  # length of LlamaGen's list of recent codes
FVQ = "FVQ's layout"
# Bridges in the authors' code: size, patch, and a depth other than 2.
BRIDGES = ("XS/2", "S/2", "S/4", "S/8", "B/2", "B/4", "B/8", "B/4-d1", "B/4-d4", "L/2", "L/4", "L/8", "L/4-d1",
           "L/2-d4", "L/4-d4", "XL/4", "XL/8", "XL/4-d4", "S/4-d4")  # fmt: skip
USAGE = """
import json

import torch
from vq_model_qbridge_release import ModelArgs, VQModel  # FVQ's, tokenizer/tokenizer_image; vq_model without QB_type
# vq_model_qbridge instead where config.json has the variant dit

config = json.load(open("FOLDER/config.json"))
model = VQModel(ModelArgs(**{name: config[name] for name in config.keys() & ModelArgs.__dataclass_fields__.keys()}))
model.load_state_dict(torch.load("FOLDER/vq_model.pt")["model"])
"""


def write_fvq(tokenizer: Tokenizer) -> Published:
    """LlamaGen's networks with VQBridge and its bridge, or with any head that folds into one table, searched by L2."""
    bridged = type(tokenizer.quantizer) is VQBridge
    plain.check_vqgan(tokenizer, FVQ)
    plain.check_table(tokenizer.quantizer, FVQ)
    own = plain.with_maps(plain.inference_copy(tokenizer, folded=not bridged))
    config = model_args(own, FVQ) | {"codebook_l2_norm": False}
    if bridged:
        config |= bridge_args(cast(VQBridge, own.quantizer))
    size = own.quantizer.codebook_sizes[0]
    extra = {"quantize.codebook_used": torch.zeros(WINDOW if size < WINDOW or not bridged else size + 1)}
    return Published(own if bridged else plain.by_l2(own), config, extra)


def bridge_args(head: VQBridge) -> dict[str, Any]:
    """The bridge by its name in the authors' code, which has some combinations of width, patch and depth."""
    rows, columns = head.bridge.grid
    if rows != columns or rows * columns != head.codebook_size:
        raise plain.refuse(FVQ, f"a bridge over {head.codebook_size} codewords, only over squares of squares")
    name = f"{head.size}/{head.patch}" + ("" if head.depth == 2 else f"-d{head.depth}")
    if name not in BRIDGES:
        raise plain.refuse(FVQ, f"a bridge of size={head.size}, patch={head.patch}, depth={head.depth}")
    return {
        "QB_type": f"{'Qbridge' if name == 'S/4-d4' else 'QBridge'}-{name}",
        "variant": head.variant,
        "is_uncondition": True,
    }


def model_args(tokenizer: Tokenizer, target: str) -> dict[str, Any]:
    """Arguments of LlamaGen's networks and of those with its code.

    Args:
        tokenizer: VQGAN's networks around one codebook, from ``plain.vqgan``.
        target: Name of the layout, for messages.
    """
    (encoder, decoder), head = plain.networks(tokenizer), tokenizer.quantizer
    plain.check_llamagen(tokenizer, target)
    plain.refuse_two_tables(tokenizer, target)
    if encoder.in_channels != 3 or decoder.out_channels != 3:
        raise plain.refuse(target, f"images of {encoder.in_channels} and {decoder.out_channels} channels, only for 3")
    wide, ch = decoder.sizes.widths, encoder.sizes.channels
    if any(width % ch for width in wide):
        raise plain.refuse(target, f"a decoder of {wide} channels, only for multiples of the encoder's channels={ch}")
    return {
        "ch": ch,
        "num_res_blocks": encoder.sizes.num_blocks,
        "encoder_ch_mult": list(encoder.sizes.multipliers),
        "decoder_ch_mult": [width // ch for width in wide],
        "z_channels": encoder.dim,
        "codebook_size": head.codebook_sizes[0],
        "codebook_embed_dim": head.dim,
    }


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"config.json": dict(config)}


CONTAINER = Container("vq_model.pt", "model", settings, USAGE)
