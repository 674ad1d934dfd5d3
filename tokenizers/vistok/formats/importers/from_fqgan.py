"""Importer of FQGAN with two or three sub-codebooks (arXiv:2411.16681)."""

import math
from collections.abc import Mapping
from typing import Any

from vistok.backbones import BranchedEncoder
from vistok.formats.importers import from_llamagen, vqgan_rules
from vistok.formats.importers.hyperparameters import need
from vistok.formats.importers.key_map import Rule, under
from vistok.quantizers import FactorizedQuantizer, VectorQuantizer
from vistok.tokenizer import Tokenizer

BRANCHES = {  # by number, in the order of channels: their names of the quantizer and of the adapter
    2: (("vis", "visual_head"), ("sem", "semantic_head")),
    3: (("vis", "visual_head"), ("sem_mid", "semantic_head_mid"), ("sem_high", "semantic_head_high")),
}
TRANSFORMER = {
    "ln_1": "norm1",
    "ln_2": "norm2",
    "attn.out_proj": "attention.out",
    "mlp.c_fc": "mlp_in",
    "mlp.c_proj": "mlp_out",
}
IGNORED = (
    r"quantize_\w+\.codebook_used",  # windows of recent codes
    r"(feat_pred_head|mid_sem_feat_pred|high_sem_feat_pred)\..*",  # losses' predictors
)
HEADS = {512: 8}  # attention heads of the published adapters, by width


def branch(i: int, name: str, adapter: str) -> list[Rule]:
    theirs, ours = f"encoder.{adapter}.0", f"encoder.tails.{i}.adapter"
    blocks, our_blocks = f"{theirs}.transformer.{{i}}", f"{ours}.blocks.{{i}}"
    return [
        Rule(f"{theirs}.positional_embedding", f"{ours}.positions.table", grid, lambda t: t.flatten(1).T),
        *under(theirs, ours, {"ln_pre": "norm_in", "ln_post": "norm_out"}),
        *under(blocks, our_blocks, TRANSFORMER),
        Rule(f"{blocks}.attn.in_proj_{{p}}", f"{our_blocks}.attention.qkv.{{p}}"),
        Rule(f"encoder.norm_out_{name}.{{p}}", f"encoder.tails.{i}.norm_out.{{p}}"),
        Rule(f"encoder.conv_out_{name}.{{p}}", f"encoder.tails.{i}.conv_out.{{p}}"),
        Rule(f"quant_conv_{name}.{{p}}", f"to_latent.{{p}}#{i}"),
        Rule(f"quantize_{name}.embedding.weight", f"quantizer.heads.{i}.table"),
    ]


def grid(positions):
    """Positions (n, d) of a square grid to (d, h, w)."""
    side = math.isqrt(len(positions))
    if positions.ndim != 2 or side * side != len(positions):
        raise ValueError(f"its positions {list(positions.shape)} are of no square grid")
    return positions.T.unflatten(1, (side, side))


def rules(branches: int) -> tuple[Rule, ...]:
    """Table of names of the model with ``branches`` sub-codebooks."""
    return (
        *from_llamagen.NETWORKS,
        *(rule for i, names in enumerate(BRANCHES[branches]) for rule in branch(i, *names)),
        Rule("post_quant_conv.{p}", "from_latent.{p}"),
    )


DUAL, TRIPLE = rules(2), rules(3)


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names; published adapters have 8 heads of 64 channels."""
    branches = vqgan_rules.count(shapes, "quantizer.heads.")
    sizes = [vqgan_rules.shape(shapes, f"quantizer.heads.{i}.table", 2) for i in range(branches)]
    published = {dim for _, dim in sizes} == {8}
    cosine = need(config, "codebook_l2_norm", bool, True if published else None, ", where ... is true or false")
    width, side, _ = vqgan_rules.shape(shapes, "encoder.tails.0.adapter.positions.table", 3)
    encoder = BranchedEncoder(
        **vqgan_rules.path_down(shapes),
        attention=vqgan_rules.attended(shapes, "encoder.levels."),
        dim=branches * vqgan_rules.shape(shapes, "encoder.tails.0.conv_out.weight", 4)[0],
        branches=branches,
        grid=side,
        depth=vqgan_rules.count(shapes, "encoder.tails.0.adapter.blocks."),
        heads=need(config, "adapter.heads", int, HEADS.get(width)),
    )
    heads = [VectorQuantizer(*size, cosine=cosine) for size in sizes]
    return Tokenizer(
        encoder,
        FactorizedQuantizer(heads),
        vqgan_rules.decoder(shapes),
        vqgan_rules.conv(shapes, "to_latent", groups=branches),
        vqgan_rules.conv(shapes, "from_latent"),
    )
