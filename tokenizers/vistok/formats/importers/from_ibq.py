"""Importer of SEED-Voken's IBQ and of Emu3.5's tokenizer (arXiv:2412.02692, arXiv:2510.26583): VQGAN's names."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vistok.formats.importers import from_taming, vqgan_rules
from vistok.formats.importers.hyperparameters import only
from vistok.quantizers import IBQ
from vistok.tokenizer import Tokenizer

RULES = from_taming.RULES
# Channels at full resolution and codewords of the published models, all with 4 blocks a level and codes of 256
# channels: IBQ's, pretrained ones among them, and Emu3.5's.
PUBLISHED = ((128, 1024), (128, 8192), (128, 16384), (128, 262144), (256, 131072))


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names."""
    only(config, "l2_norm", False)
    only(config, "ddconfig.double_z", False)
    return vqgan_rules.tokenizer(shapes, IBQ(*vqgan_rules.shape(shapes, "quantizer.table", 2)))


def published(tensors: Mapping[str, Any]) -> bool:
    """True if tensors under VQGAN's names have the sizes of a published IBQ model, which no published VQGAN has."""
    table, first = tensors.get("quantize.embedding.weight"), tensors.get("encoder.conv_in.weight")
    if not isinstance(table, Tensor) or not isinstance(first, Tensor) or table.ndim != 2 or first.ndim != 4:
        return False
    blocks = sum(f"encoder.down.0.block.{i}.norm1.weight" in tensors for i in range(5))
    return blocks == 4 and table.shape[1] == 256 and (first.shape[0], table.shape[0]) in PUBLISHED
