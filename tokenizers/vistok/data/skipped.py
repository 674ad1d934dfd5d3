"""Reports and counts of unreadable images, with a limit on their share."""

from typing import Any

from vistok.data.batches import Batch
from vistok.distributed.collectives import gather_objects, rank_and_size
from vistok.images.rgb import UnreadableImage
from vistok.terminal import say, visible

RULE = "an image of a tar is the first one of its key, and its label KEY.cls follows or precedes it"
ENOUGH = 100  # images after which the share is checked in a set of unknown size


class Skipped:
    """Unreadable images of a set.

    Args:
        limit: Largest share of unreadable images, in [0, 1].
        argument: The user's name of the limit, for messages.
        what: Name of the set's content, for messages.
    """

    def __init__(self, limit: float, argument: str = "data.max_unreadable", what: str = "images"):
        if not 0 <= limit <= 1:
            raise ValueError(f"{argument} must be a share in [0, 1], not {limit}")
        self.limit, self.argument, self.what = limit, argument, what
        self.reasons: set[str] = set()  # name and reason of each image
        self.times, self.count = 0, 0  # number of skipped images and of all images read
        self.passed_over = 0  # number of members of tars beside the images, which are not read

    def note(self, batch: Batch, total: int | None) -> None:
        """Reports the unreadable images of a batch, each image once, and the first member that is passed over.

        Args:
            batch: Batch of this set.
            total: Number of images in the set; None if unknown, in which case the number read so far is used.

        Raises:
            UnreadableImage: Too many images are unreadable.
        """
        self.times += len(batch.skipped)
        self.count += len(batch.images) + len(batch.skipped)
        if batch.passed_over and not self.passed_over:
            say(f"passed over: {visible(batch.passed_over[0])}, and others like it; {RULE}", "yellow")
        self.passed_over += len(batch.passed_over)
        for reason in batch.skipped:
            if reason not in self.reasons:
                self.reasons.add(reason)
                say(f"skipped: {visible(reason)}", "yellow")
        if total is not None or self.count >= ENOUGH:
            self._check(total)

    def end_pass(self) -> None:
        """Ends a pass over a set of unknown size: checks the share of unreadable images and resets the counts.

        Raises:
            UnreadableImage: Too many images are unreadable.
        """
        if self.count:
            self._check(None)
        self.times, self.count = 0, 0

    def _check(self, total: int | None) -> None:
        count, of = (self.times, self.count) if total is None else (len(self.reasons), total)
        if count > self.limit * of:
            first = "\n  ".join(sorted(self.reasons)[:5])
            raise UnreadableImage(
                f"{count:,} of {of:,} {self.what} cannot be read, more than {self.argument}={self.limit:g} of them, "
                f"such as\n  {first}"
            )

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint. A collective: every rank calls it and learns the unreadable images of the others."""
        of_ranks = gather_objects((sorted(self.reasons), self.times, self.count))
        self.reasons = {reason for reasons, _, _ in of_ranks for reason in reasons}
        return {"reasons": sorted(self.reasons), "counts": [[times, count] for _, times, count in of_ranks]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rank, _ = rank_and_size()
        self.reasons = set(state["reasons"])
        self.times, self.count = state["counts"][rank] if rank < len(state["counts"]) else (0, 0)


def by_split(limit: float) -> dict[str, Skipped]:
    """Unreadable images of each of the two sets that a training run reads, counted separately."""
    return {split: Skipped(limit, what=f"{split} images") for split in ("training", "validation")}
