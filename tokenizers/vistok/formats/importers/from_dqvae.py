"""Importer of DQ-VAE with two or three granularities, routed by features or by entropy (arXiv:2305.11718)."""

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vistok.backbones import HierarchicalEncoder, PositionalDecoder
from vistok.formats.importers import vqgan_rules
from vistok.formats.importers.hyperparameters import Unknown, get, one_of, only
from vistok.formats.importers.key_map import Rule, under
from vistok.quantizers import DynamicQuantizer, EntropyRouter, FeatureRouter, VectorQuantizer
from vistok.tokenizer import Tokenizer

PUBLISHED, WIDTH = (1024, 256), 256  # codewords and dimension; channels of the router's maps
GATES = ("2layer-fc-SiLu", "2layer-fc-ReLu")
LEARNING = {"ema_decay": 0.99, "restart": 1.0, "restart_unit": "vector", "weighted_counts": False}
BRANCHES = {2: ("coarse", "fine"), 3: ("coarse", "median", "fine")}


def branch(i: int, name: str) -> list[Rule]:
    tail = f"encoder.tails.{i}"
    return [
        *vqgan_rules.middle(f"encoder.mid_{name}", f"{tail}.mid"),
        Rule(f"encoder.norm_out_{name}.{{p}}", f"{tail}.norm_out.{{p}}"),
        Rule(f"encoder.conv_out_{name}.{{p}}", f"{tail}.conv_out.{{p}}"),
        Rule(f"encoder.router.feature_norm_{name}.{{p}}", f"quantizer.router.norms.{i}.{{p}}"),
    ]


def without_padding(table: Tensor) -> Tensor:
    """Codewords (n, d) of a table (n + 1, d) whose last row is never selected."""
    return table[:-1]


def with_padding(table: Tensor) -> Tensor:
    return torch.cat([table, torch.zeros_like(table[:1])])


def rules(grains: int) -> tuple[Rule, ...]:
    """Table of names of the model with ``grains`` granularities."""
    return (
        Rule("encoder.conv_in.{p}", "encoder.conv_in.{p}"),
        *vqgan_rules.level("encoder.down.{i}", "encoder.levels.{i}"),
        *(rule for i, name in enumerate(BRANCHES[grains]) for rule in branch(i, name)),
        *under("encoder.router.gate", "quantizer.router.gate", {"0": "0", "2": "2"}),
        *under("decoder", "decoder.decoder", vqgan_rules.ENDS),
        *vqgan_rules.middle("decoder.mid", "decoder.decoder.mid"),
        *vqgan_rules.level("decoder.up.{i}", "decoder.decoder.levels.{~i}", resample="upsample.conv"),
        Rule("decoder.position_bias_fourier.lff.ffm.conv.{p}", "decoder.frequencies.{p}"),
        Rule("decoder.position_bias_learned.row_embed.weight", "decoder.rows"),
        Rule("decoder.position_bias_learned.col_embed.weight", "decoder.columns"),
        Rule("quant_conv.{p}", "quantizer.projection.{p}"),
        Rule("post_quant_conv.{p}", "from_latent.{p}"),
        Rule("quantize.codebook.weight", "quantizer.head.table", without_padding, with_padding),
        Rule("quantize.codebook.cluster_size_ema", "quantizer.head.ema_counts"),
        Rule("quantize.codebook.embed_ema", "quantizer.head.ema_sums"),
    )


DUAL, TRIPLE = rules(2), rules(3)


def build(shapes: vqgan_rules.Shapes, config: Mapping[str, Any], sure: bool) -> Tokenizer:
    """Builds the tokenizer for tensors with our names; its codebook is learned as in the authors' code."""
    only(config, "decoder.position_type", "fourier+learned")
    grains = vqgan_rules.count(shapes, "encoder.tails.")
    encoder = HierarchicalEncoder(
        **vqgan_rules.path_down(shapes),
        attention=vqgan_rules.attended(shapes, "encoder.levels."),
        dim=vqgan_rules.shape(shapes, "encoder.tails.0.conv_out.weight", 4)[0],
        num_maps=grains,
    )
    size, dim = vqgan_rules.shape(shapes, "quantizer.head.table", 2)
    head = VectorQuantizer(size, dim, **LEARNING)
    router: nn.Module
    if "quantizer.router.gate.0.weight" in shapes:
        router = FeatureRouter(encoder.dim, grains, *gate(shapes, config, encoder.dim, (size, dim) == PUBLISHED))
    else:
        router = EntropyRouter(thresholds(config, grains), encoder.factor * 2 ** (grains - 1), *bins(config))
    rows, width = vqgan_rules.shape(shapes, "decoder.rows", 2)
    return Tokenizer(
        encoder,
        DynamicQuantizer(head, router, projection=vqgan_rules.conv(shapes, "quantizer.projection")),
        PositionalDecoder(vqgan_rules.decoder(shapes, "decoder.decoder."), width, rows),
        from_latent=vqgan_rules.conv(shapes, "from_latent"),
    )


def gate(
    shapes: vqgan_rules.Shapes, config: Mapping[str, Any], width: int, published: bool
) -> tuple[int | None, Literal["silu", "relu"]]:
    """Groups of the feature router's norms, None without norms, and the activation of its gate.

    Released models have 32 groups and SiLU. Only the code of three granularities has a gate with ReLU.

    Raises:
        Unknown: A setting is not given, and the model is not of the released sizes.
        ValueError: A setting is none of the choices.
    """
    published &= width == WIDTH
    groups = None
    if "quantizer.router.norms.0.weight" in shapes:
        choices = [f"group-{n}" for n in range(1, width + 1) if width % n == 0]
        kind = one_of(config, "router.normalization_type", choices, "group-32" if published else None)
        groups = int(kind.removeprefix("group-"))
    dual = vqgan_rules.count(shapes, "encoder.tails.") == 2
    kind = one_of(config, "router.gate_type", GATES[:1] if dual else GATES, GATES[0] if dual or published else None)
    return groups, "silu" if kind == GATES[0] else "relu"


def thresholds(config: Mapping[str, Any], grains: int) -> list[float]:
    """Entropies above which a region gets the next granularity.

    They are ``config["thresholds"]``, a list, or its ``value``.
    """
    value = config.get("thresholds")
    value = get(config, "thresholds.value", value)
    if isinstance(value, Mapping):  # table of percentiles: the one that leaves this share of regions above it
        share = get(config, "router.fine_grain_ratio")
        table = value.get("table", value)
        percentile = str(round(100 - 100 * share)) if isinstance(share, float) else None
        value = table.get(percentile) if isinstance(table, Mapping) else None
    if value is None:
        raise Unknown(
            "its keys do not determine the entropy thresholds: give config={'thresholds': [...]} in nats, and "
            "'router': {'bins': [low, high]} if its histogram does not span -1 to 1. The released table has 1.6778 for "
            "half of the regions, over bins from 0 to 1; python -m vistok data thresholds measures those of your data"
        )
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) != grains - 1 or not all(type(value) in (int, float) for value in values):
        raise ValueError(f"config's thresholds must be {grains - 1} numbers for {grains} granularities, not {value!r}")
    return [float(value) for value in values]


def bins(config: Mapping[str, Any]) -> tuple[float, float]:
    """Pixel values of the first and the last of the 32 bins.

    They are ``router.bins``, a pair or its linspace expression.
    """
    value = get(config, "router.bins", (-1.0, 1.0))
    if isinstance(value, str) and (match := re.fullmatch(r"linspace\((-?[\d.]+), ?(-?[\d.]+), ?32\)", value)):
        value = [float(match[1]), float(match[2])]
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(type(v) in (int, float) for v in value):
        raise ValueError(f"config's router.bins must be the first and the last of 32, not {value!r}")
    return float(value[0]), float(value[1])
