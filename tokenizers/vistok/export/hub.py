"""A tokenizer as a folder: ``config.json`` says how to build it, ``model.safetensors`` holds its weights.

``README.md`` is its model card.

A downloaded folder is data, never code: only the classes in ``CLASSES`` are built, and nothing is unpickled.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

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
from vistok.export import card
from vistok.pixels import LogitLaplaceMap, PixelMap
from vistok.quantizers import (
    BinaryQuantizer,
    CodewordGradient,
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
USAGE = """
import vistok

tokenizer = vistok.load("FOLDER")
codes = tokenizer.tokenize(images)
images = tokenizer.detokenize(codes)
"""
HEADS = (BinaryQuantizer, DynamicQuantizer, FactorizedQuantizer, JanusQuantizer, SimVQ, VectorQuantizer, VQBridge)
PARTS_OF_HEADS = (CodewordGradient, DiVeQ, EntropyRouter, FeatureRouter, RotationTrick, StraightThrough)
BACKBONES = (CNNDecoder, CNNEncoder, HierarchicalEncoder, MagvitDecoder, MagvitEncoder, PositionalDecoder)
BACKBONES += (BranchedEncoder, ViTDecoder, ViTEncoder)
PIXELS = (LogitLaplaceMap, PixelMap)
CLASSES = {c.__name__: c for c in (Tokenizer, *PIXELS, *BACKBONES, *HEADS, *PARTS_OF_HEADS, nn.Conv2d)}
CONV_ARGUMENTS = ("in_channels", "out_channels", "kernel_size", "padding", "groups")


def save(tokenizer: Tokenizer, folder: str | Path, about: dict[str, Any] | None = None, half: bool = False) -> Path:
    """Write a tokenizer for inference: its head folded into a plain table, its weights in float32.

    Args:
        tokenizer: The tokenizer.
        folder: Made if need be; the three files in it are replaced.
        about: What else ``config.json`` should tell, under ``about``, and the model card: data, metrics, versions.
        half: Store float16, half the size. Loading makes float32 of these values, whose codes may differ a little.

    Raises:
        ValueError: A part is of no known class, or with ``half`` a weight is beyond what float16 can hold.
    """
    folded = tokenizer.fold()
    config = {"format": FORMAT, "tokenizer": describe(folded), "about": about or {}}
    text = json.dumps(config, indent=2)  # before anything is written: what JSON cannot hold raises here
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in folded.state_dict().items()}
    if half:
        weights = {name: stored_half(name, tensor) for name, tensor in weights.items()}
    safetensors.torch.save_file(weights, folder / WEIGHTS)
    (folder / CONFIG).write_text(text + "\n")
    card.write(folder, folded, about, USAGE)
    return folder


def stored_half(name: str, tensor: Tensor) -> Tensor:
    """A tensor as it is stored in half the size: floats as float16, others as they are."""
    if not tensor.is_floating_point():
        return tensor
    if not torch.equal(tensor.isfinite(), (rounded := tensor.half()).isfinite()):
        raise ValueError(f"{name} has values up to {float(tensor.abs().max()):.3g}, beyond float16: leave out half")
    return rounded


def push_to_hub(folder: str | Path, repo_id: str, private: bool = False) -> str:
    """Upload an exported folder, of any target, to the Hugging Face hub.

    Args:
        folder: The folder.
        repo_id: ``user/name``; made if need be.
        private: Whether a repository that is made is private.

    Returns:
        The address of the commit.

    Raises:
        ValueError: The folder has no model card, and so was not exported.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ImportError("the hub needs huggingface_hub: pip install 'vistok[export]'") from error

    if not (Path(folder) / card.README).is_file():
        raise ValueError(f"{folder} is not an exported tokenizer: it has no {card.README}")
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="A tokenizer from vistok"))


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
