"""JSON, safetensors and networks of files that anybody may have written: within bounds, or a ValueError.

Nothing is allocated because a file claims it: JSON is bounded in bytes and depth, tensors are mapped, and a network
that a file describes is first built without values and compared with the tensors that the file has.
"""

import json
import reprlib
from pathlib import Path
from typing import Any

from vistok.terminal import visible

MAX_JSON = 2**20  # bytes of a description
MAX_LISTING = 2**28  # bytes of a JSON file that lists what a data set has
MAX_DEPTH = 64  # containers within one another
MAX_CALLS, MAX_CALLS_FOR_EACH = 1_000, 12  # of torch to build a network: in all, and for each tensor of its file

_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = _shortened.maxlong = 80
_shortened.maxlevel = 2


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


# --------------------------------------------------------------------------------------------------------- networks
