"""Importer of FQGAN with two or three sub-codebooks (arXiv:2411.16681)."""

import copy
import math
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from vistok.backbones import BranchedEncoder, CNNDecoder
from vistok.formats import plain
from vistok.formats.importers import from_llamagen, vqgan_rules
from vistok.formats.importers.hyperparameters import need
from vistok.formats.importers.key_map import Rule, under
from vistok.formats.importers.learned_heads import as_learned
from vistok.formats.importers.published import Container, Published
from vistok.quantizers import FactorizedQuantizer, Quantizer, Table, VectorQuantizer
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


TARGET = "FQGAN's layout"
USAGE = """
import json

import torch
from vq_model_dual import ModelArgs, VQModel  # FQGAN's repository, tokenizer/; vq_model_triple for three codebooks

# Its source fixes ch=128, num_res_blocks=2, and adapters of width 512, 6 layers and 8 heads for images of 256 pixels:
# where config.json has other values, set them there.
config = json.load(open("FOLDER/config.json"))
model = VQModel(ModelArgs(**{name: config[name] for name in config.keys() & ModelArgs.__dataclass_fields__.keys()}))
model.load_state_dict(torch.load("FOLDER/vq_model.pt")["model"])
"""


def write(tokenizer: Tokenizer, branches: int) -> Published:
    """FQGAN's encoder of ``branches`` branches with as many heads of equal tables, each of which folds into one."""
    plain.check_kinds(tokenizer, TARGET, BranchedEncoder, CNNDecoder)
    plain.check_maps(tokenizer, TARGET, groups=branches)
    heads = getattr(tokenizer.quantizer, "heads", None)
    if type(tokenizer.quantizer) is not FactorizedQuantizer or heads is None or len(heads) != branches:
        what = f"a {type(tokenizer.quantizer).__name__} of {len(tokenizer.quantizer.codebook_sizes)} codebooks"
        raise plain.refuse(TARGET, f"{what}, only for a FactorizedQuantizer of {branches}")
    own = plain.inference_copy(tokenizer)
    learned = [
        as_learned(cast(Quantizer, head.cpu().float()), TARGET) for head in cast(nn.ModuleList, copy.deepcopy(heads))
    ]
    own.quantizer = FactorizedQuantizer(learned).eval()
    config = config_of(own, branches)
    if isinstance(own.to_latent, nn.Identity):
        own.to_latent = plain.identity(own.quantizer.dim, branches)
    plain.with_maps(own)
    window = torch.zeros(from_llamagen.WINDOW)
    return Published(own, config, {f"quantize_{name}.codebook_used": window for name, _ in BRANCHES[branches]})


def config_of(tokenizer: Tokenizer, branches: int) -> dict[str, Any]:
    """Arguments of the networks by the authors' names, and the constants of their source as ``adapter``."""
    encoder, decoder = cast(BranchedEncoder, tokenizer.encoder), cast(CNNDecoder, tokenizer.decoder)
    head = cast(FactorizedQuantizer, tokenizer.quantizer)
    tables = [cast(Table, cast(Quantizer, own).table(0)) for own in head.heads]
    kinds = {(table.values.shape, table.metric) for table in tables}
    if len(kinds) > 1:
        raise plain.refuse(TARGET, f"heads of {' and '.join(f'{[*size]} by {metric}' for size, metric in kinds)}")
    plain.norms_of_32(tokenizer, TARGET)
    plain.same_blocks(tokenizer, TARGET)
    last = len(encoder.sizes.multipliers) - 1
    for part in (encoder, decoder):
        if part.sizes.attention != (last,):
            raise plain.refuse(TARGET, f"attention={part.sizes.attention}, only for the last level, {last}")
    if not decoder.sizes.mid_attention:
        raise plain.refuse(TARGET, "mid_attention=False")
    if encoder.branches != branches or encoder.dim != branches * decoder.dim:
        what = f"an encoder of {encoder.branches} branches and dim={encoder.dim} before a decoder of dim={decoder.dim}"
        raise plain.refuse(TARGET, what)
    wide, ch = decoder.sizes.widths, encoder.sizes.channels
    if any(width % ch for width in wide):
        raise plain.refuse(TARGET, f"a decoder of {wide} channels, only for multiples of the encoder's channels={ch}")
    (size, dim), metric = kinds.pop()
    return {
        "ch": ch,
        "num_res_blocks": encoder.sizes.num_blocks,
        "encoder_ch_mult": list(encoder.sizes.multipliers),
        "decoder_ch_mult": [width // ch for width in wide],
        "z_channels": decoder.dim,
        "codebook_size": size,
        "codebook_embed_dim": dim,
        "codebook_l2_norm": metric == "cosine",
        "adapter": {
            "width": encoder.sizes.widths[-1],
            "layers": encoder.depth,
            "heads": encoder.heads,
            "mlp_ratio": 4,
            "image_size": encoder.side * encoder.factor,
        },
    }


DUAL_WRITTEN, TRIPLE_WRITTEN = partial(write, branches=2), partial(write, branches=3)
CONTAINER = Container("vq_model.pt", "model", from_llamagen.settings, USAGE)
