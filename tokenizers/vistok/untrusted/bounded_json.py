"""JSON from unknown sources, bounded in size and depth."""

import json
import reprlib
from pathlib import Path
from typing import Any

from vistok.terminal import visible

MAX_JSON = 2**20  # largest description in bytes
MAX_LISTING = 2**28  # largest JSON file that lists a data set, in bytes
MAX_DEPTH = 64  # deepest nesting of containers

_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = _shortened.maxlong = 80
_shortened.maxlevel = 2


def short(value: Any) -> str:
    """Value of a file for a message: its ``repr`` in one line, shortened in the middle."""
    return _shortened.repr(value).replace("\n", " ")


def one_line(text: object, most: int = 400) -> str:
    """Another library's message in one line, with control characters escaped, shortened at the end."""
    line = " ".join(str(text)[: 4 * most].split())
    line = visible(line)
    return line if len(line) <= most else f"{line[:most]}..."


def read_json(path: Path, most: int = MAX_JSON) -> Any:
    """Content of a JSON file.

    Args:
        path: The file.
        most: Largest accepted size in bytes.

    Raises:
        ValueError: The file does not exist, is larger, or is not JSON.
    """
    if not path.is_file():
        raise ValueError(f"there is no {path}")
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"{path} has {size:,} bytes of JSON, more than {most:,}")
    return parse_json(path.read_bytes(), path)


def read_object(path: Path, most: int = MAX_JSON) -> dict[str, Any]:
    """Content of a JSON file that is an object.

    Raises:
        ValueError: As for ``read_json``, or the content is not an object.
    """
    content = read_json(path, most)
    if type(content) is not dict:
        raise ValueError(f"{path} holds a {type(content).__name__}, not names and their values")
    return content


def parse_json(content: bytes, where: str | Path) -> Any:
    """Content of JSON text; ``where`` names it in messages.

    Numbers may be NaN or infinite, as Python writes them; callers check the range.

    Raises:
        ValueError: The text is not JSON in UTF-8, an object has a name twice, or containers are nested too deeply.
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
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"an object has {short(name)} twice")
        content[name] = value
    return content
