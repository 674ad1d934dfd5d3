"""Importer of taming-transformers' VQGAN and latent diffusion's VQ models (arXiv:2012.09841, arXiv:2112.10752)."""

from collections.abc import Mapping
from typing import Any, cast

from vistok.backbones.cnn import CNNSizes
from vistok.formats import plain
from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.hyperparameters import Unknown, only
from vistok.formats.importers.published import Container, Published, ddconfig
from vistok.quantizers import VectorQuantizer
from vistok.tokenizer import Tokenizer

RULES = (*vqgan_rules.networks(), vqgan_rules.TABLE)
# Codewords and dimension of the published models with 128 channels and 2 blocks in each level. IBQ's have 4 blocks.
PUBLISHED = ((1024, 256), (16384, 256), (8192, 256), (8192, 3), (16384, 4), (256, 4), (16384, 8))


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names.

    Args:
        shapes: Shapes of the tensors by name.
        config: The caller's settings.
        sure: True if the caller has named the family.

    Raises:
        Unknown: It may be IBQ's.
    """
    only(config, "l2_norm", False)
    only(config, "ddconfig.double_z", False)
    codebook_size, dim = vqgan_rules.shape(shapes, "quantizer.table", 2)
    tokenizer = vqgan_rules.tokenizer(shapes, VectorQuantizer(codebook_size, dim))
    sizes = cast(CNNSizes, tokenizer.encoder.sizes)
    published = (sizes.channels, sizes.num_blocks) == (128, 2) and (codebook_size, dim) in PUBLISHED
    if not sure and sizes.mid_attention and not published:
        raise Unknown(
            "VQGAN and IBQ have the same names of tensors, but IBQ chooses codes by inner product. No published model "
            f"of them has {codebook_size} codewords of {dim} channels, {sizes.num_blocks} blocks a level and "
            f"a base width of {sizes.channels} channels: give family='taming' or family='ibq'"
        )
    return tokenizer


TARGET = "taming-transformers' layout"
USAGE = """
import torch
from ldm.models.autoencoder import VQModelInterface  # latent diffusion's repository
from omegaconf import OmegaConf
from taming.models.vqgan import VQModel  # taming-transformers' repository, for networks with attention

model = VQModel(**OmegaConf.load("FOLDER/config.yaml").model.params)
model = VQModelInterface(**OmegaConf.load("FOLDER/ldm.yaml").model.params)  # or as first_stage_config
model.load_state_dict(torch.load("FOLDER/model.ckpt")["state_dict"])
"""


def write(tokenizer: Tokenizer) -> Published:
    """VQGAN's networks with any head that folds into one table, which taming-transformers searches by L2."""
    folded = plain.vqgan(tokenizer, TARGET)
    plain.refuse_two_tables(folded, TARGET)
    head = folded.quantizer
    config = {"n_embed": head.codebook_sizes[0], "embed_dim": head.dim, "ddconfig": ddconfig(folded, TARGET)}
    return Published(plain.by_l2(folded), config)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration files of both repositories; taming-transformers' model always has attention."""
    files = {"ldm.yaml": ("ldm.models.autoencoder.VQModelInterface", "torch.nn.Identity")}
    if "attn_type" not in config["ddconfig"]:
        files["config.yaml"] = ("taming.models.vqgan.VQModel", "taming.modules.losses.vqperceptual.DummyLoss")
    return {
        name: {"model": {"target": model, "params": {**config, "lossconfig": {"target": loss}}}}
        for name, (model, loss) in files.items()
    }


CONTAINER = Container("model.ckpt", "state_dict", settings, USAGE)
