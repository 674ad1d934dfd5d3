"""Importer of WeTok (arXiv:2508.05599) and of BitDance's autoencoder, the same network with several codes a position.

Their names are Open-MAGVIT2's. The decoder for high compression has noise as a second half of its input.
"""

from collections.abc import Mapping
from typing import Any

import torch

from vistok.formats.importers import from_openmagvit2, from_simvq, vqgan_rules
from vistok.formats.importers.hyperparameters import Unknown, get, need, only
from vistok.quantizers import BinaryQuantizer
from vistok.tokenizer import Tokenizer

BITS = (32, 64, 128, 256)  # of the published models, with 256 channels and 4 blocks a level
EACH = 8  # bits of a code of theirs


def recognised(tensors: Mapping[str, Any]) -> bool:
    """True for the sizes of a published model, or a decoder with noise, under Open-MAGVIT2's names."""
    names = ("encoder.conv_in.weight", "encoder.conv_out.weight", "decoder.conv_in.weight")
    first, last, decoder = (tuple(getattr(tensors.get(name), "shape", ())) for name in names)
    if any(len(own) != 4 for own in (first, last, decoder)):
        return False
    return (first[0] == 256 and last[0] in BITS) or decoder[1] == 2 * last[0]


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names."""
    only(config, "ddconfig.double_z", False)
    encoder, decoder = from_simvq.networks(shapes)
    only(config, "gan_decoder", decoder.generative)
    return Tokenizer(encoder, head(encoder.dim, num_codebooks(encoder.dim, encoder.channels, config)), decoder)


def head(bits: int, codes: int) -> BinaryQuantizer:
    """Head with WeTok's losses."""
    with torch.device("cpu"):  # files do not contain its powers of 2
        return BinaryQuantizer(bits, spherical=False, temperature=0.01, group=None, num_codebooks=codes, pooled=True)


def num_codebooks(bits: int, channels: int, config: Mapping[str, Any]) -> int:
    """Number of codes that the bits of a position make: the caller's, or that of a published model.

    Raises:
        Unknown: The caller gives none, and there is no published model of this size.
        ValueError: The bits cannot be divided into the caller's number, or ``n_embed`` is not the size of each code.
    """
    known = bits // EACH if channels == 256 and bits in BITS else None
    choices = [k for k in range(1, bits + 1) if bits % k == 0 and bits // k <= 62]
    listed = ", ".join(map(str, choices))
    if known is None and get(config, "num_codebooks") is None:
        raise Unknown(
            f"its keys do not determine how many codes the {bits} bits of a position make, which WeTok and BitDance "
            f"divide into codes of {EACH}: give config={{'num_codebooks': ...}}, one of {listed}"
        )
    codes = need(config, "num_codebooks", int, known)
    if codes not in choices:
        raise ValueError(f"config's num_codebooks={codes} must be one of {listed}, for {bits} bits")
    only(config, "n_embed", 2 ** (bits // codes))
    return codes


RULES, IGNORED = from_openmagvit2.RULES, from_openmagvit2.IGNORED
