"""Importer of VAR's multi-scale tokenizer (arXiv:2404.02905)."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from vistok.formats import plain
from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.hyperparameters import Unknown, get, only
from vistok.formats.importers.key_map import Rule
from vistok.formats.importers.learned_heads import as_learned
from vistok.formats.importers.published import Container, Published, attending
from vistok.quantizers import MultiScaleQuantizer, VectorQuantizer
from vistok.quantizers.scale_schedules import PUBLISHED, Schedule, fixed
from vistok.tokenizer import Tokenizer
from vistok.untrusted.bounded_json import short

PHI = "quantizer.convolutions."
RULES = (
    *vqgan_rules.networks(vqgan_rules.fused_attention),
    Rule("quantize.embedding.weight", "quantizer.head.table"),
    Rule("quantize.quant_resi.qresi_ls.{i}.{p}", f"{PHI}{{i}}.{{p}}"),  # share_quant_resi: 4, or another number above 1
    Rule("quantize.quant_resi.qresi.{p}", f"{PHI}0.{{p}}"),  # 1
    Rule("quantize.quant_resi.{i}.{p}", f"{PHI}{{i}}.{{p}}"),  # 0, one for each scale
)
COUNTS = "quantize.ema_vocab_hit_SV"  # moving counts of the codewords at each scale


def prepare(tensors: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """Takes the counts of codewords out of a file; returns the number of scales, None without counts."""
    counts = tensors.pop(COUNTS, None)
    return {"scales": None if counts is None else counts.shape[0] if counts.ndim else 0}


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool, scales: int | None) -> Tokenizer:
    """Builds the tokenizer for tensors with our names.

    Args:
        shapes: Shapes of the tensors by name.
        config: The caller's settings.
        sure: True if the caller has named the family.
        scales: Number of scales, if the file tells it.

    Raises:
        Unknown: The sides of the scales are neither the published model's nor given.
    """
    only(config, "using_znorm", False)
    size, dim = vqgan_rules.shape(shapes, "quantizer.head.table", 2)
    phi = vqgan_rules.count(shapes, PHI) if any(name.startswith(PHI) for name in shapes) else 0
    ratio = get(config, "quant_resi", 0.5)
    if type(ratio) not in (int, float) or not -1 <= ratio <= 1:
        raise ValueError(f"config's quant_resi must be a number from -1 to 1, not {short(ratio)}")
    path = vqgan_rules.path_down(shapes)
    published = (size, dim, phi, path["channels"], path["num_blocks"]) == (4096, 32, 4, 160, 2) and scales in (10, None)
    schedule = schedule_of(get(config, "v_patch_nums"), scales, published and path["multipliers"] == [1, 1, 2, 2, 4])
    head = MultiScaleQuantizer(VectorQuantizer(size, dim), schedule, phi, abs(ratio))
    return vqgan_rules.tokenizer(shapes, head)


def schedule_of(sides: Any, scales: int | None, published: bool) -> Schedule:
    """Schedule of scales for the sides in a configuration; ``var`` for published ones, which fits other sizes too.

    Args:
        sides: The configuration's ``v_patch_nums``; None if there are none.
        scales: Number of scales, if the file tells it.
        published: True if the model has the sizes of the published one.
    """
    if sides is None and published:
        return "var"
    if sides is None:
        number = "" if scales is None else f"{scales} "
        raise Unknown(
            f"its keys do not determine the sides of its {number}scales: give config={{'v_patch_nums': [1, 2, ...]}}, "
            "and 'quant_resi' if it is not 0.5"
        )
    if not isinstance(sides, Sequence) or any(type(side) is not int or not 1 <= side < 2**15 for side in sides):
        raise ValueError(f"config's v_patch_nums must be a list of sides of at least 1, not {short(sides)}")
    if scales not in (None, len(sides)):
        raise ValueError(f"config's v_patch_nums has {len(sides)} sides, but the file has counts of {scales} scales")
    return "var" if tuple(sides) in PUBLISHED["var"] else list(sides)


TARGET = "VAR's layout"
SINGLE = sorted(RULES, key=lambda rule: not rule.theirs.startswith("quantize.quant_resi.qresi."))  # first for one φ
USAGE = """
import json
import torch
from models.vqvae import VQVAE  # VAR's repository; ch_mult and num_res_blocks are constants in it

config = json.load(open("FOLDER/config.json"))
model = VQVAE(**{name: value for name, value in config.items() if name not in ("ch_mult", "num_res_blocks")})
model.load_state_dict(torch.load("FOLDER/vae.pth"))
"""


def write(tokenizer: Tokenizer) -> Published:
    """VQGAN's networks, with attention where VAR's have it, and maps of several scales in one table."""
    plain.check_networks(tokenizer, TARGET)
    head = tokenizer.quantizer
    if type(head) is not MultiScaleQuantizer:
        raise plain.refuse(TARGET, f"a {type(head).__name__}, only for a MultiScaleQuantizer")
    if head.upsampling != "bicubic" or (head.phi and not head.phi_ratio):
        raise plain.refuse(TARGET, f"upsampling={head.upsampling} with phi_ratio={head.phi_ratio}")
    own = plain.inference_copy(tokenizer)
    sides = sides_of(head)
    if any(head.factor(i) != 1 for i in range(len(sides))):
        raise plain.refuse(TARGET, f"factors={head.factors} of the scales")
    own.quantizer.head = as_learned(head.head, TARGET, l2=True)
    kernel = add_maps(own)
    ddconfig = attending(own, TARGET)
    if ddconfig["in_channels"] != 3 or ddconfig["out_ch"] != 3:
        raise plain.refuse(TARGET, f"images of {ddconfig['in_channels']} channels, only for 3")
    last = (len(ddconfig["ch_mult"]) - 1,)
    if own.encoder.attention != last:
        raise plain.refuse(TARGET, f"attention={own.encoder.attention}, only for the last level, {last}")
    size, dim = own.quantizer.head.codewords.shape
    config = {
        "vocab_size": size,
        "z_channels": dim,
        "ch": ddconfig["ch"],
        "ch_mult": ddconfig["ch_mult"],
        "num_res_blocks": ddconfig["num_res_blocks"],
        "beta": 0.25,
        "using_znorm": False,
        "quant_conv_ks": kernel,
        "quant_resi": head.phi_ratio if head.phi else 0.0,
        "share_quant_resi": max(head.phi, 1),
        "v_patch_nums": sides,
    }
    counts = {COUNTS: torch.zeros(len(sides), size)}
    return Published(own, config, counts, SINGLE if head.phi == 1 else ())


def sides_of(head: MultiScaleQuantizer) -> list[int]:
    """Sides of all scales: those of a fixed schedule, or those published for 256 pixels."""
    if isinstance(head.schedule, str):
        return list(PUBLISHED[head.schedule][0])
    grids = fixed(head.schedule)
    if any(h != w for h, w in grids):
        raise plain.refuse(TARGET, f"schedule={head.schedule}, only for squares")
    return [h for h, _ in grids]


def add_maps(tokenizer: Tokenizer) -> int:
    """Gives a tokenizer both maps around the head, with one kernel, whose side is returned."""
    maps = {name: getattr(tokenizer, name) for name in ("to_latent", "from_latent")}
    kernels = {conv.kernel_size for conv in maps.values() if isinstance(conv, nn.Conv2d)} or {(1, 1)}
    channels = {tokenizer.encoder.dim, tokenizer.quantizer.dim}
    if len(kernels) > 1 or len(channels) > 1 or any(getattr(conv, "groups", 1) > 1 for conv in maps.values()):
        raise plain.refuse(
            TARGET, f"maps around the head of kernels {sorted(kernels)} and channels {sorted(channels)}, only for one"
        )
    side = kernels.pop()[0]
    for name, conv in maps.items():
        if not isinstance(conv, nn.Conv2d):
            (dim,) = channels
            own = nn.Conv2d(dim, dim, side, padding=side // 2).requires_grad_(False)
            nn.init.dirac_(own.weight)
            nn.init.zeros_(cast(Tensor, own.bias))
            setattr(tokenizer, name, own)
    return side


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the model, and the constants of its code."""
    return {"config.json": dict(config)}


CONTAINER = Container("vae.pth", None, settings, USAGE)
