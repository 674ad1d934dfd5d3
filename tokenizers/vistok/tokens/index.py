"""Start and end of an extraction: the check of its folder, and the index, whose existence means success."""

from pathlib import Path
from typing import Any

from vistok import files
from vistok.distributed.collectives import gather_objects, rank_and_size
from vistok.processes import locks
from vistok.tokens.header import INDEX, PARTIAL_INDEX
from vistok.tokens.token_shards import complete, note_path, notes_of, read_note, undamaged
from vistok.tokens.views import VIEWS
from vistok.untrusted.bounded_json import MAX_LISTING, read_object


def begin(out: Path, plan: dict[str, Any]) -> None:
    """Starts in a new folder, or checks that the folder belongs to the same extraction; same result on every rank.

    Raises:
        ValueError: The folder has other content.
    """
    rank, _ = rank_and_size()
    problem = None
    if rank == 0:
        try:
            _begin(out, plan)
        except (ValueError, OSError) as error:
            problem = str(error)
    problem = gather_objects(problem)[0]
    if problem:
        raise ValueError(problem)


def _begin(out: Path, plan: dict[str, Any]) -> None:
    for path in (out / INDEX, out / PARTIAL_INDEX):
        if path.is_file():
            former, here = read_object(path, MAX_LISTING), files.finite(plan)
            differing = [key for key in here if former.get(key) != here[key]]
            if differing:
                raise ValueError(
                    f"{out} holds other tokens: "
                    + "; ".join(f"{key} is {former.get(key)!r} there and {here[key]!r} here"[:200] for key in differing)
                )
            if path.name == INDEX:  # finished before: damaged shards are written again
                _unfinish(out, former)
            return
    if any(path.suffix != ".partial" and path.name != locks.NAME for path in out.iterdir()):
        raise ValueError(f"{out} exists already and has other files")
    files.write_json(plan, out / PARTIAL_INDEX)


def _unfinish(out: Path, index: dict[str, Any]) -> None:
    """Restores the notes of undamaged shards, as if only the index were missing."""
    for number, note in enumerate(notes_of(index, out / INDEX)):
        if undamaged(out, note["files"]):
            files.write_json(note, note_path(out, number))


def finished_shards(out: Path, parts: int) -> dict[int, dict[str, Any]]:
    """Notes of the existing, undamaged shards by number; rank 0 checks for all ranks."""
    rank, _ = rank_and_size()
    notes = {number: note for number in range(parts) if (note := complete(out, number))} if rank == 0 else {}
    return gather_objects(notes)[0]


def finish(out: Path, plan: dict[str, Any], parts: int) -> None:
    """Writes the index, whose existence means success, and removes the notes that it was made from."""
    notes = [read_note(out, number) for number in range(parts)]
    totals = {"images": sum(note["images"] for note in notes), "unreadable": sum(len(n["unreadable"]) for n in notes)}
    files.write_json(plan | totals | {"shards": notes}, out / INDEX)
    (out / PARTIAL_INDEX).unlink(missing_ok=True)
    for number in range(parts):
        note_path(out, number).unlink()


def summary_of(out: Path) -> str:
    """Summary of the written tokens, for a message."""
    index = read_object(out / INDEX, MAX_LISTING)
    views = VIEWS[index["views"]]
    shards = len(index["shards"])
    return (
        f"{index['images']:,} images"
        + (f" in {views} views" if views > 1 else "")
        + f", {shards:,} shard{'s' * (shards != 1)}"
        + (f", {index['unreadable']:,} unreadable" if index["unreadable"] else "")
    )
