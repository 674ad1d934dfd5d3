"""DQ-VAE's layout written: a tokenizer in the form of its authors' code, and their configuration (arXiv:2305.11718)."""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from vistok.backbones import CNNDecoder, HierarchicalEncoder, PositionalDecoder
from vistok.backbones.cnn import CNNSizes
from vistok.formats import plain
from vistok.formats.importers.from_dqvae import GATES, LEARNING
from vistok.formats.importers.learned_heads import as_learned
from vistok.formats.importers.published import Container, Published
from vistok.quantizers import DynamicQuantizer, EntropyRouter, FeatureRouter, Quantizer, VectorQuantizer
from vistok.tokenizer import Tokenizer

TARGET = "DQ-VAE's layout"
NAMES = {2: ("Dual", "DualGrain"), 3: ("Triple", "TripleGrain")}  # by granularities, in the authors' code
SHARE = 0.5  # of regions above the threshold, by which the authors' code finds it in its table
USAGE = """
import torch
from omegaconf import OmegaConf
from utils.utils import instantiate_from_config  # DynamicVectorQuantization's repository

config = OmegaConf.load("FOLDER/config.yaml").model
router = config.params.encoderconfig.params.router_config.params
if "json_path" in router:
    router.json_path = "FOLDER/thresholds.json"
model = instantiate_from_config(config)
model.load_state_dict(torch.load("FOLDER/model.ckpt")["state_dict"])
"""


def write(tokenizer: Tokenizer, grains: int) -> Published:
    """DQ-VAE's networks with its dynamic head around any head that folds into one table, which is searched by L2."""
    plain.check_kinds(tokenizer, TARGET, HierarchicalEncoder, PositionalDecoder)
    plain.check_maps(tokenizer, TARGET)
    if type(tokenizer.decoder.decoder) is not CNNDecoder:
        raise plain.refuse(TARGET, f"a {type(tokenizer.decoder.decoder).__name__}, only for VQGAN's CNNDecoder")
    if type(tokenizer.quantizer) is not DynamicQuantizer or tokenizer.quantizer.grains != grains:
        name = type(tokenizer.quantizer).__name__
        raise plain.refuse(TARGET, f"a {name}, only for a DynamicQuantizer of {grains} granularities")
    if not isinstance(tokenizer.to_latent, nn.Identity):
        raise plain.refuse(TARGET, "a to_latent: the router reads the encoder's maps")
    own = plain.inference_copy(tokenizer, folded=False)
    dynamic = cast(DynamicQuantizer, own.quantizer)
    projection = dynamic.projection or plain.identity(dynamic.dim)
    if projection.kernel_size != (1, 1) or projection.groups != 1:
        raise plain.refuse(TARGET, f"a projection of kernel_size={projection.kernel_size}, only for 1x1")
    own.quantizer = DynamicQuantizer(averaged_head(dynamic.head), dynamic.router, projection=projection).eval()
    if isinstance(own.from_latent, nn.Identity):
        own.from_latent = plain.identity(dynamic.dim)
    return Published(own.requires_grad_(False), config_of(own))


def averaged_head(head: Quantizer) -> VectorQuantizer:
    """Head with the moving averages of another one; if it has none, they are those of one vector for each codeword."""
    own, stored = as_learned(head, TARGET, l2=True, **LEARNING), head.state_dict()
    if torch.equal(own.codewords, stored.get("table", own.codewords)) and {"ema_counts", "ema_sums"} <= stored.keys():
        counts, sums = stored["ema_counts"], stored["ema_sums"]
    else:
        counts, sums = torch.ones(own.codebook_size), own.codewords
    own.ema_counts.copy_(counts)
    own.ema_sums.copy_(sums)
    return own


def config_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Settings of the networks, the router and the head.

    Raises:
        ValueError: The authors' code has no such networks or router.
    """
    encoder, decoder = cast(HierarchicalEncoder, tokenizer.encoder), cast(PositionalDecoder, tokenizer.decoder)
    inner, head = cast(CNNDecoder, decoder.decoder), cast(DynamicQuantizer, tokenizer.quantizer)
    plain.norms_of_32(nn.ModuleList([encoder, decoder]), TARGET)
    if encoder.num_maps != head.grains:
        raise plain.refuse(TARGET, f"an encoder of {encoder.num_maps} maps for {head.grains} granularities")
    if not inner.sizes.mid_attention or inner.patch != 1:
        raise plain.refuse(TARGET, f"a decoder of mid_attention={inner.sizes.mid_attention}, patch={inner.patch}")
    if encoder.dim != decoder.dim:
        raise plain.refuse(TARGET, f"an encoder of dim={encoder.dim} before a decoder of dim={decoder.dim}")
    resolution = decoder.grid * tokenizer.factor
    shared = {"dropout": 0.0, "resamp_with_conv": True, "resolution": resolution}
    return {
        "grains": head.grains,
        "encoder": path_of(encoder.sizes, resolution) | shared | {
            "in_channels": encoder.in_channels, "z_channels": encoder.dim,
        },
        "decoder": path_of(inner.sizes, resolution) | shared | {
            "in_ch": decoder.dim, "out_ch": inner.out_channels, "latent_size": decoder.grid, "window_size": 2,
            "position_type": "fourier+learned",
        },
        **router_of(head.router, 2 * encoder.factor),
        "codebook_size": head.codebook_sizes[0],
        "codebook_dim": head.dim,
        "commitment_beta": 0.25,
        "decay": 0.99,
        "restart_unused_codes": True,
        "quant_before_dim": encoder.dim,
        "quant_after_dim": head.dim,
    }  # fmt: skip


def path_of(sizes: CNNSizes, resolution: int) -> dict[str, Any]:
    """Levels of a network; those with attention are named by their resolution in images of ``resolution`` pixels."""
    return {
        "ch": sizes.channels,
        "ch_mult": list(sizes.multipliers),
        "num_res_blocks": sizes.num_blocks,
        "attn_resolutions": [resolution >> level for level in sorted(sizes.attention)],
    }


def router_of(router: FeatureRouter | EntropyRouter, region: int) -> dict[str, Any]:
    """Settings of a router; ``region`` is the side in pixels of the regions of two granularities."""
    if type(router) is FeatureRouter:
        if router.activation != "silu" and router.grains == 2:
            raise plain.refuse(TARGET, f"a gate of activation={router.activation} for two granularities, only silu")
        norms = "none" if router.groups is None else f"group-{router.groups}"
        settings = {"type": "feature", "num_channels": router.dim, "normalization_type": norms}
        return {"router": settings | {"gate_type": GATES[router.activation == "relu"]}}
    if type(router) is not EntropyRouter:
        raise plain.refuse(TARGET, f"a {type(router).__name__}, only for a FeatureRouter or an EntropyRouter")
    if router.grains > 2:
        raise plain.refuse(TARGET, "three granularities by entropy, only two")
    if (router.low, router.high) != (-1, 1):
        raise plain.refuse(TARGET, f"a histogram from {router.low:g} to {router.high:g}, only from -1 to 1")
    if router.patch != region:
        raise plain.refuse(TARGET, f"a router of patch={router.patch}, only for its regions of {region} pixels")
    settings = {"type": "fixed entropy", "fine_grain_ratio": SHARE, "patch_size": router.patch}
    return {"router": settings | {"bins": "linspace(-1,1,32)"}, "thresholds": list(router.thresholds)}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model as its authors configure it, and the table of thresholds of an entropy router."""
    kind, named = NAMES[config["grains"]]
    router, dynamic = config["router"], "modules.dynamic_modules"
    feature = router["type"] == "feature"
    routed = {name: router[name] for name in ("num_channels", "normalization_type", "gate_type")} if feature else {
        "json_path": "thresholds.json", "fine_grain_ratito": SHARE,
    }  # fmt: skip
    encoder = config["encoder"] | ({} if feature else {"update_router": False}) | {
        "router_config": {
            "target": f"{dynamic}.Router{kind}.{named}{'Feature' if feature else 'FixedEntropy'}Router",
            "params": routed,
        }
    }  # fmt: skip
    head = ("codebook_size", "codebook_dim", "commitment_beta", "decay", "restart_unused_codes")
    params = {
        "encoderconfig": {"target": f"{dynamic}.Encoder{kind}.{named}Encoder", "params": encoder},
        "decoderconfig": {"target": f"{dynamic}.DecoderPositional.Decoder", "params": config["decoder"]},
        "lossconfig": {"target": "torch.nn.Identity"},
        "vqconfig": {
            "target": "modules.vector_quantization.quantize2_mask.VectorQuantize2",
            "params": {name: config[name] for name in head} | {"channel_last": False, "accept_image_fmap": True},
        },
        "quant_before_dim": config["quant_before_dim"],
        "quant_after_dim": config["quant_after_dim"],
    }
    files: dict[str, Any] = {}
    if not feature:
        params |= {"entropy_patch_size": router["patch_size"], "image_size": config["encoder"]["resolution"]}
        files["thresholds.json"] = {str(round(100 - 100 * SHARE)): config["thresholds"][0]}
    target = f"models.stage1_dynamic.dqvae_{kind.lower()}_{'feat' if feature else 'entropy'}.{named}VQModel"
    return files | {"config.yaml": {"model": {"target": target, "params": params}}}


DUAL, TRIPLE = partial(write, grains=2), partial(write, grains=3)
CONTAINER = Container("model.ckpt", "state_dict", settings, USAGE)
