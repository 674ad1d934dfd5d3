"""Importer of Open-MAGVIT2's image models (arXiv:2409.04410)."""

from collections.abc import Mapping
from typing import Any

import torch

from vistok.formats.importers import from_simvq, vqgan_rules
from vistok.formats.importers.hyperparameters import Unknown, only
from vistok.formats.importers.key_map import Rule
from vistok.quantizers import BinaryQuantizer
from vistok.tokenizer import Tokenizer

RULES = (
    *from_simvq.NETWORKS,
    Rule("decoder.adaptive.{i}.gamma.{p}", "decoder.norms.{~i}.gamma.{p}"),
    Rule("decoder.adaptive.{i}.beta.{p}", "decoder.norms.{~i}.beta.{p}"),
)
IGNORED = (r"quantize\.(mask|codebook)",)  # powers of 2, and signs
BITS = (14, 18)  # of the published models, with 128 channels and 4 blocks a level


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names.

    Raises:
        Unknown: It may be WeTok's or BitDance's.
    """
    only(config, "ddconfig.double_z", False)
    only(config, "num_codebooks", 1)
    encoder, decoder = from_simvq.networks(shapes)
    if not sure and (encoder.channels, encoder.num_blocks) + (encoder.dim in BITS,) != (128, 4, True):
        raise Unknown(
            "Open-MAGVIT2, WeTok and BitDance have the same names, but Open-MAGVIT2 has one code of all bits at a "
            f"position, and was not published with {encoder.dim} bits behind {encoder.num_blocks} blocks a level of "
            f"{encoder.channels} channels or more: give family='openmagvit2' if it is one, otherwise "
            "family='wetok' or family='bitdance' and config={'num_codebooks': ...}, the number of codes"
        )
    with torch.device("cpu"):  # files do not contain its powers of 2
        head = BinaryQuantizer(encoder.dim, spherical=False, temperature=0.01, group=None)
    return Tokenizer(encoder, head, decoder)
