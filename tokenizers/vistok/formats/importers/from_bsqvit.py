"""Importer of BSQ-ViT (arXiv:2406.07548)."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from vistok.backbones import ViTDecoder, ViTEncoder
from vistok.backbones.vit import ViTSizes
from vistok.formats import plain
from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.from_fqgan import TRANSFORMER, grid
from vistok.formats.importers.hyperparameters import get, need, only
from vistok.formats.importers.key_map import Rule, linear, under
from vistok.formats.importers.published import Container, Published
from vistok.images.ranges import LogitLaplaceMap, PixelMap
from vistok.quantizers import BinaryQuantizer
from vistok.tokenizer import Tokenizer

HEADS = {768: 12}  # attention heads of the published models, by width
IGNORED = (r"quantize\.(group_)?basis",)  # powers of 2


def patches(weight: Tensor) -> Tensor:
    """Linear map of flattened square patches of three channels, (d, 3 p p), as a convolution (d, 3, p, p)."""
    side = round((weight.shape[1] / 3) ** 0.5)
    return weight.reshape(-1, 3, side, side)


def transformer(side: str) -> list[Rule]:
    ours = f"{side}.transformer"
    theirs, blocks = f"{ours}.resblocks.{{i}}", f"{ours}.blocks.{{i}}"
    return [
        Rule(f"{side}.positional_embedding", f"{ours}.positions.table", grid, lambda t: t.flatten(1).T),
        *under(side, ours, {"ln_pre": "norm_in", "ln_post": "norm_out"}),
        *under(theirs, blocks, TRANSFORMER),
        Rule(f"{theirs}.attn.in_proj_{{p}}", f"{blocks}.attention.qkv.{{p}}"),
    ]


RULES = (
    Rule("encoder.conv1.weight", "encoder.conv_in.weight", patches, lambda t: t.flatten(1)),
    *transformer("encoder"),
    *transformer("decoder"),
    linear(Rule("decoder.ffn.0.{p}", "decoder.hidden.0.{p}")),
    linear(Rule("decoder.conv_out.{p}", "decoder.conv_out.{p}")),
    linear(Rule("quant_embed.{p}", "to_latent.{p}")),
    linear(Rule("post_quant_embed.{p}", "from_latent.{p}")),
)


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names."""
    only(config, "post_q_l2_norm", True)
    patch = vqgan_rules.shape(shapes, "encoder.conv_in.weight", 4)[2]
    group, bits = get(config, "embed_group_size", 1), vqgan_rules.shape(shapes, "to_latent.weight", 4)[0]
    outputs = vqgan_rules.shape(shapes, "decoder.conv_out.weight", 4)[0]
    channels, parts = output_channels(outputs, patch, config), []
    decoder = (
        "dvitconfig" if get(config, "dvitconfig") else "vitconfig"
    )  # as in their code, that of the encoder if missing
    for side, key, made in (("encoder", "vitconfig", ViTEncoder), ("decoder", decoder, ViTDecoder)):
        dim, rows, _ = vqgan_rules.shape(shapes, f"{side}.transformer.positions.table", 3)
        heads = need(config, f"{key}.heads", int, HEADS.get(dim))
        if dim % heads:
            raise ValueError(f"config's {key}.heads={heads} does not divide its {dim} channels")
        arguments: dict[str, Any] = {}
        output = None
        if side == "decoder":
            output = vqgan_rules.shape(shapes, "decoder.hidden.0.weight", 4)[0] / dim
            arguments["out_channels"] = channels
        parts.append(
            made(
                dim=dim,
                depth=vqgan_rules.count(shapes, f"{side}.transformer.blocks."),
                num_heads=heads,
                head_dim=dim // heads,
                mlp_ratio=vqgan_rules.shape(shapes, f"{side}.transformer.blocks.0.mlp_in.weight", 2)[0] / dim,
                patch=patch,
                image_size=rows * patch,
                pre_norm=True,
                output_mlp_ratio=output,
                **arguments,
            )
        )
    with torch.device("cpu"):  # files do not contain its powers of 2
        head = BinaryQuantizer(bits, group=group)
    return Tokenizer(
        parts[0],
        head,
        parts[1],
        vqgan_rules.conv(shapes, "to_latent"),
        vqgan_rules.conv(shapes, "from_latent"),
        LogitLaplaceMap() if channels == 6 else PixelMap(),
    )


def output_channels(outputs: int, patch: int, config: Mapping[str, Any]) -> int:
    """Channels of the decoder's maps: 3 for images, or 6 for logit-Laplace, which are μ and ln b of each.

    Args:
        outputs: Outputs of the decoder for one patch.
        patch: Side of a patch in pixels.
        config: The caller's settings, which must not contradict this number.

    Raises:
        ValueError: ``logit_laplace`` is not what the number says, or ``input_range`` is not that of logit-Laplace.
    """
    laplace = outputs == 6 * patch**2
    only(config, "logit_laplace", laplace)
    if laplace:
        only(config, "input_range", [0, 1])
    return 6 if laplace else 3


TARGET = "BSQ-ViT's layout"
USAGE = """
import torch
from omegaconf import OmegaConf
from transcoder.models.bsqvit import VITBSQModel  # BSQ-ViT's repository

config = OmegaConf.load("FOLDER/config.yaml").model.params
model = VITBSQModel(**config, ckpt_path="FOLDER/model.pt")
"""


def write(tokenizer: Tokenizer) -> Published:
    """BSQ-ViT's networks with binary codes on the sphere; a decoder of six channels is one of logit-Laplace."""
    laplace = getattr(tokenizer.decoder, "out_channels", 3) == 6
    plain.check_kinds(tokenizer, TARGET, ViTEncoder, ViTDecoder, LogitLaplaceMap() if laplace else PixelMap())
    plain.check_maps(tokenizer, TARGET)
    head = tokenizer.quantizer
    if type(head) is not BinaryQuantizer or not head.spherical or len(head.codebook_sizes) > 1:
        what = f"a {type(head).__name__} of {len(head.codebook_sizes)} codes"
        raise plain.refuse(TARGET, f"{what}, only for the one code of a spherical BinaryQuantizer")
    own = plain.with_maps(plain.inference_copy(tokenizer))
    sizes, up = cast(ViTSizes, own.encoder.sizes), cast(ViTSizes, own.decoder.sizes)
    for side, part, channels, allowed in (
        ("encoder", sizes, own.encoder.in_channels, (3,)),
        ("decoder", up, own.decoder.out_channels, (3, 6)),
    ):
        if channels not in allowed:
            raise plain.refuse(TARGET, f"images of {channels} channels in the {side}, only for 3")
        form = {"positions": "learned", "activation": "gelu", "qkv_bias": True, "pre_norm": True}
        form |= {"head_dim": part.dim / part.num_heads}
        for name, wanted in form.items():
            if getattr(part, name) != wanted:
                raise plain.refuse(TARGET, f"{name}={getattr(part, name)!r} in the {side}, only for {wanted!r}")
    if sizes.output_mlp_ratio is not None or up.output_mlp_ratio is None:
        raise plain.refuse(TARGET, "a two-layer network in the encoder, or none in the decoder (output_mlp_ratio)")
    config = {
        "vitconfig": settings_of(sizes),
        "dvitconfig": settings_of(up) | {"dim_ffn_output": round(up.dim * up.output_mlp_ratio)},
        "embed_dim": head.dim,
        "embed_group_size": head.group,
        "l2_norm": True,
        "post_q_l2_norm": True,
        "logit_laplace": laplace,
        "persample_entropy_compute": "analytical",
        "cb_entropy_compute": "group",
        "inv_temperature": 1 / head.temperature,
        "gamma0": head.sample_weight,
        "gamma": head.batch_weight,
        "clamp_range": [0, 1] if laplace else [-1, 1],
    }
    powers = {"quantize.basis": head.dim, "quantize.group_basis": head.group}
    return Published(own, config, {name: 2 ** torch.arange(bits - 1, -1, -1) for name, bits in powers.items()})


def settings_of(sizes: ViTSizes) -> dict[str, Any]:
    """Arguments of one transformer."""
    return {
        "image_size": sizes.image_size,
        "patch_size": sizes.patch,
        "width": sizes.dim,
        "layers": sizes.depth,
        "heads": sizes.num_heads,
        "mlp_ratio": sizes.mlp_ratio,
        "drop_rate": 0.0,
    }


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"config.yaml": {"model": {"target": "transcoder.models.bsqvit.VITBSQModel", "params": dict(config)}}}


CONTAINER = Container("model.pt", "state_dict", settings, USAGE, prefix="module.")
