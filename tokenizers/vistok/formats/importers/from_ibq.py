"""Importer of SEED-Voken's IBQ and of Emu3.5's tokenizer (arXiv:2412.02692, arXiv:2510.26583): VQGAN's names."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vistok.formats import plain
from vistok.formats.importers import from_taming, vqgan_rules
from vistok.formats.importers.hyperparameters import only
from vistok.formats.importers.published import Container, Published, attending
from vistok.quantizers import IBQ
from vistok.tokenizer import Tokenizer

RULES = from_taming.RULES
# Channels at full resolution and codewords of the published models, all with 4 blocks a level and codes of 256
# channels: IBQ's, pretrained ones among them, and Emu3.5's.
PUBLISHED = ((128, 1024), (128, 8192), (128, 16384), (128, 262144), (256, 131072))


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names."""
    for name in ("l2_norm", "l2_normalize", "cosine_similarity", "ddconfig.double_z"):
        only(config, name, False)
    return vqgan_rules.tokenizer(shapes, IBQ(*vqgan_rules.shape(shapes, "quantizer.table", 2)))


def published(tensors: Mapping[str, Any]) -> bool:
    """True if tensors under VQGAN's names have the sizes of a published IBQ model, which no published VQGAN has."""
    table, first = tensors.get("quantize.embedding.weight"), tensors.get("encoder.conv_in.weight")
    if not isinstance(table, Tensor) or not isinstance(first, Tensor) or table.ndim != 2 or first.ndim != 4:
        return False
    blocks = sum(f"encoder.down.0.block.{i}.norm1.weight" in tensors for i in range(5))
    return blocks == 4 and table.shape[1] == 256 and (first.shape[0], table.shape[0]) in PUBLISHED


TARGET = "IBQ's layout"
USAGE = """
from src.utils.model_utils import build_vision_tokenizer  # Emu3.5's repository

model = build_vision_tokenizer("ibq", "FOLDER", device="cpu")

import torch
from omegaconf import OmegaConf
from src.IBQ.models.ibqgan import IBQ  # SEED-Voken's repository

model = IBQ(**OmegaConf.load("FOLDER/ibq.yaml").model.init_args)
model.load_state_dict(torch.load("FOLDER/model.ckpt")["state_dict"])
"""


def write(tokenizer: Tokenizer) -> Published:
    """VQGAN's networks with IBQ's head; other heads do not choose codes by inner product in the table they decode."""
    plain.check_vqgan(tokenizer, TARGET)
    head = tokenizer.quantizer
    if type(head) is not IBQ:
        raise plain.refuse(TARGET, f"a {type(head).__name__}, only for the largest inner product with IBQ's codewords")
    own = plain.with_maps(plain.inference_copy(tokenizer))
    return Published(own, {"n_embed": head.codebook_size, "embed_dim": head.dim, "ddconfig": attending(own, TARGET)})


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration files of both repositories; Emu3.5's has no other name.

    Emu3.5's loader refuses names beyond those of the weights, so that the file has no averages and SEED-Voken's class
    must be made with this configuration: with ``use_ema: True`` it would evaluate the initial weights.
    """
    arguments = {**config, "lossconfig": {"target": "torch.nn.Identity"}, "use_ema": False}
    return {
        "config.yaml": dict(config),
        "ibq.yaml": {"model": {"class_path": "src.IBQ.models.ibqgan.IBQ", "init_args": arguments}},
    }


CONTAINER = Container("model.ckpt", "state_dict", settings, USAGE)
