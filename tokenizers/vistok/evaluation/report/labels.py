"""Short names of tokenizers in a report."""

from collections.abc import Sequence

from vistok.formats.tokenizer_paths import EXPORT


def short(path: str) -> str:
    """Last part of a path; for the export of a run, the name of the run's folder."""
    parts = [part for part in path.rstrip("/").split("/") if part]
    return (parts[-2] if len(parts) > 1 and parts[-1] == EXPORT else parts[-1]) if parts else path


def distinct(paths: Sequence[str]) -> list[str]:
    """Short names that distinguish the paths; numbered if their last parts are equal."""
    names = [short(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    return [f"{i + 1}: {name}" for i, name in enumerate(names)]
