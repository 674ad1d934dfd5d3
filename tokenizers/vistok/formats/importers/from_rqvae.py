"""Importer of RQ-VAE (arXiv:2203.01941)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.hyperparameters import only
from vistok.formats.importers.key_map import Rule
from vistok.quantizers import ResidualQuantizer, VectorQuantizer
from vistok.tokenizer import Tokenizer

CODEBOOKS = "quantizer.codebooks."
RULES = (
    *vqgan_rules.networks(),
    Rule(
        f"{CODEBOOKS}{{i}}.weight",
        "quantizer.heads.{i}.table",
        lambda t: t[:-1],  # the last row is for positions without a code, which ours does not have
        lambda t: torch.cat([t, torch.zeros_like(t[:1])]),
    ),
    Rule(f"{CODEBOOKS}{{i}}.cluster_size_ema", "quantizer.heads.{i}.ema_counts"),
    Rule(f"{CODEBOOKS}{{i}}.embed_ema", "quantizer.heads.{i}.ema_sums"),
)


def prepare(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Takes the repeated codebooks out of a file whose depths share one; returns the number of depths."""
    codebooks: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(CODEBOOKS):
            depth, _, own = name.removeprefix(CODEBOOKS).partition(".")
            codebooks.setdefault(depth, {})[own] = tensor
    first, *others = codebooks.values()
    if all(own.keys() == first.keys() and all(map(torch.equal, own.values(), first.values())) for own in others):
        for depth in codebooks.keys() - {"0"}:
            for own in first:
                tensors.pop(f"{CODEBOOKS}{depth}.{own}")
    return {"depth": len(codebooks)}


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool, depth: int) -> Tokenizer:
    """Builds the tokenizer for tensors with our names.

    Args:
        shapes: Shapes of the tensors by name.
        config: The caller's settings.
        sure: True if the caller has named the family.
        depth: Number of depths.
    """
    only(config, "ddconfig.double_z", False)
    number = vqgan_rules.count(shapes, "quantizer.heads.")
    sizes = [vqgan_rules.shape(shapes, f"quantizer.heads.{i}.table", 2) for i in range(number)]
    only(config, "shared_codebook", number < depth or depth == 1)
    channels = vqgan_rules.shape(shapes, "to_latent.weight", 4)[0]
    if any(dim != channels for _, dim in sizes):
        raise ValueError(
            f"its codewords have {sizes[0][1]} channels, its latent {channels}: codes of several positions together "
            "cannot be imported"
        )
    heads = [VectorQuantizer(size, dim, ema_decay=0.99, restart=1.0, restart_unit="vector") for size, dim in sizes]
    return vqgan_rules.tokenizer(shapes, ResidualQuantizer(heads, depth))
