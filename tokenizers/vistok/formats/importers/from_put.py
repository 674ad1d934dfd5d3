"""Importer of PUT's P-VQVAE (arXiv:2205.05076, arXiv:2404.00513), both generations."""

import math
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from vistok.backbones import PUTDecoder, PUTEncoder
from vistok.formats import plain
from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.from_taming_ema import DECAY, averaging
from vistok.formats.importers.hyperparameters import need, one_of, only
from vistok.formats.importers.key_map import Rule, linear, under
from vistok.formats.importers.published import Container, Published
from vistok.quantizers import MaskedQuantizer, VectorQuantizer
from vistok.tokenizer import Tokenizer

LATER = 9216  # codes of the later models
SCALE = 127.5  # of pixels 0 to 255, which become -1 to 1
SPLITS = {1024: 512, LATER: 8192}  # codes of wholly known patches in the published codebooks
HEAD = {"embedding": "table", "cluster_size": "ema_counts", "embedding_avg": "ema_sums"}
PARTS = ("known", "hidden")


def block(theirs: str, ours: str, layers: str = "conv") -> list[Rule]:
    """Rules of a residual block."""
    return under(f"{theirs}.{layers}", ours, {"1": "conv1", "3": "conv2"})


def patches(weight: Tensor) -> Tensor:
    """Linear map (out, channels x patch x patch) as a convolution; three channels, or one if that gives a square."""
    if weight.ndim != 2:
        return weight
    numbers = weight.shape[1]
    channels = 1 if math.isqrt(numbers) ** 2 == numbers else 3
    side = math.isqrt(numbers // channels)
    return weight.reshape(-1, channels, side, side)


NETWORKS = (
    Rule("encoder.pre_layers.0.weight", "encoder.conv_in.weight", patches, lambda t: t.flatten(1)),
    Rule("encoder.pre_layers.0.bias", "encoder.conv_in.bias"),
    *map(linear, block("encoder.res_layers.{i}", "encoder.blocks.{i}", "layers")),
    linear(Rule("encoder.post_layers.1.{p}", "encoder.conv_out.{p}")),
    Rule("decoder.pre_layers.0.{p}", "decoder.conv_in.{p}"),
    *block("decoder.res_layers.{i}", "decoder.blocks.{i}"),
    Rule("decoder.post_layers.1.{p}", "decoder.conv_out.{p}"),
    *block("decoder.up_layers.{i}", "decoder.up.{i}"),
    *block("decoder.encoder.layers.{i}", "decoder.side.{i}"),
    *vqgan_rules.MAPS,
)
TRANSPOSED = (
    Rule("decoder.up_layers.{i}.deconv.{p}", "decoder.up.{i}.{p}"),
    Rule("decoder.encoder.layers.{i}.{p}", "decoder.side.{i}.{p}"),
)
NEAREST = (
    Rule("decoder.up_layers.{i}.conv.{p}", "decoder.up.{i}.{p}"),
    Rule("decoder.encoder.layers.0.{p}", "decoder.side.0.{p}"),
    Rule("decoder.encoder.layers.{i}.conv.{p}", "decoder.side.{i}.{p}"),
)
READ = tuple(
    Rule(f"quantize.{part}.{theirs}", f"quantizer.{part}.{ours}") for part in PARTS for theirs, ours in HEAD.items()
)
WRITTEN = tuple(
    Rule(f"quantize.{theirs}#{k}", f"quantizer.{part}.{ours}")
    for k, part in enumerate(PARTS)
    for theirs, ours in HEAD.items()
)
RULES = (*NETWORKS, *TRANSPOSED, *NEAREST, *READ)


def prepare(tensors: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """Splits the codebook and its averages into the part of wholly known patches and that of the others."""
    table = tensors["quantize.embedding"]
    size = len(table) if table.ndim else 0
    known = need(config, "quantizer.masked_embed_start", int, SPLITS.get(size))
    if known >= size:
        raise ValueError(f"config's quantizer.masked_embed_start must be below the {size} codes, not {known}")
    for name in HEAD:
        values = tensors.pop(f"quantize.{name}", None)
        if values is None or not values.ndim or len(values) != size:
            raise ValueError(f"its quantize.{name} does not belong to {size} codes")
        for part, own in zip(PARTS, (values[:known], values[known:]), strict=True):
            tensors[f"quantize.{part}.{name}"] = own.clone()
    return {}


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names."""
    only(config, "quantizer.distance_type", "euclidean")
    only(config, "decoder.up_layer_with_image", True)
    only(config, "decoder.add_noise_to_image", False)
    one_of(config, "im_process_info.scale", [SCALE], None if two_ranges(shapes) else SCALE)
    heads = []
    for part in PARTS:
        size, dim = vqgan_rules.shape(shapes, f"quantizer.{part}.table", 2)
        heads.append(VectorQuantizer(size, dim, ema_decay=DECAY))
    before, after = (vqgan_rules.conv(shapes, name) for name in ("to_latent", "from_latent"))
    return Tokenizer(encoder(shapes), MaskedQuantizer(*heads), decoder(shapes), before, after)


def two_ranges(shapes: vqgan_rules.Shapes) -> bool:
    """True for the size of the later models, of which those for ImageNet normalise its channels one by one."""
    return sum(vqgan_rules.shape(shapes, f"quantizer.{part}.table", 2)[0] for part in PARTS) == LATER


def encoder(shapes: vqgan_rules.Shapes) -> PUTEncoder:
    """Encoder for tensors with our names."""
    width, channels, patch, _ = vqgan_rules.shape(shapes, "encoder.conv_in.weight", 4)
    return PUTEncoder(
        dim=vqgan_rules.shape(shapes, "encoder.conv_out.weight", 4)[0],
        width=width,
        num_blocks=vqgan_rules.count(shapes, "encoder.blocks."),
        patch=patch,
        in_channels=channels,
    )


def decoder(shapes: vqgan_rules.Shapes) -> PUTDecoder:
    """Decoder for tensors with our names."""
    width, dim = vqgan_rules.shape(shapes, "decoder.conv_in.weight", 4)[:2]
    layers = vqgan_rules.count(shapes, "decoder.up.")
    levels = sum(f"decoder.up.{i}.weight" in shapes for i in range(layers))
    if not 0 < levels <= vqgan_rules.MAX_LEVELS:
        raise ValueError(f"it has {levels} levels, not 1 to {vqgan_rules.MAX_LEVELS}")
    out_channels, channels = vqgan_rules.shape(shapes, "decoder.conv_out.weight", 4)[:2]
    return PUTDecoder(
        dim=dim,
        width=width,
        num_blocks=vqgan_rules.count(shapes, "decoder.blocks."),
        channels=channels,
        num_levels=levels,
        level_blocks=layers // levels - 1,
        upsample="nearest" if vqgan_rules.shape(shapes, "decoder.up.0.weight", 4)[2] == 3 else "transposed",
        out_channels=vqgan_rules.image_channels(out_channels),
    )


TARGET = "PUT's layout"
USAGE = """
import torch
import yaml
from image_synthesis.modeling.build import build_model  # PUT's repository

model = build_model(yaml.safe_load(open("FOLDER/config.yaml")))
model.load_state_dict(torch.load("FOLDER/model.pth")["model"], strict=False)  # the losses' networks are not in it
"""


def write(tokenizer: Tokenizer) -> Published:
    """PUT's networks with a head of two codebooks, which the authors store as one."""
    plain.check_kinds(tokenizer, TARGET, PUTEncoder, PUTDecoder)
    plain.check_maps(tokenizer, TARGET)
    if type(tokenizer.quantizer) is not MaskedQuantizer:
        raise plain.refuse(TARGET, f"a {type(tokenizer.quantizer).__name__}, only for a MaskedQuantizer")
    own = plain.with_maps(plain.inference_copy(tokenizer, folded=False))
    down, up, head = cast(PUTEncoder, own.encoder), cast(PUTDecoder, own.decoder), cast(MaskedQuantizer, own.quantizer)
    if down.factor != up.factor:
        raise plain.refuse(TARGET, f"patches of {down.factor} pixels before a decoder of factor {up.factor}")
    if (up.upsample == "nearest") != (up.level_blocks > 0):
        raise plain.refuse(TARGET, f"upsample={up.upsample!r} with level_blocks={up.level_blocks}")
    own.quantizer = MaskedQuantizer(averaging(head.known, TARGET), averaging(head.hidden, TARGET)).eval()
    rules = (*NETWORKS, *(NEAREST if up.level_blocks else TRANSPOSED), *WRITTEN)
    return Published(own, settings_of(down, up, cast(MaskedQuantizer, own.quantizer)), rules=rules)


def settings_of(down: PUTEncoder, up: PUTDecoder, head: MaskedQuantizer) -> dict[str, Any]:
    """The authors' settings of the three parts."""
    decoder: dict[str, Any] = {
        "in_ch": up.dim, "out_ch": up.out_channels, "res_ch": up.width, "num_res_block": up.num_blocks,
        "stride": up.factor, "up_layer_with_image": True,
    }  # fmt: skip
    if up.level_blocks:
        decoder |= {"num_res_block_after_resolution_change": up.level_blocks, "upsample_type": "nearest"}
    return {
        "im_process_info": {"scale": SCALE, "mean": 1.0, "std": 1.0},
        "encoder": {
            "in_ch": down.in_channels, "res_ch": down.width, "out_ch": down.dim, "num_res_block": down.num_blocks,
            "res_block_bottleneck": 2, "stride": down.patch,
        },
        "decoder": decoder,
        "quantizer": {
            "n_e": head.codebook_sizes[0], "e_dim": head.dim, "masked_embed_start": head.num_known, "embed_ema": True,
            "get_embed_type": "retrive", "distance_type": "euclidean",
        },
    }  # fmt: skip


CODE = "image_synthesis.modeling.codecs.image_codec.patch_vqgan"  # the authors' module
CLASSES = {"encoder": "PatchEncoder2", "decoder": "PatchConvDecoder2", "quantizer": "VectorQuantizer"}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration of the authors' class."""
    parts = {f"{part}_config": {"target": f"{CODE}.{name}", "params": config[part]} for part, name in CLASSES.items()}
    params = {"im_process_info": config["im_process_info"], **parts}
    return {"config.yaml": {"model": {"target": f"{CODE}.PatchVQGAN", "params": params}}}


CONTAINER = Container("model.pth", "model", settings, USAGE)
