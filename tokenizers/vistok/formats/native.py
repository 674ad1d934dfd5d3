"""Our format of a tokenizer: a folder with its description, ``config.json``, and weights, ``model.safetensors``.

``README.md`` is its model card.

A downloaded folder is data, never code: only the classes in ``CLASSES`` are built, and nothing is unpickled. Memory is
allocated only after the description is known to fit the weights (``vistok.untrusted``).
"""

import inspect
import json
import os
import types
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from vistok import backbones, quantizers
from vistok.backbones import BranchedEncoder, Decoder, Encoder
from vistok.files import json_text, write_json
from vistok.formats import model_card
from vistok.formats.tokenizer_paths import CONFIG, WEIGHTS, exported_folder
from vistok.images.ranges import LogitLaplaceMap, PixelMap
from vistok.quantizers import Quantizer, estimators, routers
from vistok.tokenizer import Tokenizer
from vistok.untrusted.bounded_json import MAX_JSON, one_line, read_json, short
from vistok.untrusted.bounded_network import Beyond, network_of
from vistok.untrusted.tensor_files import read_safetensors, write_safetensors

FORMAT = 1
IMPORTS = "VISTOK_IMPORT"  # environment variable: comma-separated modules that register the user's classes
USAGE = """
import vistok

tokenizer = vistok.load("FOLDER")
codes = tokenizer.tokenize(images)
images = tokenizer.detokenize(codes)
"""


def _public(
    package: types.ModuleType, home: types.ModuleType | None = None, kinds: tuple[type, ...] = ()
) -> list[type]:
    """Classes among a package's public names that are defined in a module, or are concrete subclasses of ``kinds``."""
    found = [getattr(package, name) for name in package.__all__]
    if home is not None:
        return [part for part in found if isinstance(part, type) and part.__module__ == home.__name__]
    found = [part for part in found if isinstance(part, type) and issubclass(part, kinds) and part not in kinds]
    return [part for part in found if not inspect.isabstract(part)]


HEADS, BACKBONES = _public(quantizers, kinds=(Quantizer,)), _public(backbones, kinds=(Encoder, Decoder))
ESTIMATORS, ROUTERS = tuple(_public(quantizers, estimators)), _public(quantizers, routers)
PIXELS = (LogitLaplaceMap, PixelMap, backbones.ProxyPixels)
CLASSES = {c.__name__: c for c in (Tokenizer, *PIXELS, *BACKBONES, *HEADS, *ESTIMATORS, *ROUTERS, nn.Conv2d)}
REGISTERED: set[type] = set()  # classes of the user
ATTRIBUTE_NAMES = {(BranchedEncoder, "grid"): "side"}  # attributes whose names differ from their arguments
CONV_ARGUMENTS = {
    "in_channels": int,
    "out_channels": int,
    "kernel_size": int | tuple[int, int],
    "padding": int | tuple[int, int] | str,
    "groups": int,
}
MOST, LARGEST, LONGEST = 2**31, 1e30, 1_024  # limits of integers, floats and the length of lists in a description


def register(part: type) -> type:
    """Registers a user's class, so that exported folders can name it: a head, a part of one, an encoder or a decoder.

    The class must keep each constructor argument as an attribute of the same name: numbers, texts, lists of them, or
    other such parts. A program that reads a folder must import the module that registers its classes first; a file
    cannot name other classes.

    Args:
        part: The class.

    Returns:
        The class itself, so that ``@vistok.register`` works as a decorator.

    Raises:
        ValueError: The argument is not a class or has arguments without names, or another class has the same name.
    """
    if not isinstance(part, type):
        raise ValueError(f"vistok.register takes a class, not {part!r}")
    known = CLASSES.get(part.__name__)
    if known is not None and (known.__module__, known.__qualname__) != (part.__module__, part.__qualname__):
        raise ValueError(f"there is a {part.__name__} already, of {known.__module__}: a class needs another name")
    kinds = {argument.kind for argument in inspect.signature(part).parameters.values()}
    if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY}:
        raise ValueError(f"{part.__name__} takes arguments without names, which a folder cannot store")
    CLASSES[part.__name__] = part
    REGISTERED.add(part)
    return part


@torch.no_grad()
def check(tokenizer: Tokenizer) -> None:
    """Refuses a tokenizer that ``save`` cannot write or ``load`` cannot read, before it is trained.

    Raises:
        ValueError: The message names the part and what it lacks.
    """
    folded = tokenizer.fold()
    description = json.loads(json.dumps(describe(folded)))
    weights = {name: tensor.detach().cpu() for name, tensor in folded.state_dict().items()}
    try:
        with torch.random.fork_rng(devices=[]):
            network_of(weights, lambda: build(description))
    except Beyond as error:
        raise ValueError(
            f"the tokenizer could not be read again: built from its arguments, each kept as an attribute, it has other "
            f"tensors: {error}"
        ) from error


def save(tokenizer: Tokenizer, folder: str | Path, about: dict[str, Any] | None = None, half: bool = False) -> Path:
    """Writes a tokenizer for inference: its head folded into a plain table, its weights in float32.

    Args:
        tokenizer: The tokenizer.
        folder: Path of the folder, created if it does not exist; its three files are replaced.
        about: Further content of ``config.json``, under ``about``, and of the model card: data, metrics, versions.
        half: True stores float16, half the size. Loading converts these values to float32; some codes may differ.

    Raises:
        ValueError: A part's class is unknown, ``half`` would overflow float16, or ``about`` is too long to be read
            again.
    """
    folded = tokenizer.fold()
    config = {"format": FORMAT, "tokenizer": describe(folded), "about": about or {}}
    text = json_text(config)  # before anything is written: content that JSON cannot represent raises here
    if len(text) >= MAX_JSON:
        raise ValueError(f"about makes {len(text):,} bytes of JSON; {CONFIG} may have {MAX_JSON:,}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folded.state_dict()
    if half:
        weights = {name: stored_half(name, tensor) for name, tensor in weights.items()}
    write_safetensors(weights, folder / WEIGHTS)
    write_json(config, folder / CONFIG)
    model_card.write(folder, folded, about, USAGE)
    return folder


def stored_half(name: str, tensor: Tensor) -> Tensor:
    """Tensor in the form that ``half`` stores: floats as float16, other types unchanged."""
    if not tensor.is_floating_point():
        return tensor
    if not torch.equal(tensor.isfinite(), (rounded := tensor.half()).isfinite()):
        raise ValueError(f"{name} has values up to {float(tensor.abs().max()):.3g}, beyond float16: do not use half")
    return rounded


def push_to_hub(folder: str | Path, repo_id: str, private: bool = False) -> str:
    """Uploads an exported folder, of any target, to the Hugging Face hub.

    Args:
        folder: The folder.
        repo_id: ``user/name``; the repository is created if it does not exist.
        private: True creates a private repository.

    Returns:
        Address of the commit.

    Raises:
        ValueError: The folder has no model card, so it is not an exported tokenizer.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ImportError("the hub needs huggingface_hub: pip install 'vistok[export]'") from error

    if not (Path(folder) / model_card.README).is_file():
        raise ValueError(f"{folder} is not an exported tokenizer: it has no {model_card.README}")
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="A tokenizer from vistok"))


def load(folder: str | Path) -> Tokenizer:
    """Reads a tokenizer that ``save`` or a training run wrote, for inference.

    Args:
        folder: The exported folder, or a run folder with a subfolder ``tokenizer``.

    Raises:
        FileNotFoundError: One of the two files does not exist.
        ValueError: The files do not describe a tokenizer of known classes.
    """
    for module in filter(None, os.environ.get(IMPORTS, "").split(",")):
        import_module(module)
    folder = exported_folder(Path(folder))
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is not an exported tokenizer: it has no {name}")
    config, weights = read_json(folder / CONFIG), folder / WEIGHTS
    if type(config) is not dict or config.get("format") != FORMAT:
        found = config.get("format") if type(config) is dict else type(config).__name__
        raise ValueError(f"{folder / CONFIG} has the format {short(found)}; this version reads {FORMAT}")

    def described() -> Tokenizer:
        part = build(config.get("tokenizer"))
        if not isinstance(part, Tokenizer):
            raise ValueError(f"it describes a {type(part).__name__}, not a Tokenizer")
        return part

    try:
        tensors = read_safetensors(weights).tensors
    except ValueError as error:
        raise ValueError(f"{weights} cannot be read and does not fit {CONFIG}: {error}") from error
    try:
        tokenizer = network_of(tensors, described)
    except Beyond as error:
        raise ValueError(f"{weights} does not fit {CONFIG}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} cannot be built: {error}") from error
    return tokenizer.eval().requires_grad_(False)


def describe(part: Any) -> Any:
    """Description of a part as JSON: its class and constructor arguments, read from attributes of the same names."""
    if isinstance(part, nn.Identity):
        return None
    if isinstance(part, list | tuple | nn.ModuleList):
        return [describe(member) for member in part]
    if type(part) not in CLASSES.values():
        if isinstance(part, nn.Module):
            raise ValueError(
                f"{type(part).__name__} cannot be exported: it is neither a class of vistok nor registered; "
                f"vistok.register({type(part).__name__}) makes it known"
            )
        if not isinstance(part, int | float | str | None):
            raise ValueError(f"a {type(part).__name__} cannot be exported: vistok.register makes a class known")
        return part
    described = {"class": type(part).__name__}
    for name in _arguments(type(part)):
        try:
            described[name] = describe(getattr(part, ATTRIBUTE_NAMES.get((type(part), name), name)))
        except AttributeError as error:
            raise ValueError(
                f"{type(part).__name__} cannot be exported: it does not keep its argument {name} as an attribute"
            ) from error
    return described


def build(description: Any) -> Any:
    """Builds a part from its description, with newly initialised weights.

    Raises:
        ValueError: The description names an unknown class, or arguments that do not fit it.
    """
    if isinstance(description, list):
        if len(description) > LONGEST:
            raise ValueError(f"a list has {len(description):,} members, more than {LONGEST:,}")
        return [build(member) for member in description]
    if not isinstance(description, dict):
        return description
    name = description.get("class")
    if type(name) is not str or name not in CLASSES:
        raise ValueError(
            f"unknown class {short(name)}: known are {', '.join(sorted(CLASSES))}; for a class of "
            f"your own, first import the module that calls vistok.register with it, or set {IMPORTS}=MODULE"
        )
    hints = _arguments(CLASSES[name])
    unknown = [argument for argument in description if argument != "class" and argument not in hints]
    if unknown:
        raise ValueError(f"{name} has no argument {one_line(unknown[0], 80)}")
    arguments = {argument: build(value) for argument, value in description.items() if argument != "class"}
    for argument, value in arguments.items():
        if not _fits(value, hints[argument]):
            raise ValueError(f"the arguments of {name} do not fit: {argument} cannot be {_preview(value)}")
    try:
        return CLASSES[name](**arguments)
    except Beyond:
        raise
    except (TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError, OverflowError, RuntimeError) as error:
        # an argument is missing, or the values do not fit together
        raise ValueError(f"the arguments of {name} do not fit: {one_line(error)}") from error


@cache
def _arguments(part: type) -> dict[str, Any]:
    """Names and types of the arguments of a class's constructor."""
    if part is nn.Conv2d:
        return CONV_ARGUMENTS
    hints = get_type_hints(part.__init__)
    return {name: hints.get(name, Any) for name in inspect.signature(part).parameters}


def _fits(value: Any, hint: Any) -> bool:
    """True if a value of a description has an argument's type; numbers must be finite, integers non-negative."""
    origin = get_origin(hint)
    if hint is Any:
        return True
    if type(value) in REGISTERED and (hint in (Encoder, Decoder) or origin is Callable):
        return True  # a user's class need not be a subclass
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if origin in (Sequence, list):
        return type(value) is list and all(_fits(member, get_args(hint)[0]) for member in value)
    if origin is tuple:
        return type(value) is list and len(value) == 2 and all(map(_fits, value, get_args(hint)))
    if origin is Callable:
        return isinstance(value, ESTIMATORS)
    if origin is Literal:
        return type(value) is str  # the constructor refuses other choices
    if hint is int:
        return type(value) is int and 0 <= value < MOST
    if hint is float:
        return type(value) in (int, float) and abs(value) <= LARGEST  # False for NaN
    return isinstance(value, hint)


def _preview(value: Any) -> str:
    return f"a {type(value).__name__}" if isinstance(value, nn.Module) else short(value)
