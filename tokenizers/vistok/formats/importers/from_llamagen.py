"""Importer of LlamaGen's VQ models (arXiv:2406.06525), and of FVQ's with bridge or folded (arXiv:2509.10140)."""

from collections.abc import Mapping
from typing import Any

from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.hyperparameters import need
from vistok.formats.importers.key_map import Rule, under
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
