"""A tokenizer as a folder: ``config.json`` says how to build it, ``model.safetensors`` holds its weights.

A downloaded folder is data, never code: only the classes in ``CLASSES`` are built, and nothing is unpickled.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from vistok.backbones import (
    BranchedEncoder,
    CNNDecoder,
    CNNEncoder,
    HierarchicalEncoder,
    MagvitDecoder,
    MagvitEncoder,
    PositionalDecoder,
    ViTDecoder,
    ViTEncoder,
)
from vistok.pixels import LogitLaplaceMap, PixelMap
from vistok.quantizers import (
    DiVeQ,
    DynamicQuantizer,
    EntropyRouter,
    FactorizedQuantizer,
    FeatureRouter,
    JanusQuantizer,
    RotationTrick,
    SimVQ,
    StraightThrough,
    VectorQuantizer,
    VQBridge,
)
from vistok.tokenizer import Tokenizer

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
HEADS = (DynamicQuantizer, FactorizedQuantizer, JanusQuantizer, SimVQ, VectorQuantizer, VQBridge)
PARTS_OF_HEADS = (DiVeQ, EntropyRouter, FeatureRouter, RotationTrick, StraightThrough)
BACKBONES = (CNNDecoder, CNNEncoder, HierarchicalEncoder, MagvitDecoder, MagvitEncoder, PositionalDecoder)
BACKBONES += (BranchedEncoder, ViTDecoder, ViTEncoder)
PIXELS = (LogitLaplaceMap, PixelMap)
CLASSES = {c.__name__: c for c in (Tokenizer, *PIXELS, *BACKBONES, *HEADS, *PARTS_OF_HEADS, nn.Conv2d)}
CONV_ARGUMENTS = ("in_channels", "out_channels", "kernel_size", "padding", "groups")


def save(tokenizer: Tokenizer, folder: str | Path, about: dict[str, Any] | None = None) -> Path:
    """Write a tokenizer for inference: its head folded into a plain table, its weights in float32.

    Args:
        tokenizer: The tokenizer.
        folder: Made if need be; the two files in it are replaced.
        about: What else ``config.json`` should tell, under ``about``: data, metrics, version.
    """
    folded = tokenizer.fold()
    config = {"format": FORMAT, "tokenizer": describe(folded), "about": about or {}}
    text = json.dumps(config, indent=2)  # before anything is written: what JSON cannot hold raises here
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in folded.state_dict().items()}
    safetensors.torch.save_file(weights, folder / WEIGHTS)
    (folder / CONFIG).write_text(text + "\n")
    return folder


def load(folder: str | Path) -> Tokenizer:
    """Read a tokenizer that ``save`` or a training run wrote, ready for inference.

    Args:
        folder: The exported folder, or a run folder that has one named ``tokenizer``.

    Raises:
        FileNotFoundError: One of the two files is not there.
        ValueError: They do not make a tokenizer of a known kind.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file() and (folder / "tokenizer" / CONFIG).is_file():
        folder = folder / "tokenizer"
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is not an exported tokenizer: it has no {name}")
    try:
        config = json.loads((folder / CONFIG).read_text())
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"{folder / CONFIG} has the format {found!r}; this version reads {FORMAT}")
    tokenizer = build(config.get("tokenizer"))
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError(f"{folder / CONFIG} describes a {type(tokenizer).__name__}, not a Tokenizer")
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        tokenizer.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit {CONFIG}: {error}") from error
    return tokenizer.eval().requires_grad_(False)


def describe(part: Any) -> Any:
    """A part as JSON: its class and constructor arguments, which it keeps as attributes of the same names."""
    if isinstance(part, nn.Identity):
        return None
    if isinstance(part, list | tuple | nn.ModuleList):
        return [describe(member) for member in part]
    if type(part) not in CLASSES.values():
        if isinstance(part, nn.Module):
            raise ValueError(f"{type(part).__name__} cannot be exported: it is not in vistok.export.hub.CLASSES")
        return part
    return {
        "class": type(part).__name__,
        **{name: describe(getattr(part, name)) for name in _arguments(type(part))},
    }


def build(description: Any) -> Any:
    """The part that ``describe`` gave a description of, with fresh weights."""
    if isinstance(description, list):
        return [build(member) for member in description]
    if not isinstance(description, dict):
        return description
    arguments = {name: build(value) for name, value in description.items() if name != "class"}
    name = description.get("class")
    if name not in CLASSES:
        raise ValueError(f"unknown class {name!r}: known are {', '.join(sorted(CLASSES))}")
    unknown = set(arguments) - set(_arguments(CLASSES[name]))
    if unknown:
        raise ValueError(f"{name} has no argument {', '.join(sorted(unknown))}")
    try:
        return CLASSES[name](**arguments)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"the arguments of {name} do not fit: {error}") from error


def _arguments(part: type) -> tuple[str, ...]:
    return CONV_ARGUMENTS if part is nn.Conv2d else tuple(inspect.signature(part).parameters)
