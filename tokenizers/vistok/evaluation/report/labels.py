"""Short names of tokenizers and metrics in a report."""

import re
from collections.abc import Sequence

from vistok.formats.tokenizer_paths import EXPORT
from vistok.metrics.units import better

TIME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?")  # of a run, the last folder of runs/NAME/TIME


def short(path: str, timed: bool = False) -> str:
    """Last part of a path; for a run in ``runs/NAME/TIME`` its name, and with ``timed`` also its time."""
    parts = [part for part in path.split("/") if part]
    if len(parts) > 1 and parts[-1] == EXPORT:
        parts.pop()
    if len(parts) > 1 and TIME.fullmatch(parts[-1]):
        return "/".join(parts[-2:]) if timed else parts[-2]
    return parts[-1] if parts else path


def distinct(paths: Sequence[str]) -> list[str]:
    """Short names that distinguish the paths: with times if runs have equal names, numbered if these are equal too."""
    for timed in (False, True):
        names = [short(path, timed) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{i + 1}: {short(path)}" for i, path in enumerate(paths)]


def without_common_folders(paths: Sequence[str]) -> list[str]:
    """Paths without the leading folders that all of them share; one path is complete."""
    parts = [path.split("/") for path in paths]
    shortest = min(map(len, parts), default=1)
    shared = next((i for i in range(shortest) if len({own[i] for own in parts}) > 1), shortest - 1)
    return ["/".join(own[shared:]) for own in parts] if len(parts) > 1 else list(paths)


def arrow(metric: str) -> str:
    """Arrow in the direction in which a metric is better; empty if in none."""
    return {"higher": "↑", "lower": "↓"}.get(better(metric), "")


def explained_arrow(metric: str) -> str:
    """HTML of ``arrow`` with its meaning for screen readers, after a space that does not break."""
    if not arrow(metric):
        return ""
    text = f"{better(metric)} is better"
    return f'\u00a0<span class="arrow" role="img" aria-label="{text}" title="{text}">{arrow(metric)}</span>'


def with_direction(metric: str) -> str:
    """Name of a metric and, in words, the direction in which it is better."""
    direction = better(metric)
    return metric.replace("_", " ") + (f" ({direction} is better)" if direction else "")
