"""Importer of TiTok, TA-TiTok and One-D-Piece (arXiv:2406.07550, arXiv:2501.07730, arXiv:2501.10064): 1-D tokens."""

import math
from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from vistok.backbones import MaskGITDecoder, ProxyPixels, TiTokDecoder, TiTokEncoder
from vistok.backbones.titok import TiTokSizes
from vistok.formats import plain
from vistok.formats.importers import from_maskgit, vqgan_rules
from vistok.formats.importers.from_fqgan import TRANSFORMER
from vistok.formats.importers.hyperparameters import get, need
from vistok.formats.importers.key_map import Rule, under
from vistok.formats.importers.learned_heads import as_learned
from vistok.formats.importers.published import Container, Published
from vistok.images.ranges import PixelMap
from vistok.quantizers import VectorQuantizer
from vistok.tokenizer import Tokenizer


def transformer(side: str) -> list[Rule]:
    """Rules of a transformer and of what enters it."""
    theirs, ours = f"{side}.transformer.{{i}}", f"{side}.blocks.{{i}}"
    return [
        Rule(f"{side}.class_embedding", f"{side}.class_token"),
        Rule(f"{side}.positional_embedding", f"{side}.positions"),
        Rule(f"{side}.latent_token_positional_embedding", f"{side}.latent_positions"),
        *under(side, side, {"ln_pre": "norm_in", "ln_post": "norm_out"}),
        *under(theirs, ours, TRANSFORMER),
        Rule(f"{theirs}.attn.in_proj_{{p}}", f"{ours}.attention.qkv.{{p}}"),
    ]


LOGITS, PIXELS = Rule("decoder.ffn.2.{p}", "decoder.conv_out.{p}"), Rule("decoder.conv_out.{p}", "decoder.conv_out.{p}")
RULES = (
    Rule("latent_tokens", "encoder.latent_tokens"),
    *transformer("encoder"),
    *under("encoder", "encoder", {"patch_embed": "conv_in", "conv_out": "conv_out"}),
    *transformer("decoder"),
    *under("decoder", "decoder", {"decoder_embed": "linear_in", "text_guidance_proj": "text_in", "ffn.0": "hidden.0"}),
    Rule("decoder.mask_token", "decoder.mask_token", lambda t: t[0] if t.ndim == 3 else t, lambda t: t[None]),
    Rule("decoder.text_guidance_positional_embedding", "decoder.text_positions"),
    LOGITS,
    PIXELS,
    vqgan_rules.TABLE,
    Rule("pixel_quantize.embedding.weight", "pixels.codewords"),
    *from_maskgit.decoder_rules("pixel_decoder", "pixels.decoder"),
)
IGNORED = (r"quantize\.embed_prob",)  # moving averages of the restarts in training
HEADS = {512: 8, 768: 12, 1024: 16}  # attention heads of the published models, by width
SIZES = {"small": 8, "base": 12, "large": 16}  # the same by their names
L2_NORM = {12: True, 64: False}  # of the published codewords, by their channels


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names.

    Raises:
        ValueError: It is a first stage, which predicts codes of a tokenizer that is not in the file.
    """
    codebook_size, dim = vqgan_rules.shape(shapes, "quantizer.table", 2)
    logits = vqgan_rules.shape(shapes, "decoder.hidden.0.weight", 4)[0] == 2 * width_of(shapes, "decoder")
    if logits and "pixels.codewords" not in shapes:
        raise ValueError(
            "it is TiTok's first stage: its decoder predicts codes of another tokenizer, whose decoder is not in the "
            "file; the second stage has both"
        )
    head = VectorQuantizer(codebook_size, dim, cosine=need(config, "use_l2_norm", bool, L2_NORM.get(dim)))
    pixels = proxy(shapes) if logits else PixelMap(0.5, 0.5)
    return Tokenizer(encoder(shapes, config, legacy=logits), head, decoder(shapes, config, logits), pixels=pixels)


def encoder(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], legacy: bool) -> TiTokEncoder:
    """Encoder for tensors with our names."""
    channels = vqgan_rules.image_channels(vqgan_rules.shape(shapes, "encoder.conv_in.weight", 4)[1])
    return TiTokEncoder(
        dim=vqgan_rules.shape(shapes, "encoder.conv_out.weight", 4)[0],
        in_channels=channels,
        legacy=legacy,
        **sizes(shapes, config, "encoder"),
    )


def decoder(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], logits: bool) -> TiTokDecoder:
    """Decoder for tensors with our names."""
    text: dict[str, Any] = {}
    if "decoder.text_in.weight" in shapes:
        text["text_dim"] = vqgan_rules.shape(shapes, "decoder.text_in.weight", 2)[1]
        text["text_length"] = vqgan_rules.shape(shapes, "decoder.text_positions", 2)[0]
    return TiTokDecoder(
        dim=vqgan_rules.shape(shapes, "decoder.linear_in.weight", 2)[1],
        out_channels=vqgan_rules.shape(shapes, "decoder.conv_out.weight", 4)[0],
        head="logits" if logits else "pixels",
        **sizes(shapes, config, "decoder"),
        **text,
    )


def sizes(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], side: str) -> dict[str, int]:
    """Arguments of a transformer that encoder and decoder share."""
    width, rows = width_of(shapes, side), vqgan_rules.shape(shapes, f"{side}.positions", 2)[0]
    patches = math.isqrt(rows - 1)
    if patches < 1 or patches**2 != rows - 1:
        raise ValueError(f"our {side}.positions has {rows} rows, which are not a square of patches and one more")
    patch = vqgan_rules.shape(shapes, "encoder.conv_in.weight", 4)[2]
    name = get(config, f"vit_{side[:3]}_model_size")
    heads = get(config, "heads", SIZES.get(name) if isinstance(name, str) else None) or HEADS.get(width)
    heads = need(config, f"{side}.heads", int, heads)
    if width % heads:
        raise ValueError(f"config's {side}.heads={heads} does not divide its {width} channels")
    return {
        "width": width,
        "depth": vqgan_rules.count(shapes, f"{side}.blocks."),
        "num_heads": heads,
        "num_tokens": vqgan_rules.shape(shapes, f"{side}.latent_positions", 2)[0],
        "patch": patch,
        "image_size": patches * patch,
    }


def width_of(shapes: vqgan_rules.Shapes, side: str) -> int:
    """Channels of a token in a transformer."""
    return vqgan_rules.shape(shapes, f"{side}.positions", 2)[1]


def proxy(shapes: vqgan_rules.Shapes) -> ProxyPixels:
    """The decoder of the other tokenizer, for tensors with our names."""
    return ProxyPixels(
        from_maskgit.decoder(shapes, "pixels.decoder."), vqgan_rules.shape(shapes, "pixels.codewords", 2)[0]
    )


TARGET = "TiTok's layout"
USAGE = """
from modeling.tatitok import TATiTok  # for a decoder that reads text
from modeling.titok import TiTok  # 1d-tokenizer's repository

model = TiTok.from_pretrained("FOLDER")
"""


def write(tokenizer: Tokenizer) -> Published:
    """TiTok's networks with any head that folds into one table."""
    pixels = tokenizer.pixels
    proxied = isinstance(pixels, ProxyPixels)
    plain.check_kinds(tokenizer, TARGET, TiTokEncoder, TiTokDecoder, pixels if proxied else PixelMap(0.5, 0.5))
    for name in ("to_latent", "from_latent"):
        if not isinstance(getattr(tokenizer, name), nn.Identity):
            raise plain.refuse(TARGET, f"a {name}: the head's channels must be those of both networks")
    encoder, decoder = cast(TiTokEncoder, tokenizer.encoder), cast(TiTokDecoder, tokenizer.decoder)
    if (encoder.legacy, decoder.head) != (proxied, "logits" if proxied else "pixels"):
        raise plain.refuse(TARGET, "a legacy encoder without a decoder of logits, or the other way round")
    if isinstance(pixels, ProxyPixels) and type(pixels.decoder) is not MaskGITDecoder:
        raise plain.refuse(TARGET, f"images through a {type(pixels.decoder).__name__}")
    for name in ("num_tokens", "patch", "image_size"):
        if getattr(encoder, name) != getattr(decoder, name):
            raise plain.refuse(TARGET, f"networks of different {name}")
    own = plain.inference_copy(tokenizer, folded=False)
    own.quantizer = as_learned(tokenizer.quantizer, TARGET)
    config = {
        "codebook_size": own.quantizer.codebook_size,
        "token_size": own.quantizer.dim,
        "use_l2_norm": own.quantizer.cosine,
        "commitment_cost": 0.25,
        "vit_enc_model_size": named(encoder.sizes),
        "vit_dec_model_size": named(decoder.sizes),
        "vit_enc_patch_size": encoder.patch,
        "vit_dec_patch_size": decoder.patch,
        "num_latent_tokens": encoder.num_tokens,
        "finetune_decoder": proxied,
        "is_legacy": proxied,
        "quantize_mode": "vq",
        "clustering_vq": False,
        "encoder": {"heads": encoder.num_heads},
        "decoder": {"heads": decoder.num_heads},
        "crop_size": encoder.image_size,
    }
    if decoder.text_dim is not None:
        config |= {"text_context_length": decoder.text_length, "text_embed_dim": decoder.text_dim}
    return Published(own, config, rules=[rule for rule in RULES if rule is not (PIXELS if proxied else LOGITS)])


def named(sizes: TiTokSizes) -> str:
    """Published name of a transformer's size; of others those of its sizes, which the authors' code does not know."""
    for name, heads in SIZES.items():
        width = 64 * heads
        if (sizes.width, sizes.num_heads, sizes.depth) == (width, heads, {8: 8, 12: 12, 16: 24}[heads]):
            return name
    return f"{sizes.width}x{sizes.depth}"


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration that 1d-tokenizer's ``from_pretrained`` reads."""
    model = {name: value for name, value in config.items() if name not in ("encoder", "decoder", "crop_size")}
    return {
        "config.json": {"model": {"vq_model": model}, "dataset": {"preprocessing": {"crop_size": config["crop_size"]}}}
    }


CONTAINER = Container("model.safetensors", None, settings, USAGE)
