"""What becomes of images that cannot be read: they are named, counted, and at some point too many."""

from vistok.data.images import Batch, UnreadableImage
from vistok.terminal import say, visible

ENOUGH = 100  # images after which a share says something about a set whose size is not known


class Skipped:
    """The unreadable images of a set.

    Args:
        limit: The share of the set that may be unreadable.
        argument: What the user calls the limit, for messages.
    """

    def __init__(self, limit: float, argument: str = "data.max_unreadable"):
        if not 0 <= limit <= 1:
            raise ValueError(f"{argument} must be a share in [0, 1], not {limit}")
        self.limit, self.argument = limit, argument
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
        self.seen += len(batch) + len(batch.skipped)
        for reason in batch.skipped:
            if reason not in self.reasons:
                self.reasons.add(reason)
                say(f"skipped: {visible(reason)}", "yellow")
        if total is None and self.seen < ENOUGH:
            return
        count, of = (self.times, self.seen) if total is None else (len(self.reasons), total)
        if count > self.limit * of:
            first = "\n  ".join(sorted(self.reasons)[:5])
            raise UnreadableImage(
                f"{count:,} of {of:,} images cannot be read, more than {self.argument}={self.limit:g} of them, "
                f"such as\n  {first}"
            )
