"""Importer of Infinity's autoencoder (arXiv:2412.04431), whose codes are the bits of maps of several scales."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.hyperparameters import Unknown, get, only
from vistok.formats.importers.key_map import Rule, linear, under
from vistok.quantizers import BinaryQuantizer, MultiScaleQuantizer
from vistok.quantizers.scale_schedules import Schedule
from vistok.tokenizer import Tokenizer
from vistok.untrusted.bounded_json import short


def inner(rule: Rule) -> Rule:
    """Rule for the same layer in Infinity's names, where a norm or a convolution is one level deeper."""
    name = rule.theirs.removesuffix(".{p}")
    kind = "norm" if name.rpartition(".")[2].startswith("norm") else "conv"
    return rule._replace(theirs=f"{name}.{kind}.{{p}}")


RULES = (
    *map(inner, [
        *(rule for side in ("encoder", "decoder") for rule in under(side, side, vqgan_rules.ENDS)),
        *(rule for side in ("encoder", "decoder") for rule in vqgan_rules.middle(f"{side}.mid", f"{side}.mid")),
        *vqgan_rules.level("encoder.down.{i}", "encoder.levels.{i}"),
        *vqgan_rules.level("decoder.up.{i}", "decoder.levels.{~i}", resample="upsample.conv"),
    ]),
    linear(Rule("quantizer.project_in.{p}", "to_latent.{p}")),
    linear(Rule("quantizer.project_out.{p}", "from_latent.{p}")),
)  # fmt: skip
IGNORED = (r"quantizer\.lfq\.mask", r"quantize\..*")  # powers of 2; the same module under a second name
PUBLISHED = {  # scales of the released models, by the channels of their levels: f16, and f8 for patches of 2 x 2
    (128, 256, 512, 512, 512): "infinity_dynamic",
    (128, 256, 512, 512): "infinity_patches",
}
MODES = {"dynamic": "infinity_dynamic", "original": "infinity"}
LONGEST = 100  # scales of a schedule


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names."""
    for name in ("use_decay_factor", "drop_when_test", "mask_out", "use_pxsf"):
        only(config, name, False)
    groups, halvings = norm_groups(shapes), halving_levels(shapes)
    encoder = vqgan_rules.encoder(shapes, groups, halvings)
    decoder = vqgan_rules.decoder(shapes, norm_groups=groups, halvings=halvings)
    projected = "to_latent.weight" in shapes
    bits = vqgan_rules.shape(shapes, "to_latent.weight", 4)[0] if projected else encoder.dim
    with torch.device("cpu"):  # files do not contain its powers of 2
        head = BinaryQuantizer(bits, temperature=0.01, num_codebooks=num_codebooks(bits))
    head = MultiScaleQuantizer(
        head,
        schedule(config, tuple(encoder.sizes.widths)),
        phi=0,
        upsampling="bilinear",
        losses="steps",
        estimate="steps",
    )
    into, out = (vqgan_rules.conv(shapes, name) if projected else None for name in ("to_latent", "from_latent"))
    return Tokenizer(encoder, head, decoder, into, out)


def num_codebooks(bits: int) -> int:
    """Smallest number of codes that ``bits`` can be divided into, each of at most 62 bits: 2 for 64."""
    return next(k for k in range(1, bits + 1) if bits % k == 0 and bits // k <= 62)


def halving_levels(shapes: vqgan_rules.Shapes) -> int | None:
    """Number of levels that halve the grid, log2 of its ``patch_size``; None for all but the last."""
    found = sum(name.startswith("encoder.levels.") and name.endswith(".resample.conv.weight") for name in shapes)
    return None if found == vqgan_rules.count(shapes, "encoder.levels.") - 1 else found


def norm_groups(shapes: vqgan_rules.Shapes) -> int:
    """Groups of the norms as in its code: 32 for multiples of 32 channels, else 24 for multiples of 24.

    Raises:
        ValueError: A width has no such norm, or some have 32 groups and others 24.
    """
    norms = {shapes[name][0] for name in shapes if name.endswith(("norm1.weight", "norm_out.weight"))}
    found = {32 if width % 32 == 0 else 24 if width % 24 == 0 else 0 for width in norms}
    if found not in ({32}, {24}):
        raise ValueError(f"its widths {sorted(norms)} are not all multiples of 32, nor all of 24 and none of 32")
    return found.pop()


def schedule(config: Mapping[str, Any], widths: tuple[int, ...]) -> Schedule:
    """Scales of the caller's settings, or of the released models.

    Raises:
        Unknown: Nothing is given, and the widths are not those of a released model.
        ValueError: What is given are not scales of single images.
    """
    given = get(config, "schedule")
    if given is not None:
        if not isinstance(given, Sequence) or isinstance(given, str) or not 1 <= len(given) <= LONGEST:
            raise ValueError(f"config's schedule must be a list of 1 to {LONGEST} scales, not {short(given)}")
        return [scale(own) for own in given]
    patches = get(config, "apply_spatial_patchify")
    only(config, "apply_spatial_patchify", None, False, True, 0, 1)
    mode = get(config, "schedule_mode", "dynamic" if patches else None)
    if mode is None and widths in PUBLISHED:
        return cast(Schedule, PUBLISHED[widths])
    if mode is None:
        raise Unknown(
            "its keys do not determine the scales: give config={'schedule_mode': 'dynamic'}, the lists that its "
            "generators use for each aspect ratio, with 'apply_spatial_patchify': 1 for those that read patches; "
            "'original', those of the class's default; or {'schedule': [...]}, the sides of the scales of one size, "
            "such as [1, 2, 4, 8]"
        )
    if mode not in MODES or (patches and mode != "dynamic"):
        raise ValueError(f"schedule_mode={short(mode)} cannot be imported, only {' or '.join(MODES)}; or give schedule")
    return cast(Schedule, "infinity_patches" if patches else MODES[mode])


def scale(own: Any) -> tuple[int, int]:
    """One scale (h, w) of a list: a side, a pair of sides, or Infinity's (t, h, w) with a t of 1.

    Raises:
        ValueError: It is none of these.
    """
    sides = [own, own] if type(own) is int else list(own) if isinstance(own, Sequence) else []
    if len(sides) == 3 and sides[0] == 1:
        sides = sides[1:]
    if len(sides) != 2 or any(type(side) is not int or not 1 <= side < 2**15 for side in sides):
        raise ValueError(f"a scale of config's schedule must be a side, (h, w) or (1, h, w), not {short(own)}")
    return sides[0], sides[1]
