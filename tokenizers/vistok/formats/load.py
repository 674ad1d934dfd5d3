"""Loading of tokenizers from a run, an exported folder, a published checkpoint or the hub.

The sizes of tensors determine the settings of a published file; a file whose settings remain unknown is refused.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vistok.formats import native, tokenizer_paths
from vistok.formats.families import choose, of_tokenizers, unwrapped
from vistok.formats.importers.hyperparameters import Unknown, get
from vistok.formats.importers.key_map import to_ours
from vistok.formats.weight_files import part_of, read_weights
from vistok.images.ranges import LogitLaplaceMap, PixelMap
from vistok.tokenizer import Tokenizer
from vistok.untrusted.bounded_json import one_line, short
from vistok.untrusted.bounded_network import Bounded, refuse_shared, unshared
from vistok.untrusted.torch_files import bytes_in_memory

KINDS = ("ema", "raw")
# Parts beside a tokenizer that only training uses.
LOSSES = r"(\w*loss|(\w+_)?disc(riminator)?|lpips|perceptual\w*|optimizers?(_\w+)?|(lr_)?schedulers?)\..*"
FILLED = 0.75  # share of a file's memory that tensors fill to be taken as they are
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load(
    source: str | Path,
    family: str | None = None,
    config: Mapping[str, Any] | None = None,
    weights: str = "ema",
) -> Tokenizer:
    """Loads a tokenizer for inference from a file, a folder or the Hugging Face hub, without executing code from it.

    Heads of published files keep their training parameters (SimVQ's map, VQBridge's bridge), so that they can be
    trained further; ``Tokenizer.fold`` removes these.

    Args:
        source: A folder that ``save`` or a training run wrote, a published checkpoint, a folder with one or its index,
            ``user/repo`` or ``user/repo/FILE`` on the hub, or ``sample``, which is part of the package.
        family: Family of a published file whose keys do not determine it.
        config: Settings that its keys do not determine, by the names in its authors' configuration; see
            ``docs/import.md``.
        weights: ``ema`` for averaged weights where the file has them, ``raw`` for the weights without averaging.

    Raises:
        FileNotFoundError: ``source`` does not exist.
        WeightsUnavailable: The hub cannot be reached, or has no such file.
        ValueError: The file is unreadable or of no known family, or a setting is missing; the message lists what is
            needed.
    """
    if weights not in KINDS:
        raise ValueError(f"weights must be one of {', '.join(KINDS)}, not {weights!r}")
    found = tokenizer_paths.find(source)
    if found.config is None:
        return native.load(found.path)
    try:
        beside = found.config if family in (None, found.family) else {}
        return load_file(found.path, family or found.family, {**beside, **(config or {})}, weights)
    except Unknown:
        raise
    except ValueError as error:
        if found.path.name != tokenizer_paths.WEIGHTS or (found.path.parent / tokenizer_paths.CONFIG).exists():
            raise
        raise FileNotFoundError(
            f"{source} is not an exported tokenizer: it has no {tokenizer_paths.CONFIG}; as a published one, {error}"
        ) from error


def load_file(
    path: str | Path, family: str | None = None, config: Mapping[str, Any] | None = None, weights: str = "ema"
) -> Tokenizer:
    """Loads the tokenizer of a published checkpoint. Arguments as for ``load``."""
    tree = read_weights(Path(path), of_tokenizers).tree
    try:
        return tokenizer_of(tree, family, config or {}, weights, bytes_in_memory(Path(path)))
    except Unknown as error:
        raise Unknown(f"{path}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be imported: {error}{part_of(Path(path))}") from error


def tokenizer_of(
    tree: Any, family: str | None, config: Mapping[str, Any], weights: str, disposable: int = 0
) -> Tokenizer:
    """Tokenizer from the content of a checkpoint: nested dicts of tensors.

    Args:
        disposable: Bytes of memory that the content takes and that nobody else needs; 0 if all tensors are copied.
            They are taken as they are where they fill most of it; a small part of it would keep all of it occupied.
    """
    tensors = unwrapped(tree, weights, get(config, "part")).tensors
    found = choose(tensors, family, config)
    ignored = re.compile("|".join((LOSSES, *found.ignored)))
    read = {name: tensor for name, tensor in tensors.items() if not ignored.fullmatch(name)}
    wrong = [name for name, tensor in read.items() if not isinstance(tensor, Tensor) or tensor.dtype not in FLOATS]
    if wrong:
        raise ValueError(f"{one_line(wrong[0], 80)} is not a tensor of floats")
    empty = [name for name, tensor in read.items() if not tensor.numel()]
    if empty:
        hint = ": ZeRO-3 of DeepSpeed leaves them out, its zero_to_fp32.py gathers them" if len(empty) > 1 else ""
        raise ValueError(f"{one_line(empty[0], 80)} has no values{hint}")
    bounded = Bounded(read.values())
    extra = found.prepare(read, config) if found.prepare else {}
    refuse_shared(read)
    levels = [int(match[1]) for name in read if (match := re.match(r"(?:pixel_)?decoder\.up\.(\d{1,5})\.", name))]
    try:
        ours = to_ours(found.rules, read, max(levels, default=-1) + 1)
        shapes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
        with torch.device("meta"), bounded:  # memory is allocated only after the tensors are known to fit
            tokenizer = found.build(shapes, config, family is not None, **extra)
        alone = unshared(ours) if sum(own.nbytes for own in ours.values()) > FILLED * disposable > 0 else set()
        state = {
            name: tensor.to(torch.float32, copy=name not in alone, memory_format=torch.contiguous_format)
            for name, tensor in ours.items()
        }
        tokenizer.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError, IndexError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"as {found.name} its tensors do not fit together: {one_line(error)}") from error
    low_high = get(config, "input_range")
    if low_high is not None and not isinstance(tokenizer.pixels, LogitLaplaceMap):
        tokenizer.pixels = pixels_of(low_high)
    return tokenizer.eval().requires_grad_(False)


def pixels_of(low_high: Any) -> PixelMap:
    """Pixel map of a network whose pixels are in [0, 1] or [-1, 1]."""
    if not isinstance(low_high, Sequence) or list(low_high) not in ([0, 1], [-1, 1]):
        raise ValueError(f"config's input_range must be [0, 1] or [-1, 1], not {short(low_high)}")
    return PixelMap(0.5, 0.5) if low_high[0] == 0 else PixelMap()
