"""Importer of taming-transformers' VQGAN whose codebook is learned as moving averages (its class ``EMAVQ``)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vistok.formats import plain
from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.hyperparameters import only
from vistok.formats.importers.key_map import Rule
from vistok.formats.importers.learned_heads import as_learned
from vistok.formats.importers.published import Container, Published, attending
from vistok.quantizers import Quantizer, VectorQuantizer
from vistok.tokenizer import Tokenizer

DECAY = 0.99  # of its class
RULES = (
    *vqgan_rules.networks(),
    vqgan_rules.TABLE,
    Rule("quantize.embedding.cluster_size", "quantizer.ema_counts"),
    Rule("quantize.embedding.embed_avg", "quantizer.ema_sums"),
)


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names."""
    only(config, "ddconfig.double_z", False)
    size, dim = vqgan_rules.shape(shapes, "quantizer.table", 2)
    return vqgan_rules.tokenizer(shapes, VectorQuantizer(size, dim, ema_decay=DECAY))


TARGET = "the layout of taming-transformers' EMAVQ"
USAGE = """
import torch
from omegaconf import OmegaConf
from taming.models.vqgan import EMAVQ  # taming-transformers' repository

model = EMAVQ(**OmegaConf.load("FOLDER/config.yaml").model.params)  # as published, two names in its head are undefined
model.load_state_dict(torch.load("FOLDER/model.ckpt")["state_dict"])
"""


def write(tokenizer: Tokenizer) -> Published:
    """VQGAN's networks with any head that folds into one table, with the moving averages that it has."""
    plain.check_vqgan(tokenizer, TARGET)
    own = plain.with_maps(plain.inference_copy(tokenizer, folded=False))
    own.quantizer = averaging(own.quantizer, TARGET)
    size, dim = own.quantizer.codebook_size, own.quantizer.dim
    config = {"n_embed": size, "embed_dim": dim, "beta": 0.25, "ddconfig": attending(own, TARGET)}
    return Published(own, config)


def averaging(head: Quantizer, target: str, **arguments: Any) -> VectorQuantizer:
    """Head that goes on averaging from the codewords of another, and from its averages if it has any.

    Without averages each codeword counts as the mean of one vector.

    Args:
        head: A head with a single table.
        target: Name of the layout, for messages.
        arguments: Further arguments of ``VectorQuantizer``.
    """
    own = as_learned(head, target, l2=True, ema_decay=DECAY, **arguments)
    averages: dict[str, Tensor] = {"ema_counts": own.ema_counts.new_ones(own.codebook_size), "ema_sums": own.codewords}
    if type(head) is VectorQuantizer and head.ema_decay is not None and not head.cosine:
        averages = {name: getattr(head, name) for name in averages}
    for name, values in averages.items():
        getattr(own, name).copy_(values)
    return own


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration file of the repository."""
    loss = {"target": "taming.modules.losses.vqperceptual.DummyLoss"}
    return {"config.yaml": {"model": {"target": "taming.models.vqgan.EMAVQ", "params": {**config, "lossconfig": loss}}}}


CONTAINER = Container("model.ckpt", "state_dict", settings, USAGE)
