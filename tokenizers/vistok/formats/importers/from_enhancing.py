"""Importer of enhancing-transformers' ViT-VQGAN (its weights are public; after arXiv:2110.04627)."""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from vistok.backbones import ViTDecoder, ViTEncoder
from vistok.backbones.vit import SinCosPositions, ViTSizes
from vistok.formats import plain
from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.hyperparameters import get, need, only
from vistok.formats.importers.key_map import Rule, linear, under
from vistok.formats.importers.learned_heads import as_learned
from vistok.formats.importers.published import Container, Published
from vistok.images.ranges import PixelMap
from vistok.quantizers import VectorQuantizer
from vistok.tokenizer import Tokenizer

HEADS = {(512, 512): 8, (768, 768): 12, (1280, 1024): 16}  # of the published widths, and of those in attention
ROUNDING = 4e-3  # of sines in bfloat16
DIM = 32  # of the published codewords, which are unit vectors


def blocks(side: str) -> list[Rule]:
    theirs, ours = f"{side}.transformer.layers.{{i}}", f"{side}.transformer.blocks.{{i}}"
    return [
        *under(theirs, ours, {
            "0.norm": "norm1",
            "0.fn.to_qkv": "attention.qkv",
            "0.fn.to_out": "attention.out",
            "1.norm": "norm2",
            "1.fn.net.0": "mlp_in",
            "1.fn.net.2": "mlp_out",
        }),
        Rule(f"{side}.transformer.norm.{{p}}", f"{side}.transformer.norm_out.{{p}}"),
    ]  # fmt: skip


RULES = (
    Rule("encoder.to_patch_embedding.0.{p}", "encoder.conv_in.{p}"),
    *blocks("encoder"),
    *blocks("decoder"),
    Rule("decoder.to_pixel.1.{p}", "decoder.conv_out.{p}"),
    linear(Rule("pre_quant.{p}", "to_latent.{p}")),
    linear(Rule("post_quant.{p}", "from_latent.{p}")),
    Rule("quantizer.embedding.weight", "quantizer.table"),
)
POSITIONS = ("encoder.en_pos_embedding", "decoder.de_pos_embedding")  # fixed: checked, then computed


def image_size(positions: Tensor, patch: int) -> int:
    """Side in pixels of the images for which fixed positions (1, n, dim) are made.

    Raises:
        ValueError: They are not the sin-cos positions of a square grid.
    """
    side = math.isqrt(positions.shape[1]) if positions.ndim == 3 else 0
    if positions.ndim != 3 or side * side != positions.shape[1] or len(positions) != 1:
        raise ValueError(f"its positions {list(positions.shape)} are not those of a square grid, which importing needs")
    with torch.device("cpu"):
        expected = SinCosPositions(positions.shape[2], side)(torch.empty(1, 1, side, side))
    if not torch.allclose(positions[0].float(), expected.flatten(1).T, rtol=0, atol=ROUNDING):
        raise ValueError("its positions are not the fixed sines and cosines")
    return side * patch


def prepare(tensors: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """Takes the positions out of a file, and returns them."""
    missing = [name for name in POSITIONS if name not in tensors]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    return {"positions": tuple(tensors.pop(name) for name in POSITIONS)}


def build(
    shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool, positions: tuple[Tensor, ...]
) -> Tokenizer:
    """Builds the tokenizer for tensors with our names.

    Args:
        shapes: Shapes of the tensors by name.
        config: The caller's settings.
        sure: True if the caller has named the family.
        positions: Positions in the file, of encoder and decoder.
    """
    only(config, "use_residual", False)
    size, dim = vqgan_rules.shape(shapes, "quantizer.table", 2)
    cosine = need(config, "use_norm", bool, True if dim == DIM else None, ", where ... is true or false")
    parts = []
    for side, table, conv in (("encoder", positions[0], "conv_in"), ("decoder", positions[1], "conv_out")):
        width, channels, patch, _ = vqgan_rules.shape(shapes, f"{side}.{conv}.weight", 4)
        inner = vqgan_rules.shape(shapes, f"{side}.transformer.blocks.0.attention.out.weight", 2)[1]
        head_dim = get(config, f"{side}.dim_head")
        stated = inner // head_dim if type(head_dim) is int and head_dim and inner % head_dim == 0 else None
        heads = need(
            config,
            f"{side}.heads",
            int,
            stated or HEADS.get((width, inner)),
            f", which times dim_head is {inner}",
        )
        if heads * (inner // heads) != inner:
            raise ValueError(f"config's {side}.heads={heads} does not divide the {inner} channels of its attention")
        hidden = vqgan_rules.shape(shapes, f"{side}.transformer.blocks.0.mlp_in.weight", 2)[0]
        arguments = {
            "dim": width,
            "depth": vqgan_rules.count(shapes, f"{side}.transformer.blocks."),
            "num_heads": heads,
            "head_dim": inner // heads,
            "mlp_ratio": hidden / width,
            "patch": patch,
            "image_size": image_size(table, patch),
            "positions": "sincos",
            "activation": "tanh",
            "qkv_bias": False,
            "output_mlp_ratio": None,
        }
        made = {"encoder": ViTEncoder, "decoder": ViTDecoder}[side]
        parts.append(made(**arguments, **{"in_channels" if side == "encoder" else "out_channels": channels}))
    return Tokenizer(
        parts[0],
        VectorQuantizer(size, dim, cosine=cosine, raw_gradient=cosine),
        parts[1],
        vqgan_rules.conv(shapes, "to_latent"),
        vqgan_rules.conv(shapes, "from_latent"),
        PixelMap(0.5, 0.5),
    )


TARGET = "enhancing-transformers' layout"
UNIT = PixelMap(0.5, 0.5)  # pixels in [0, 1]
USAGE = """
import torch
from enhancing.modules.stage1.vitvqgan import ViTVQ  # enhancing-transformers' repository
from omegaconf import OmegaConf

model = ViTVQ(**OmegaConf.load("FOLDER/config.yaml").model.params)  # images in [0, 1]
model.load_state_dict(torch.load("FOLDER/model.ckpt")["state_dict"])
"""


def write(tokenizer: Tokenizer) -> Published:
    """ViT-VQGAN's networks with sin-cos positions, and any head that folds into one table, by cosine or by L2."""
    plain.check_kinds(tokenizer, TARGET, ViTEncoder, ViTDecoder, UNIT)
    plain.check_maps(tokenizer, TARGET)
    own, head = plain.inference_copy(tokenizer), as_learned(tokenizer.quantizer, TARGET)
    own.quantizer = head
    plain.with_maps(own)
    config: dict[str, Any] = {}
    for side, part in (("encoder", own.encoder), ("decoder", own.decoder)):
        config[side] = settings_of(cast(ViTSizes, part.sizes), side)
    sizes, up = cast(ViTSizes, own.encoder.sizes), cast(ViTSizes, own.decoder.sizes)
    if sizes.image_size != up.image_size:
        raise plain.refuse(TARGET, f"image_size={sizes.image_size} in the encoder, {up.image_size} in the decoder")
    channels = {"encoder": own.encoder.in_channels, "decoder": own.decoder.out_channels}
    for side, number in channels.items():
        config[side] |= {} if number == 3 else {"channels": number}
    config |= {"image_size": sizes.image_size, "patch_size": sizes.patch, "n_embed": head.codebook_size}
    config |= {"embed_dim": head.dim, "beta": 0.25, "use_norm": head.cosine, "use_residual": False}
    side = sizes.image_size // sizes.patch
    extra = {name: positions(part.dim, side) for name, part in zip(POSITIONS, (own.encoder, own.decoder), strict=True)}
    return Published(own, config, extra)


def settings_of(sizes: ViTSizes, side: str) -> dict[str, Any]:
    """Arguments of one transformer.

    Raises:
        ValueError: It is of another form than the layout's.
    """
    form = {"positions": "sincos", "activation": "tanh", "qkv_bias": False, "pre_norm": False, "output_mlp_ratio": None}
    for name, wanted in form.items():
        if getattr(sizes, name) != wanted:
            raise plain.refuse(TARGET, f"{name}={getattr(sizes, name)!r} in the {side}, only for {wanted!r}")
    return {
        "dim": sizes.dim,
        "depth": sizes.depth,
        "heads": sizes.num_heads,
        "mlp_dim": round(sizes.dim * sizes.mlp_ratio),
        "dim_head": sizes.head_dim,
    }


def positions(dim: int, side: int) -> Tensor:
    """Fixed positions (1, side * side, dim), computed in float64 as the authors' code does."""
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = torch.arange(side)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.cat([waves.repeat(side, 1), waves.repeat_interleave(side, 0)], dim=1)[None].float()


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    head = {name: config[name] for name in ("embed_dim", "n_embed", "beta", "use_norm", "use_residual")}
    networks = {name: config[name] for name in ("image_size", "patch_size", "encoder", "decoder")}
    params = {"image_key": "image", **networks, "quantizer": head, "loss": {"target": "torch.nn.Identity"}}
    return {"config.yaml": {"model": {"target": "enhancing.modules.stage1.vitvqgan.ViTVQ", "params": params}}}


CONTAINER = Container("model.ckpt", "state_dict", settings, USAGE)
