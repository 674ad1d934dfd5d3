"""Infinity's layout written: its autoencoder's tensors, and the arguments of its class (arXiv:2412.04431)."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.formats import plain
from vistok.formats.importers.from_infinity import MODES, num_codebooks
from vistok.formats.importers.published import Container, Published
from vistok.quantizers import BinaryQuantizer, MultiScaleQuantizer
from vistok.quantizers.scale_schedules import fixed
from vistok.tokenizer import Tokenizer

TARGET = "Infinity's layout"
USAGE = """
import json
from argparse import Namespace

import torch
from infinity.models.bsq_vae.flux_vqgan import AutoEncoder  # Infinity's repository

vae = AutoEncoder(Namespace(**json.load(open("FOLDER/vae.json"))))
vae.load_state_dict(torch.load("FOLDER/vae.pth")["vae"])
# tools/run_infinity.py --vae_path takes vae.pth of a model with the levels of a released one
"""
# Arguments of the class that do not describe the model: of losses, of training, and of variants that are off.
OTHERS = {
    "cnn_type": "2d",
    **dict.fromkeys(("conv_in_out_2d", "res_conv_2d", "conv_inner_2d"), "no"),
    "cnn_norm_axis": "spatial",
    "temporal_patch_size": 4,
    "quantizer_type": "MultiScaleBSQ",
    "new_quant": True,
    "encoder_dtype": "fp32",
    "flip_mode": "stochastic",
    "flip_prob": 0.5,
    "recon_loss_type": "l1",
    "entropy_loss_weight": 0.1,
    "commitment_loss_weight": 0.25,
    **dict.fromkeys(("diversity_gamma", "max_flip_lvl", "drop_lvl_num"), 1),
    **dict.fromkeys(("flip_lvl_idx", "drop_lvl_idx"), 0),
    **dict.fromkeys(("z_drop", "drop_rate"), 0.0),
    **dict.fromkeys((
        "use_vae", "use_checkpoint", "use_freq_dec", "use_pxsf", "preserve_norm", "ln_before_quant", "ln_init_by_sqrt",
        "use_decay_factor", "mask_out", "use_stochastic_depth", "keep_first_quant", "keep_last_quant",
        "remove_residual_detach", "use_out_phi", "use_out_phi_res", "random_flip", "random_flip_1lvl", "drop_when_test",
    ), False),
    **dict.fromkeys((
        "gan_feat_weight", "video_perceptual_weight", "l1_weight", "kl_weight", "lfq_weight", "image_gan_weight",
        "video_gan_weight", "perceptual_weight", "flux_weight", "cycle_weight", "cycle_feat_weight", "cycle_gan_weight",
    ), 0.0),
}  # fmt: skip


def write(tokenizer: Tokenizer) -> Published:
    """Infinity's networks, which are VQGAN's without attention in the levels, with multi-scale bits on the sphere."""
    plain.check_kinds(tokenizer, TARGET, CNNEncoder, CNNDecoder)
    plain.check_maps(tokenizer, TARGET)
    config = networks_of(tokenizer) | head_of(tokenizer)
    own = plain.inference_copy(tokenizer)
    if not all(isinstance(part, nn.Identity) for part in (own.to_latent, own.from_latent)):
        plain.with_maps(own)
    elif own.encoder.dim != own.decoder.dim:
        raise plain.refuse(TARGET, f"an encoder of dim={own.encoder.dim} before a decoder of dim={own.decoder.dim}")
    return Published(own, config | {"codebook_dim": own.encoder.dim}, twice(own))


def twice(tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Tensors that the class has besides ours: powers of 2, and all of the head under a second name."""
    extra = {"quantizer.lfq.mask": 2 ** torch.arange(tokenizer.quantizer.dim - 1, -1, -1)}
    for name, conv in (("project_in", tokenizer.to_latent), ("project_out", tokenizer.from_latent)):
        for kind, tensor in conv.state_dict().items():
            extra[f"quantizer.{name}.{kind}"] = tensor.flatten(1) if kind == "weight" else tensor
    return extra | {name.replace("quantizer", "quantize", 1): tensor for name, tensor in extra.items()}


def networks_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Arguments of the networks.

    Raises:
        ValueError: The class has no such networks.
    """
    encoder, decoder = cast(CNNEncoder, tokenizer.encoder), cast(CNNDecoder, tokenizer.decoder)
    down, up = encoder.sizes, decoder.sizes
    plain.same_blocks(tokenizer, TARGET)
    for part in (down, up):
        if part.patch != 1 or part.attention:
            raise plain.refuse(TARGET, f"patch={part.patch}, attention={part.attention}, only 1 and no levels")
    if down.mid_attention != up.mid_attention:
        raise plain.refuse(TARGET, "attention between the middle blocks of one network only")
    if encoder.in_channels != 3 or decoder.out_channels != 3:
        raise plain.refuse(TARGET, f"images of {encoder.in_channels} and {decoder.out_channels} channels, only for 3")
    if any(width % down.channels for width in up.widths):
        what = f"a decoder of {up.widths} channels, only for multiples of the encoder's channels={down.channels}"
        raise plain.refuse(TARGET, what)
    for norm in tokenizer.modules():
        if isinstance(norm, nn.GroupNorm):
            wanted = 32 if norm.num_channels % 32 == 0 else 24 if norm.num_channels % 24 == 0 else 0
            if norm.num_groups != wanted:
                what = f"{norm.num_groups} groups of {norm.num_channels} channels, only 32 groups"
                raise plain.refuse(TARGET, f"{what}, or 24 of channels that 32 does not divide")
    return {
        "base_ch": down.channels,
        "encoder_ch_mult": list(down.multipliers),
        "decoder_ch_mult": [width // down.channels for width in up.widths],
        "num_res_blocks": down.num_blocks,
        "patch_size": 2**down.num_halvings,
        "cnn_attention": "yes" if down.mid_attention else "no",
    }


def head_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Number of codes, and the scales.

    Raises:
        ValueError: The class has no such head.
    """
    head = tokenizer.quantizer
    inner = getattr(head, "head", None)
    if type(head) is not MultiScaleQuantizer or type(inner) is not BinaryQuantizer or not inner.spherical:
        what = f"a {type(head).__name__} of {type(inner).__name__}" if inner else f"a {type(head).__name__}"
        raise plain.refuse(TARGET, f"{what}, only for a MultiScaleQuantizer of a spherical BinaryQuantizer")
    for name, wanted in (("phi", 0), ("upsampling", "bilinear"), ("factors", 1)):
        if getattr(head, name) != wanted:
            raise plain.refuse(TARGET, f"{name}={getattr(head, name)!r}, only for {wanted!r}")
    if inner.num_codebooks != num_codebooks(inner.dim):
        what = f"num_codebooks={inner.num_codebooks}, only for {num_codebooks(inner.dim)}"
        raise plain.refuse(TARGET, f"{what}, with which {inner.dim} bits are read")
    modes = {schedule: mode for mode, schedule in MODES.items()} | {"infinity_patches": "dynamic"}
    if isinstance(head.schedule, str) and head.schedule not in modes:
        raise plain.refuse(TARGET, f"schedule={head.schedule!r}, only for a list or {', '.join(modes)}")
    found: dict[str, Any] = {"codebook_size": 2**inner.dim}
    if not isinstance(head.schedule, str):
        return found | {"schedule": [[1, h, w] for h, w in fixed(head.schedule)]}
    patches = {"apply_spatial_patchify": 1} if head.schedule == "infinity_patches" else {}
    return found | {"schedule_mode": modes[head.schedule]} | patches


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of the class; scales of one size are an argument of its methods instead, ``scale_schedule``."""
    return {"vae.json": {**OTHERS, "schedule_mode": "dynamic", **config}}


CONTAINER = Container("vae.pth", "vae", settings, USAGE)
