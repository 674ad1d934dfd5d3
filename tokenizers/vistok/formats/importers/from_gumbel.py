"""Importer of taming-transformers' VQGAN with Gumbel-softmax codes, as its released f8 model of 8,192 codes."""

from collections.abc import Mapping
from typing import Any

from vistok.formats import plain
from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.hyperparameters import only
from vistok.formats.importers.key_map import Rule
from vistok.formats.importers.published import Container, Published, attending
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


TARGET = "the layout of taming-transformers' GumbelVQ"
USAGE = """
import torch
from omegaconf import OmegaConf
from taming.models.vqgan import GumbelVQ  # taming-transformers' repository

model = GumbelVQ(**OmegaConf.load("FOLDER/config.yaml").model.params)
model.load_state_dict(torch.load("FOLDER/model.ckpt")["state_dict"])
"""


def write(tokenizer: Tokenizer) -> Published:
    """VQGAN's networks with Gumbel codes of as many channels as the encoder's, which its class needs."""
    plain.check_vqgan(tokenizer, TARGET)
    head = tokenizer.quantizer
    if type(head) is not GumbelQuantizer:
        raise plain.refuse(TARGET, f"a {type(head).__name__}, only for a GumbelQuantizer")
    channels = (tokenizer.encoder.dim, head.input_dim or head.dim, head.dim)
    if len(set(channels)) > 1:
        raise plain.refuse(TARGET, "an encoder, scores and codewords of {}, {} and {} channels".format(*channels))
    own = plain.with_maps(plain.inference_copy(tokenizer))
    schedule = {
        "warm_up_steps": head.warmup,
        "lr_min": head.final,
        "lr_max": head.temperature,
        "lr_start": head.temperature if head.start is None else head.start,
        "max_decay_steps": head.updates,
        "verbosity_interval": 0,
    }
    config = {
        "n_embed": head.codebook_size,
        "embed_dim": head.dim,
        "kl_weight": 1e-8,
        "ddconfig": attending(own, TARGET),
        "temperature_scheduler_config": {
            "target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler",
            "params": schedule,
        },
    }
    return Published(own, config)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration file of the repository."""
    loss = {"target": "taming.modules.losses.vqperceptual.DummyLoss"}
    arguments = {**config, "lossconfig": loss}
    return {"config.yaml": {"model": {"target": "taming.models.vqgan.GumbelVQ", "params": arguments}}}


CONTAINER = Container("model.ckpt", "state_dict", settings, USAGE)
