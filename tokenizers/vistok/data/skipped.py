"""What becomes of images that cannot be read: they are named, counted, and at some point too many."""

from typing import Any

from vistok.data.batches import Batch
from vistok.distributed.collectives import gather_objects, rank_and_size
from vistok.images.rgb import UnreadableImage
from vistok.terminal import say, visible

ENOUGH = 100  # images after which a share says something about a set whose size is not known


class Skipped:
    """The unreadable images of a set.

    Args:
        limit: The share of the set that may be unreadable.
        argument: What the user calls the limit, for messages.
        what: What the set holds, for messages.
    """

    def __init__(self, limit: float, argument: str = "data.max_unreadable", what: str = "images"):
        if not 0 <= limit <= 1:
            raise ValueError(f"{argument} must be a share in [0, 1], not {limit}")
        self.limit, self.argument, self.what = limit, argument, what
        self.reasons: set[str] = set()  # of each image, with its name
        self.times, self.seen = 0, 0  # how often an image was skipped, how many came by in all

    def note(self, batch: Batch, total: int | None) -> None:
        """Say which images of a batch could not be read: once for each, however often it comes.

        Args:
            batch: Of this set.
            total: Images in the set; None where that is not known, and what came by stands for it.

        Raises:
            UnreadableImage: They are too many.
        """
        self.times += len(batch.skipped)
        self.seen += len(batch.images) + len(batch.skipped)
        for reason in batch.skipped:
            if reason not in self.reasons:
                self.reasons.add(reason)
                say(f"skipped: {visible(reason)}", "yellow")
        if total is not None or self.seen >= ENOUGH:
            self._judge(total)

    def end_pass(self) -> None:
        """All images of a set whose size is not known have come by: they are judged, and counted anew from now on.

        Raises:
            UnreadableImage: Too many could not be read.
        """
        if self.seen:
            self._judge(None)
        self.times, self.seen = 0, 0

    def _judge(self, total: int | None) -> None:
        count, of = (self.times, self.seen) if total is None else (len(self.reasons), total)
        if count > self.limit * of:
            first = "\n  ".join(sorted(self.reasons)[:5])
            raise UnreadableImage(
                f"{count:,} of {of:,} {self.what} cannot be read, more than {self.argument}={self.limit:g} of them, "
                f"such as\n  {first}"
            )

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint. All ranks have to ask for it: each learns which images the others could not read."""
        everyone = gather_objects((sorted(self.reasons), self.times, self.seen))
        self.reasons = {reason for reasons, _, _ in everyone for reason in reasons}
        return {"reasons": sorted(self.reasons), "counts": [[times, seen] for _, times, seen in everyone]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rank, _ = rank_and_size()
        self.reasons = set(state["reasons"])
        self.times, self.seen = state["counts"][rank] if rank < len(state["counts"]) else (0, 0)


def by_split(limit: float) -> dict[str, Skipped]:
    """The unreadable images of each of the two sets that a training run reads, counted apart."""
    return {split: Skipped(limit, what=f"{split} images") for split in ("training", "validation")}
