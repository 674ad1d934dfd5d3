"""All images past all tokenizers, once for each cut, on one process or several."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from vistok.data import ImageDataModule
from vistok.data.shards import Data
from vistok.distributed.collectives import rank_and_size
from vistok.evaluation import statistics
from vistok.evaluation.accumulator import Scores, too_small
from vistok.evaluation.examples import Examples
from vistok.evaluation.identity import fingerprint, names_hash
from vistok.evaluation.networks import ScoringNetworks
from vistok.evaluation.protocols import Protocol, digest
from vistok.evaluation.references import check_reference, known_statistics
from vistok.images.evaluation_crops import CROPS
from vistok.images.ranges import to_float
from vistok.processes import locks, signals
from vistok.processes.progress_bar import progress
from vistok.quantizers import Codes, Context
from vistok.terminal import say
from vistok.tokenizer import Tokenizer

FORMAT = 5
TOO_FEW = "a Fréchet distance needs at least 2 images; network=none leaves it out"


class Result:
    """The scores of one tokenizer under all protocols.

    Attributes:
        scores: By crop, of all ranks.
        fingerprint: See the function.
    """

    def __init__(self, fingerprint: str):
        self.fingerprint = fingerprint
        self.scores: dict[str, Scores] = {}
        self.partials: list[Path] = []

    @property
    def names(self) -> list[str]:
        return next(iter(self.scores.values())).names

    @property
    def unreadable(self) -> list[str]:
        return sorted({reason for scores in self.scores.values() for reason in scores.unreadable})

    def metrics(self, protocols: Mapping[str, Protocol]) -> dict[str, dict[str, float]]:
        return {name: self.scores[protocol.crop].metrics(name) for name, protocol in protocols.items()}

    def forget(self) -> None:
        """Delete what would have been needed to go on: of all ranks."""
        for path in self.partials:
            path.unlink(missing_ok=True)


def score(
    tokenizers: Sequence[Tokenizer],
    data: Data,
    protocols: Mapping[str, Protocol],
    networks: ScoringNetworks = ScoringNetworks(),
    rate: float | None = None,
    device: torch.device | str = "cpu",
    reference: str | None = None,
    partial_folder: Path | None = None,
    partial_every: float = 60,
    console: Console | None = None,
    take_over: bool = False,
) -> list[Result]:
    """Reconstruct all images with all tokenizers, once for each cut, and keep what the protocols' numbers need.

    Under ``torch.distributed`` each process takes every n-th image, and all return the scores of all images.

    Args:
        tokenizers: What is scored.
        data: Its ``scored_batches`` are.
        protocols: By name.
        networks: The networks to compare images by.
        rate: Of a dynamic head: the share of regions that get fine codes.
        device: Where the networks run.
        reference: File with statistics of the images, made by ``save_reference``.
        partial_folder: Where the state is kept, so that the same call goes on after a kill; None keeps none.
        partial_every: Seconds between two such writes.
        console: For progress; None is silent.
        take_over: Go on with the state of a process on another machine that has gone silent.

    Raises:
        ValueError: A reconstruction is not finite, no image can be read, or the reference is of something else.
    """
    rank, world_size = rank_and_size()
    console = console or Console(quiet=True)
    networks = networks.to(device)
    crops: dict[str, dict[str, Protocol]] = {}
    for name, protocol in protocols.items():
        crops.setdefault(protocol.crop, {})[name] = protocol
    unavailable = {name for protocol in protocols.values() for name in too_small(protocol, data.image_size)}
    known = known_statistics(reference, data, crops, networks)
    results = []
    for number, tokenizer in enumerate(tokenizers):
        tokenizer = tokenizer.to(device).eval()
        result = Result(fingerprint(tokenizer))
        for crop, own in crops.items():
            references = {name: held.to(device) for name, held in known[crop].items()}
            shown = crop == next(iter(crops))  # a report's pictures are of the first protocol's cut
            examples = Examples() if shown else None
            scores = Scores(
                own, tokenizer, networks, references, unavailable, device, examples, granularities_of(tokenizer)
            )
            key = digest(
                {
                    "format": FORMAT,
                    "tokenizer": result.fingerprint,
                    "rate": rate,
                    "shown": shown,
                    "protocols": {name: asdict(protocol) for name, protocol in own.items()},
                    "networks": [*(network.name for network in networks.feature_networks), *sorted(networks.lpips)],
                    "references": sorted(references),
                    "reference": reference,
                    "data": [data.about, data.image_size, data.batch_size, data.num_workers],
                    "names": names_hash(data.test.names()) if isinstance(data, ImageDataModule) else None,
                }
            )
            partial = None
            if partial_folder:
                partial = partial_folder / f".{key}-{rank}of{world_size}.state"
                result.partials += [partial_folder / f".{key}-{r}of{world_size}.state" for r in range(world_size)]
            title = f"{crop} crops" + (f", tokenizer {number + 1} of {len(tokenizers)}" if len(tokenizers) > 1 else "")
            with ExitStack() as lock:
                if partial_folder:
                    state, what = locks.beside(partial_folder / key), "the state of the same evaluation"
                    lock.enter_context(locks.held_for_all_ranks(state, what, take_over, "take_over=true"))
                run(scores, tokenizer, data, crop, rate, device, partial, partial_every, console, title)
            scores.gather()
            if not scores.names:
                raise ValueError(f"{data.about} has no image that can be read")
            if networks.feature_networks and len(scores.names) < 2:
                raise ValueError(TOO_FEW)
            if reference:
                check_reference(reference, data, crop, own, scores)
            known[crop] = scores.references | scores.images  # the next tokenizer sees the same images
            result.scores[crop] = scores
        results.append(result)
        tokenizer.to("cpu")
    return results


def granularities_of(tokenizer: Tokenizer) -> int:
    """The number of granularities that a region of a tokenizer's codes can have; 1 for all but dynamic heads."""
    side = tokenizer.quantizer.grid_multiple
    return tokenizer.quantizer.layout(side, side).granularities


def run(
    scores: Scores,
    tokenizer: Tokenizer,
    data: Data,
    crop: str,
    rate: float | None,
    device: torch.device | str,
    partial: Path | None,
    partial_every: float,
    console: Console,
    title: str,
) -> None:
    """Bring this rank's share of the images past ``scores``, from where ``partial`` has come to."""
    rank, world_size = rank_and_size()
    done = 0
    if partial and partial.is_file():
        tensors, about = statistics.read(partial)
        scores.restore(tensors, about["scores"])
        done = about["batches"]
        say(f"goes on after {len(scores.names) * world_size:,} images, from {partial}", console=console)
    total = data.num_test
    data.skipped.reasons |= set(scores.unreadable)
    written, before = time.monotonic(), len(scores.names)
    try:
        with progress(console, title, total, before * world_size) as advance, torch.inference_mode():
            for batch in data.scored_batches(CROPS[crop](data.image_size), rank, world_size, done):
                with signals.deferred():  # all of a batch is in the state, or nothing of it
                    data.note(batch, total)
                    if batch.names:
                        images = batch.images.to(device)
                        scores.update(batch.names, images, *reconstruct(tokenizer, images, rate, data.batch_size))
                    scores.unreadable += batch.skipped
                    done += 1
                seen = (len(scores.names) + len(scores.unreadable)) * world_size
                advance(seen if total is None else min(seen, total))
                if partial and time.monotonic() - written >= partial_every:
                    keep(scores, done, partial)
                    written = time.monotonic()
    except signals.Interrupted:
        if partial:
            keep(scores, done, partial)
        raise
    if partial:
        keep(scores, done, partial)


def reconstruct(tokenizer: Tokenizer, images: Tensor, rate: float | None, batch_size: int) -> tuple[Tensor, Codes]:
    """What a tokenizer makes of uint8 images (b, 3, H, W), always on batches of one size.

    A convolution's last digits depend on the size of its batch. A short batch is filled up, so that an image's pixels
    are the same on any number of ranks.
    """
    b = len(images)
    filled = torch.cat([images, images[-1:].expand(batch_size - b, -1, -1, -1)])
    reconstruction, emitted = tokenizer.reconstruct(to_float(filled), Context(rate=rate))
    return reconstruction[:b], Codes(*(None if part is None else part[:b] for part in emitted))


def keep(scores: Scores, batches: int, path: Path) -> None:
    tensors, about = scores.save()
    statistics.write(tensors, {"scores": about, "batches": batches}, path)
