"""Facts about runs from their folders: data, tokenizer, updates, time and scores on held-out images."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vistok.training.callbacks.metrics_rows import is_validation, read_rows
from vistok.untrusted.bounded_json import read_object

DEPTH = 4  # folders below the given one in which runs are looked for
MOST_BYTES = 2**24  # largest file of a run that is read
ARGUMENTS = "# arguments: "  # begins the first line of config.yaml, before a JSON list


class RunFacts(NamedTuple):
    """Facts about a run."""

    folder: Path
    began: float  # seconds since 1970
    data: str
    settings: str
    updates: int
    planned: int
    scores: Mapping[str, float]  # of the last validation, by name
    seconds: float | None  # of all attempts; None for a run that has not been closed
    arguments: Sequence[str] | None  # that started it; None where they are not known
    config: Mapping[str, Any]


def run_folders(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Folders of runs in a folder, or the folder itself."""
    if (folder / "config.yaml").is_file():
        yield folder
    elif depth:
        for below in sorted(own for own in folder.iterdir() if own.is_dir() and not own.is_symlink()):
            yield from run_folders(below, depth - 1)


def facts_of(folder: Path) -> RunFacts:
    """Facts about a run, from its files; what is missing or damaged is empty."""
    text = (folder / "config.yaml").read_bytes()[:MOST_BYTES]
    config = _config(text)
    model, data, optim = (value_at(config, name) for name in ("model", "data", "optim"))
    updates, scores, seconds = _progress(folder)
    model, data, optim = (own if isinstance(own, dict) else {} for own in (model, data, optim))
    head = str(value_at(config, "tokenizer", "quantizer", "_target_") or "").rpartition(".")[2]
    size, source = data.get("image_size"), data.get("root") or data.get("urls") or ""
    kind = str(data.get("_target_") or "").rpartition(".")[2]
    return RunFacts(
        folder,
        (folder / "config.yaml").stat().st_mtime,
        f"{kind} {source if type(source) is str else ', '.join(map(str, source))}".strip(),
        f"{head} {model.get('codebook_size')}, {size} px",
        updates,
        planned if type(planned := optim.get("updates")) is int else updates,
        scores,
        seconds,
        _arguments(text),
        config,
    )


def value_at(config: Any, *path: str) -> Any:
    """Value in nested mappings; None where a name is missing or names no mapping on the way."""
    for name in path:
        config = config.get(name) if isinstance(config, dict) else None
    return config


def _progress(folder: Path) -> tuple[int, dict[str, float], float | None]:
    """Updates made, scores of the last validation, and seconds."""
    if (folder / "metrics.json").is_file():
        try:
            report = read_object(folder / "metrics.json", MOST_BYTES)
            numbers = {name: float(own) for name, own in report["metrics"].items() if type(own) in (int, float)}
            seconds = report.get("seconds")
            return int(report["updates"]), numbers, float(seconds) if isinstance(seconds, int | float) else None
        except (ValueError, TypeError, KeyError, AttributeError):
            pass
    file = folder / "metrics.csv"
    rows = read_rows(file) if file.is_file() and file.stat().st_size <= MOST_BYTES else None
    validations = [row for row in rows or () if is_validation(row)]
    last = validations[-1] if validations else {}
    scores = {name.removeprefix("val/"): float(own) for name, own in last.items() if name.startswith("val/") and own}
    updates = [float(row["updates"]) for row in rows or () if row.get("updates")]
    return int(max(updates, default=0)), scores, None


def _config(text: bytes) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _arguments(text: bytes) -> list[str] | None:
    first = text.partition(b"\n")[0].decode(errors="replace")
    try:
        found = json.loads(first.removeprefix(ARGUMENTS)) if first.startswith(ARGUMENTS) else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and all(isinstance(own, str) for own in found) else None
