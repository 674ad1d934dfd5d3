"""Importer of VAR's multi-scale tokenizer (arXiv:2404.02905)."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.hyperparameters import Unknown, get, only
from vistok.formats.importers.key_map import Rule
from vistok.quantizers import MultiScaleQuantizer, VectorQuantizer
from vistok.quantizers.scale_schedules import PUBLISHED, Schedule
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
USAGE = "quantize.ema_vocab_hit_SV"  # moving counts of the codewords at each scale


def prepare(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Takes the counts of codewords out of a file; returns the number of scales, None without counts."""
    usage = tensors.pop(USAGE, None)
    return {"scales": None if usage is None else usage.shape[0] if usage.ndim else 0}


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
