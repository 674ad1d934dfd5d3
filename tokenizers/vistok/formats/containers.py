"""The tokenizer within a checkpoint: found by the names of its tensors, whatever dicts and prefixes are around them.

Dicts are joined to names by dots: the tensor ``encoder.conv_in.weight`` of ``{"state_dict": {...}}`` is
``state_dict.encoder.conv_in.weight``, as if ``state_dict.`` were a prefix. A tokenizer is wherever all ``marks`` of a
family follow the same prefix.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from vistok.formats.other_models import without_tensors
from vistok.untrusted.bounded_json import one_line, short

MAX_DEPTH, MAX_PATH = 6, 400  # of dicts around a tensor; characters of the path to one
MAX_TENSORS = 100_000
MAX_NODES = 400_000  # most values, of any kind, that are looked at
WRAPPERS = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
AVERAGE = {"ema", "average", "averaged", "avg", "shadow", "swa", "polyak"}  # words in the names of averaged weights
UNNAMED = ("shadow_params", "ema_params")  # lists of averaged weights in the order of parameters
CURRENT = "current_model_state."  # Lightning's raw weights, beside a state_dict that is averaged
SECOND = ("cond_stage_model",)  # parts of larger models that tokenize their conditions: never the first choice

Marks = Sequence[tuple[str, ...]]


class Located(NamedTuple):
    """Place of a tokenizer in a checkpoint."""

    prefix: str  # with its last dot; empty if nothing is before the names
    averaged: bool  # whether its weights are averages over training


class Unwrapped(NamedTuple):
    """Tensors of a tokenizer under their published names."""

    tensors: dict[str, Any]
    prefix: str
    averages: str | None = None  # where averaged weights come from: a prefix; None if the weights are raw
    others: tuple[str, ...] = ()  # prefixes of further tokenizers, and of the raw or averaged copy


class NoTensors(ValueError):
    """A checkpoint has no tensors by name."""


def flat(tree: Any) -> dict[str, Tensor]:
    """Tensors of nested dicts by their path, without the names that torch.compile and FSDP insert.

    Raises:
        NoTensors: There are none.
        ValueError: There are too many, or two have the same path.
    """
    if not isinstance(tree, Mapping):
        raise NoTensors(without_tensors(tree) or f"it holds a {type(tree).__name__}, not tensors by name")
    found: dict[str, Tensor] = {}
    nodes = 0
    pending: list[tuple[str, Mapping[Any, Any], int]] = [("", tree, 0)]
    while pending:
        path, part, depth = pending.pop()
        inner = []
        for key, value in part.items():
            nodes += 1
            name = path + (key if type(key) is str else short(key))[:MAX_PATH]
            if isinstance(value, Tensor):
                name = WRAPPERS.sub("", name)
                if name in found:
                    raise ValueError(f"two of its tensors are called {one_line(name, 80)}")
                found[name] = value
            elif isinstance(value, Mapping) and depth < MAX_DEPTH and len(name) < MAX_PATH:
                inner.append((f"{name}.", value, depth + 1))
        pending += reversed(inner)
        if len(found) > MAX_TENSORS or nodes > MAX_NODES:
            raise ValueError(f"it has more than {MAX_TENSORS:,} tensors or {MAX_NODES:,} values")
    if not found:
        raise NoTensors(
            without_tensors(tree) or f"it has no tensors under {', '.join(map(short, [*tree][:5])) or 'any name'}"
        )
    return found


def prefixes(names: Iterable[str], marks: Marks) -> list[str]:
    """Prefixes of all tokenizers, in the order of the names.

    Args:
        names: Names of tensors.
        marks: For each family, the names that all its files have.
    """
    names = names if isinstance(names, Mapping | set) else set(names)
    first: dict[str, list[tuple[str, ...]]] = {}  # by the last two parts of the name, which are quick to look up
    for mark in marks:
        first.setdefault(_end(mark[0]), []).append(mark)
    found: dict[str, None] = {}
    for name in names:
        for mark in first.get(_end(name), ()):
            before = name[: len(name) - len(mark[0])]
            if name.endswith(mark[0]) and before[-1:] in ("", ".") and all(before + own in names for own in mark):
                found[before] = None
    return list(found)


def parts(names: Iterable[str], marks: Marks) -> list[Located]:
    """All tokenizers of a checkpoint, in the order of the names."""
    found = prefixes(names, marks)
    swapped = any(own.startswith(CURRENT) for own in found)
    return [Located(own, _is_average(own) or (swapped and own.startswith("state_dict."))) for own in found]


def unwrap(tree: Any, marks: Marks, weights: str, part: str | None = None) -> Unwrapped:
    """The tokenizer of a checkpoint.

    Args:
        tree: Content of the checkpoint: nested dicts of tensors.
        marks: For each family, the names that all its files have.
        weights: ``ema`` for averaged weights where there are any, or ``raw``.
        part: Prefix of the tokenizer, with or without its last dot; needed if there are several.

    Raises:
        ValueError: There are no tensors or several tokenizers, or not the wanted weights. With no tokenizer, the
            tensors of the largest dict are returned, for a message about their names.
    """
    everything = flat(tree)
    found = parts(everything, marks)
    if part is not None:
        chosen = [own for own in found if own.prefix.rstrip(".") == part.rstrip(".")]
        if not chosen:
            raise ValueError(f"config's part={short(part)} is none of its tokenizers: {listed(found) or 'it has none'}")
        found = chosen
    if not found:
        return Unwrapped(_largest(everything, tree), "")
    raw, averaged = ([own for own in found if own.averaged is kind] for kind in (False, True))
    if weights == "raw" and not raw and part is None:
        raise ValueError(f"weights='raw', but it has only {listed(averaged)}")
    chosen = one(everything, averaged if averaged and weights == "ema" else raw or averaged)
    others = tuple(own.prefix for own in found if own != chosen)
    inner = tuple(own[len(chosen.prefix) :] for own in others if own.startswith(chosen.prefix))
    tensors = {name: value for name, value in within(everything, chosen.prefix).items() if not name.startswith(inner)}
    if chosen.averaged:
        return Unwrapped(tensors, chosen.prefix, chosen.prefix, others)
    overlaid = _overlaid(everything, tensors, chosen.prefix, weights)
    if weights == "ema" and overlaid.averages is None and part is None:
        unnamed = [name for name in _lists(tree) if name.rpartition(".")[2] in UNNAMED]
        if unnamed:
            raise ValueError(f"its averaged weights, {unnamed[0]}, have no names: give weights='raw' for the others")
    return overlaid._replace(others=others)


def one(everything: Mapping[str, Tensor], found: Sequence[Located]) -> Located:
    """The tokenizer that is meant, if there is no doubt: several must be the same tensors.

    Raises:
        ValueError: They are not; the message lists them.
    """
    if len(found) > 1:
        found = [own for own in found if not set(own.prefix.split(".")) & set(SECOND)] or found
    first, *more = (within(everything, own.prefix) for own in found)
    for other in more:
        if first.keys() != other.keys() or any(first[name] is not other[name] for name in first):
            raise ValueError(f"it has several tokenizers, {listed(found)}: give config={{'part': ...}}, one of these")
    return found[0]


def within(everything: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names have a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in everything.items() if name.startswith(prefix)}


def listed(found: Sequence[Located]) -> str:
    """Prefixes for a message."""
    return ", ".join(one_line(own.prefix.rstrip(".") or "''", 80) for own in found[:8])


def _end(name: str) -> str:
    return ".".join(name[-MAX_PATH:].split(".")[-2:])


def _is_average(prefix: str) -> bool:
    return bool(AVERAGE & set(re.split(r"[._\-]", prefix.lower())))


def _largest(everything: dict[str, Tensor], tree: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Tensors of the first dict that has the most, by the keys of the outermost dicts."""
    inner = {f"{key}." for key, value in tree.items() if isinstance(value, Mapping) and type(key) is str}
    counts = Counter(next((own for own in inner if name.startswith(own)), "") for name in everything)
    return within(everything, counts.most_common(1)[0][0])


def _lists(tree: Mapping[Any, Any], path: str = "", depth: int = 0) -> list[str]:
    """Paths of the lists that hold tensors."""
    found = []
    for key, value in tree.items():
        if type(key) is not str or len(key) > MAX_PATH:
            continue
        if isinstance(value, Mapping) and depth < 2:
            found += _lists(value, f"{path}{key}.", depth + 1)
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
            found.append(path + key)
    return found


def _overlaid(everything: Mapping[str, Tensor], state: dict[str, Tensor], prefix: str, weights: str) -> Unwrapped:
    """Raw tensors with those replaced that have an average under another name.

    Raises:
        ValueError: An average belongs to no tensor, or has another shape.
    """
    source, averages, shadows = _same_names(everything, state, prefix)
    here = {name: value for name, value in state.items() if name not in shadows and not name.startswith("model_ema.")}
    if not averages:
        source, averages = _without_dots(everything, here, prefix)
    if weights == "raw" or not averages:
        return Unwrapped(here, prefix)
    for name, value in averages.items():
        if value.shape != here[name].shape:
            raise ValueError(f"the average of {one_line(name, 80)} has other sizes")
    return Unwrapped(here | averages, prefix, source)


def _without_dots(
    everything: Mapping[str, Tensor], here: Mapping[str, Tensor], prefix: str
) -> tuple[str | None, dict[str, Tensor]]:
    """Averages ``model_ema.*``, whose names are those of the whole model, or of the averaged part, without dots.

    Frozen tensors (SimVQ's basis) have no average.

    Raises:
        ValueError: An average is of no tensor, in a file that holds only the tokenizer.
    """
    for above in (prefix, *_above(prefix)):
        shadow = {name: value for name, value in within(everything, f"{above}model_ema.").items() if "." not in name}
        full = {name.replace(".", ""): name for name in here}
        full |= {(prefix[len(above) :] + name).replace(".", ""): name for name in here}
        strange = [name for name in shadow if name not in full and not re.match("decay$|num_updates$|loss", name)]
        if strange and above == prefix:
            raise ValueError(f"model_ema.{one_line(strange[0], 80)} is the average of no tensor of it")
        averages = {full[name]: value for name, value in shadow.items() if name in full}
        if averages:
            return f"{above}model_ema.", averages
    return None, {}


def _above(prefix: str) -> list[str]:
    """Shorter prefixes of a prefix, the longest first."""
    pieces = prefix.split(".")[:-1]
    return [".".join(pieces[:i]) + "." if i else "" for i in reversed(range(len(pieces)))]


def _same_names(
    everything: Mapping[str, Tensor], state: Mapping[str, Tensor], prefix: str
) -> tuple[str | None, dict[str, Tensor], set[str]]:
    """Averages under another prefix with the same names, without those that have none (buffers).

    Returns:
        The prefix, the averages, and names of the averages that are among the raw tensors.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in everything.items():
        pieces = name.split(".", 2 * MAX_DEPTH)
        for i in range(1, len(pieces) if _is_average(name) else 0):
            before, own = ".".join(pieces[:i]) + ".", ".".join(pieces[i:])
            if before != prefix and own in state and _is_average(before):
                found.setdefault(before, {})[own] = value
    for before, averages in found.items():
        own = before.removeprefix(prefix) if before.startswith(prefix) else None
        names = {own + name for name in averages} if own else set()
        if 2 * len(averages) > len(state) - len(names):
            return before, averages, names
    return None, {}, set()
