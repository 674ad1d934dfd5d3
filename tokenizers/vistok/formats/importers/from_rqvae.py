"""Importer of RQ-VAE (arXiv:2203.01941)."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from vistok.formats import plain
from vistok.formats.importers import from_taming_ema, vqgan_rules
from vistok.formats.importers.hyperparameters import only
from vistok.formats.importers.key_map import Rule, to_theirs
from vistok.formats.importers.published import Container, Published, attending
from vistok.quantizers import Quantizer, ResidualQuantizer, VectorQuantizer
from vistok.tokenizer import Tokenizer

CODEBOOKS = "quantizer.codebooks."
RESTARTS = {"restart": 1.0, "restart_unit": "vector"}  # of codewords with less than one vector
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


def prepare(tensors: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
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
    heads = [VectorQuantizer(size, dim, ema_decay=from_taming_ema.DECAY, **RESTARTS) for size, dim in sizes]
    return vqgan_rules.tokenizer(shapes, ResidualQuantizer(heads, depth))


TARGET = "RQ-VAE's layout"
USAGE = """
import torch
from omegaconf import OmegaConf
from rqvae.models import create_model  # the authors' repository

model, _ = create_model(OmegaConf.load("FOLDER/config.yaml").arch)
model.load_state_dict(torch.load("FOLDER/model.pt")["state_dict"])
"""


def write(tokenizer: Tokenizer) -> Published:
    """VQGAN's networks with depths of plain codebooks, one for all or one each."""
    plain.check_vqgan(tokenizer, TARGET)
    own = plain.with_maps(plain.inference_copy(tokenizer, folded=False))
    head = own.quantizer
    if type(head) is not ResidualQuantizer:
        raise plain.refuse(TARGET, f"a {type(head).__name__}, only for a ResidualQuantizer")
    if any(head.factor(i) != 1 for i in range(head.depth)):
        raise plain.refuse(TARGET, f"factors={head.factors} of the depths")
    heads = [from_taming_ema.averaging(part, TARGET, **RESTARTS) for part in cast(Sequence[Quantizer], head.heads)]
    own.quantizer, shared = ResidualQuantizer(heads, head.depth).eval(), len(heads) < head.depth
    extra = {}
    if shared:
        first = {name: t for name, t in to_theirs(RULES, own.state_dict()).items() if name.startswith(CODEBOOKS)}
        for name, tensor in first.items():
            extra |= {name.replace(".0.", f".{depth}."): tensor for depth in range(1, head.depth)}
    ddconfig = attending(own, TARGET)
    side = ddconfig["resolution"] // tokenizer.factor
    sizes = [part.codebook_size for part in heads]
    config = {
        "bottleneck_type": "rq",
        "embed_dim": head.dim,
        "n_embed": sizes if len(set(sizes)) > 1 else sizes[0],
        "latent_shape": [side, side, head.dim],
        "code_shape": [side, side, head.depth],
        "shared_codebook": shared or head.depth == 1,
        "decay": from_taming_ema.DECAY,
        "restart_unused_codes": True,
        "loss_type": "mse",
        "latent_loss_weight": 0.25,
        "ddconfig": ddconfig,
    }
    return Published(own, config, extra)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model in the configuration of the repository."""
    hparams = {name: value for name, value in config.items() if name != "ddconfig"}
    arch = {
        "type": "rq-vae",
        "code_hier": 1,
        "hparams": hparams,
        "ddconfig": config["ddconfig"],
        "checkpointing": False,
    }
    return {"config.yaml": {"arch": arch}}


CONTAINER = Container("model.pt", "state_dict", settings, USAGE)
