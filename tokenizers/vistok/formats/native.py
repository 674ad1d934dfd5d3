"""A tokenizer as a folder: ``config.json`` says how to build it, ``model.safetensors`` holds its weights.

``README.md`` is its model card.

A downloaded folder is data, never code: only the classes in ``CLASSES`` are built, and nothing is unpickled. Nothing is
allocated either before the description is known to fit the weights (``vistok.untrusted``).
"""

import inspect
import json
import os
import types
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import safetensors.torch
import torch
from torch import Tensor, nn

from vistok import backbones, quantizers
from vistok.backbones import BranchedEncoder, Decoder, Encoder
from vistok.formats import model_card
from vistok.images.ranges import LogitLaplaceMap, PixelMap
from vistok.quantizers import Quantizer, estimators, routers
from vistok.tokenizer import Tokenizer
from vistok.untrusted.bounded_json import MAX_JSON, one_line, read_json, short
from vistok.untrusted.bounded_network import Beyond, network_of
from vistok.untrusted.tensor_files import read_safetensors

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
OWN = "VISTOK_IMPORT"  # in the environment: modules, with commas between them, that register classes of the user's own
USAGE = """
import vistok

tokenizer = vistok.load("FOLDER")
codes = tokenizer.tokenize(images)
images = tokenizer.detokenize(codes)
"""


def _public(
    package: types.ModuleType, home: types.ModuleType | None = None, kinds: tuple[type, ...] = ()
) -> list[type]:
    """The classes among a package's public names that are of a module, or of these kinds and not abstract."""
    found = [getattr(package, name) for name in package.__all__]
    if home is not None:
        return [part for part in found if isinstance(part, type) and part.__module__ == home.__name__]
    kept = [part for part in found if isinstance(part, type) and issubclass(part, kinds) and part not in kinds]
    return [part for part in kept if not inspect.isabstract(part)]


HEADS, BACKBONES = _public(quantizers, kinds=(Quantizer,)), _public(backbones, kinds=(Encoder, Decoder))
ESTIMATORS, ROUTERS = tuple(_public(quantizers, estimators)), _public(quantizers, routers)
PIXELS = (LogitLaplaceMap, PixelMap)
CLASSES = {c.__name__: c for c in (Tokenizer, *PIXELS, *BACKBONES, *HEADS, *ESTIMATORS, *ROUTERS, nn.Conv2d)}
REGISTERED: set[type] = set()  # of the user's own
KEPT_AS = {(BranchedEncoder, "grid"): "side"}  # attributes of other names than their arguments
CONV_ARGUMENTS = {
    "in_channels": int,
    "out_channels": int,
    "kernel_size": int | tuple[int, int],
    "padding": int | tuple[int, int] | str,
    "groups": int,
}
MOST, LARGEST, LONGEST = 2**31, 1e30, 1_024  # a whole number, any number, and members of a list in a description


def register(part: type) -> type:
    """Let exported folders name a class of one's own: a head, a part of one, an encoder or a decoder.

    The class keeps each constructor argument as an attribute of the same name: numbers, texts, lists of them, or other
    such parts. What reads a folder imports the module that registers its classes before; no file can name others.

    Args:
        part: The class.

    Returns:
        The same, so that ``@vistok.register`` can stand above it.

    Raises:
        ValueError: It is no class, has arguments without names, or another class has its name.
    """
    if not isinstance(part, type):
        raise ValueError(f"vistok.register takes a class, not {part!r}")
    known = CLASSES.get(part.__name__)
    if known is not None and (known.__module__, known.__qualname__) != (part.__module__, part.__qualname__):
        raise ValueError(f"there is a {part.__name__} already, of {known.__module__}: a class needs another name")
    kinds = {argument.kind for argument in inspect.signature(part).parameters.values()}
    if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY}:
        raise ValueError(f"{part.__name__} takes arguments without names, which a folder cannot tell")
    CLASSES[part.__name__] = part
    REGISTERED.add(part)
    return part


@torch.no_grad()
def check(tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that ``save`` could not write or ``load`` not read: before it is trained.

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
    """Write a tokenizer for inference: its head folded into a plain table, its weights in float32.

    Args:
        tokenizer: The tokenizer.
        folder: Made if need be; the three files in it are replaced.
        about: What else ``config.json`` should tell, under ``about``, and the model card: data, metrics, versions.
        half: Store float16, half the size. Loading makes float32 of these values, whose codes may differ a little.

    Raises:
        ValueError: A part is of no known class, with ``half`` a weight is beyond what float16 can hold, or ``about``
            is longer than what is read again.
    """
    folded = tokenizer.fold()
    config = {"format": FORMAT, "tokenizer": describe(folded), "about": about or {}}
    text = json.dumps(config, indent=2)  # before anything is written: what JSON cannot hold raises here
    if len(text) >= MAX_JSON:
        raise ValueError(f"about makes {len(text):,} bytes of JSON; {CONFIG} may have {MAX_JSON:,}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in folded.state_dict().items()}
    if half:
        weights = {name: stored_half(name, tensor) for name, tensor in weights.items()}
    safetensors.torch.save_file(weights, folder / WEIGHTS)
    (folder / CONFIG).write_text(text + "\n")
    model_card.write(folder, folded, about, USAGE)
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

    if not (Path(folder) / model_card.README).is_file():
        raise ValueError(f"{folder} is not an exported tokenizer: it has no {model_card.README}")
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
    for module in filter(None, os.environ.get(OWN, "").split(",")):
        import_module(module)
    folder = Path(folder)
    if not (folder / CONFIG).is_file() and (folder / "tokenizer" / CONFIG).is_file():
        folder = folder / "tokenizer"
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is not an exported tokenizer: it has no {name}")
    config, weights = read_json(folder / CONFIG), folder / WEIGHTS
    if type(config) is not dict or config.get("format") != FORMAT:
        found = config.get("format") if type(config) is dict else type(config).__name__
        raise ValueError(f"{folder / CONFIG} has the format {short(found)}; this version reads {FORMAT}")

    def described() -> Tokenizer:
        made = build(config.get("tokenizer"))
        if not isinstance(made, Tokenizer):
            raise ValueError(f"it describes a {type(made).__name__}, not a Tokenizer")
        return made

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
    """A part as JSON: its class and constructor arguments, which it keeps as attributes of the same names."""
    if isinstance(part, nn.Identity):
        return None
    if isinstance(part, list | tuple | nn.ModuleList):
        return [describe(member) for member in part]
    if type(part) not in CLASSES.values():
        if isinstance(part, nn.Module):
            raise ValueError(
                f"{type(part).__name__} cannot be exported: it is no class of vistok's own and not registered; "
                f"vistok.register({type(part).__name__}) makes it known"
            )
        if not isinstance(part, int | float | str | None):
            raise ValueError(f"a {type(part).__name__} cannot be exported: vistok.register makes a class known")
        return part
    described = {"class": type(part).__name__}
    for name in _arguments(type(part)):
        try:
            described[name] = describe(getattr(part, KEPT_AS.get((type(part), name), name)))
        except AttributeError as error:
            raise ValueError(
                f"{type(part).__name__} cannot be exported: it does not keep its argument {name} as an attribute"
            ) from error
    return described


def build(description: Any) -> Any:
    """The part that ``describe`` gave a description of, with fresh weights.

    Raises:
        ValueError: It names an unknown class, or the arguments of one are not what it takes.
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
            f"unknown class {short(name)}: known are {', '.join(sorted(CLASSES))}; one of your own is known once the "
            f"module is imported that calls vistok.register with it, which {OWN}=MODULE in the environment does"
        )
    hints = _arguments(CLASSES[name])
    unknown = [argument for argument in description if argument != "class" and argument not in hints]
    if unknown:
        raise ValueError(f"{name} has no argument {one_line(unknown[0], 80)}")
    arguments = {argument: build(value) for argument, value in description.items() if argument != "class"}
    for argument, value in arguments.items():
        if not _fits(value, hints[argument]):
            raise ValueError(f"the arguments of {name} do not fit: {argument} cannot be {_shown(value)}")
    try:
        return CLASSES[name](**arguments)
    except Beyond:
        raise
    except (TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError, OverflowError, RuntimeError) as error:
        # an argument is left out, or values of the right kind make no network together
        raise ValueError(f"the arguments of {name} do not fit: {one_line(error)}") from error


@cache
def _arguments(part: type) -> dict[str, Any]:
    """Names and types of the arguments of a class's constructor."""
    if part is nn.Conv2d:
        return CONV_ARGUMENTS
    hints = get_type_hints(part.__init__)
    return {name: hints.get(name, Any) for name in inspect.signature(part).parameters}


def _fits(value: Any, hint: Any) -> bool:
    """True if a value of a description is of an argument's type: numbers finite, whole ones from 0 on."""
    origin = get_origin(hint)
    if hint is Any:
        return True
    if type(value) in REGISTERED and (hint in (Encoder, Decoder) or origin is Callable):
        return True  # one of the user's own need be no subclass
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if origin in (Sequence, list):
        return type(value) is list and all(_fits(member, get_args(hint)[0]) for member in value)
    if origin is tuple:
        return type(value) is list and len(value) == 2 and all(map(_fits, value, get_args(hint)))
    if origin is Callable:
        return isinstance(value, ESTIMATORS)
    if hint is int:
        return type(value) is int and 0 <= value < MOST
    if hint is float:
        return type(value) in (int, float) and abs(value) <= LARGEST  # which NaN is not
    return isinstance(value, hint)


def _shown(value: Any) -> str:
    return f"a {type(value).__name__}" if isinstance(value, nn.Module) else short(value)
