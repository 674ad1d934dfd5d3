"""Importer of taming-transformers' VQGAN with Gumbel-softmax codes, as its released f8 model of 8,192 codes."""

from collections.abc import Mapping
from typing import Any

from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.hyperparameters import only
from vistok.formats.importers.key_map import Rule
from vistok.quantizers import GumbelQuantizer
from vistok.tokenizer import Tokenizer

RULES = (
    *vqgan_rules.networks(),
    Rule("quantize.proj.{p}", "quantizer.logits.{p}"),
    Rule("quantize.embed.weight", "quantizer.table"),
)


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names; it takes the largest logit, without the noise of their code."""
    only(config, "ddconfig.double_z", False)
    codebook_size, dim = vqgan_rules.shape(shapes, "quantizer.table", 2)
    into = vqgan_rules.shape(shapes, "quantizer.logits.weight", 4)[1]
    return vqgan_rules.tokenizer(shapes, GumbelQuantizer(codebook_size, dim, None if into == dim else into))
