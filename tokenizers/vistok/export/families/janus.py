"""The VQ model of transformers' Janus: LlamaGen's network under other names, looked up in two ways."""

from collections.abc import Mapping
from typing import Any

from vistok.export.families import cnn
from vistok.export.families.config import get, only
from vistok.export.families.names import under
from vistok.quantizers import JanusQuantizer, Quantizer, VectorQuantizer
from vistok.tokenizer import Tokenizer

RULES = (
    *under("encoder", "encoder", cnn.ENDS),
    *cnn.level("encoder.down.{i}", "encoder.levels.{i}"),
    *cnn.middle("encoder.mid", "encoder.mid"),
    *under("decoder", "decoder", cnn.ENDS),
    *cnn.middle("decoder.mid", "decoder.mid"),
    *cnn.level("decoder.up.{i}", "decoder.levels.{i}", resample="upsample.conv"),  # smallest first, unlike taming's
    *cnn.MAPS,
    cnn.TABLE,
)


def build(shapes: cnn.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """The tokenizer that tensors of our names are for.

    transformers chooses codes by L2 and decodes unit codewords, and so does this one. DeepSeek's own code, from which
    the weights are, takes unit vectors for both: ``config={"codebook_l2_norm": True}``.
    """
    only(config, "double_latent", False)
    size, dim = cnn.shape(shapes, "quantizer.table", 2)
    as_trained = get(config, "codebook_l2_norm", False) is True
    head: Quantizer = VectorQuantizer(size, dim, cosine=True) if as_trained else JanusQuantizer(size, dim)
    to_latent, from_latent = cnn.conv(shapes, "to_latent"), cnn.conv(shapes, "from_latent")
    return Tokenizer(cnn.encoder(shapes), head, cnn.decoder(shapes), to_latent, from_latent)
