"""JSON, safetensors and networks of files that anybody may have written: within bounds, or a ValueError.

Nothing is allocated because a file claims it: JSON is bounded in bytes and depth, tensors are mapped, and a network
that a file describes is first built without values and compared with the tensors that the file has.
"""

import json
import math
import reprlib
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vistok.terminal import visible

MAX_JSON = 2**20  # bytes of a description
MAX_LISTING = 2**28  # bytes of a JSON file that lists what a data set has
MAX_DEPTH = 64  # containers within one another
MAX_HEADER = 16 * 2**20  # bytes of JSON in a safetensors file
MAX_TENSORS = 100_000
MAX_OF_NETWORK = 4_000  # tensors of one network
MAX_CALLS, MAX_CALLS_FOR_EACH = 1_000, 12  # of torch to build a network: in all, and for each tensor of its file
SMALL = 4_096  # values of tensors that a constructor may make beside those of the file
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = _shortened.maxlong = 80
_shortened.maxlevel = 2

Network = TypeVar("Network", bound=nn.Module)


def short(value: Any) -> str:
    """A value of a file for a message: its ``repr`` in one line, cut in the middle where it is long."""
    return _shortened.repr(value).replace("\n", " ")


def one_line(text: object, most: int = 400) -> str:
    """A library's message for one of ours: in one line, control characters escaped, cut where it is long."""
    words = " ".join(str(text)[: 4 * most].split())
    words = visible(words)
    return words if len(words) <= most else f"{words[:most]}..."


# ------------------------------------------------------------------------------------------------------------- JSON


def read_json(path: Path, most: int = MAX_JSON) -> Any:
    """The content of a JSON file.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        ValueError: There is no such file, it is larger, or it is not JSON.
    """
    if not path.is_file():
        raise ValueError(f"there is no {path}")
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"{path} has {size:,} bytes of JSON, more than {most:,}")
    return parse_json(path.read_bytes(), path)


def read_object(path: Path, most: int = MAX_JSON) -> dict[str, Any]:
    """The content of a JSON file that has names and their values.

    Raises:
        ValueError: As ``read_json``, or it is something else.
    """
    content = read_json(path, most)
    if type(content) is not dict:
        raise ValueError(f"{path} holds a {type(content).__name__}, not names and their values")
    return content


def parse_json(content: bytes, where: str | Path) -> Any:
    """The content of a text of JSON; ``where`` names it in messages.

    Numbers may be NaN or infinite, as Python writes them: whoever reads one checks its range.

    Raises:
        ValueError: It is not JSON in UTF-8, has a name twice in one object, or containers too deep within one another.
    """
    try:
        tree = json.loads(content.decode(), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {one_line(error)}") from error
    level, depth = [tree], 0
    while level := [part for part in level if type(part) in (dict, list)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"{where} has containers nested more than {MAX_DEPTH} deep")
        level = [inner for part in level for inner in (part.values() if type(part) is dict else part)]
    return tree


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise ValueError(f"an object has {short(name)} twice")
        made[name] = value
    return made


# ------------------------------------------------------------------------------------------------------ safetensors


class Stored(NamedTuple):
    """The contents of a safetensors file."""

    tensors: dict[str, Tensor]  # mapped from the file
    metadata: dict[str, str]


def read_safetensors(path: Path) -> Stored:
    """Map a safetensors file. Its tensors take no memory before they are used; leave the file as it is until then.

    Raises:
        ValueError: It is damaged, or has more tensors than any network. Its message does not name the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8:
        raise ValueError(f"it has {size:,} bytes, which is no safetensors file")
    (header,) = struct.unpack("<Q", start)
    if header > min(MAX_HEADER, size - 8):
        raise ValueError(f"its header claims {header:,} bytes, the file has {size:,}")
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            if len(names) > MAX_TENSORS:
                raise ValueError(f"it has {len(names):,} tensors, more than {MAX_TENSORS:,}")
            return Stored({name: file.get_tensor(name) for name in names}, file.metadata() or {})
    except (SafetensorError, RuntimeError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(one_line(error)) from error  # the library's, and torch's for types that it does not have


# --------------------------------------------------------------------------------------------------------- networks


class Beyond(ValueError):
    """A description asks for more than its file of weights has."""


class Bounded(TorchFunctionMode):
    """Ends a construction that makes more tensors than a file has, or larger ones, or empty ones.

    Inside ``torch.device("meta")``, where tensors have sizes and no values, that is before anything is spent on them.

    Args:
        tensors: The file's.

    Raises:
        Beyond: It does, or the file has more tensors than a network.
    """

    def __init__(self, tensors: Iterable[Tensor]):
        super().__init__()
        sizes = [tensor.numel() for tensor in tensors]
        if len(sizes) > MAX_OF_NETWORK:
            raise Beyond(f"it has {len(sizes):,} tensors, more than {MAX_OF_NETWORK:,}, as no tokenizer has")
        self.largest = max(sizes, default=0) + SMALL
        self.number = len(sizes)
        self.calls = MAX_CALLS + MAX_CALLS_FOR_EACH * len(sizes)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.calls -= 1
        if self.calls < 0:
            raise Beyond(f"it describes a network of far more than the {self.number:,} tensors that there are")
        if isinstance(made, Tensor) and not 0 < made.numel() <= self.largest:
            sizes = " x ".join(f"{side:,}" for side in made.shape)
            raise Beyond(f"it describes a tensor of {sizes} values; the largest that there is has {self.largest:,}")
        return made


def network_of(tensors: Mapping[str, Tensor], build: Callable[[], Network]) -> Network:
    """The network that ``build`` makes, with the values of a file.

    It is built twice: without values, to see that all tensors that it has are in the file, of the same sizes; then
    really, since a constructor may compute values that are in no file.

    Args:
        tensors: The file's.
        build: Gives the same network each time.

    Raises:
        ValueError: ``build`` raises it, or the network has other tensors than the file.
    """
    with torch.device("meta"), Bounded(tensors.values()):
        planned = build()
    refuse_differences(tensors, planned.state_dict())
    network = build()
    network.load_state_dict(tensors)
    return network


def refuse_differences(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors that have not the names, sizes and kinds of those expected.

    Raises:
        Beyond: The message lists the first of them.
    """
    differences = [f"Missing key {short(name)}" for name in expected if name not in tensors]
    differences += [f"Unexpected key {short(name)}" for name in tensors if name not in expected]
    for name in expected.keys() & tensors.keys():
        ours, theirs = expected[name], tensors[name]
        if ours.shape != theirs.shape:
            differences.append(f"{short(name)} has the sizes {list(theirs.shape)}, not {list(ours.shape)}")
        elif theirs.dtype not in FLOATS if ours.dtype in FLOATS else theirs.dtype != ours.dtype:
            differences.append(f"{short(name)} is {theirs.dtype}, not {ours.dtype}")
    if differences:
        more = f" and {len(differences) - 4:,} more" if len(differences) > 4 else ""
        raise Beyond("; ".join(sorted(differences)[:4]) + more)


def refuse_shared(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that take far more memory as copies than as they lie in a file, sharing storages.

    Raises:
        ValueError: They do.
    """
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors.values()}
    copied = math.fsum(t.numel() * t.element_size() for t in tensors.values())
    if copied > 2 * sum(held.values()) + 2**20:
        raise ValueError(f"its tensors share storages: {sum(held.values()):,} bytes would become {copied:,.0f}")
