"""Importer of transformers' Janus VQ model: LlamaGen's network under other names, with two kinds of lookup."""

from collections.abc import Mapping
from typing import Any

from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.hyperparameters import get, only
from vistok.formats.importers.key_map import under
from vistok.quantizers import JanusQuantizer, Quantizer, VectorQuantizer
from vistok.tokenizer import Tokenizer

RULES = (
    *under("encoder", "encoder", vqgan_rules.ENDS),
    *vqgan_rules.level("encoder.down.{i}", "encoder.levels.{i}"),
    *vqgan_rules.middle("encoder.mid", "encoder.mid"),
    *under("decoder", "decoder", vqgan_rules.ENDS),
    *vqgan_rules.middle("decoder.mid", "decoder.mid"),
    *vqgan_rules.level(
        "decoder.up.{i}", "decoder.levels.{i}", resample="upsample.conv"
    ),  # smallest first, unlike taming's
    *vqgan_rules.MAPS,
    vqgan_rules.TABLE,
)


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names.

    transformers selects codes by L2 and decodes unit codewords, and so does this tokenizer. DeepSeek's own code, which
    trained the weights, uses unit vectors for both: ``config={"codebook_l2_norm": True}``.
    """
    only(config, "double_latent", False)
    size, dim = vqgan_rules.shape(shapes, "quantizer.table", 2)
    cosine = get(config, "codebook_l2_norm", False) is True
    head: Quantizer = VectorQuantizer(size, dim, cosine=True) if cosine else JanusQuantizer(size, dim)
    to_latent, from_latent = vqgan_rules.conv(shapes, "to_latent"), vqgan_rules.conv(shapes, "from_latent")
    return Tokenizer(vqgan_rules.encoder(shapes), head, vqgan_rules.decoder(shapes), to_latent, from_latent)
