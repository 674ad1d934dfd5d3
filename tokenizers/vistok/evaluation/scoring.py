"""Compares every image with its reconstructions, once per preparation, on one process or several."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from vistok.data import ImageDataModule
from vistok.data.shards import Data
from vistok.distributed.collectives import rank_and_size
from vistok.evaluation import statistics
from vistok.evaluation.accumulator import Scores
from vistok.evaluation.examples import Examples
from vistok.evaluation.identity import names_hash, state_of_files
from vistok.evaluation.networks import ScoringNetworks
from vistok.evaluation.preparation import Preparation
from vistok.evaluation.protocols import Protocol, digest
from vistok.evaluation.reconstructions import Reading, Reconstructions, granularities_of, reading_of
from vistok.evaluation.references import check_reference, known_statistics
from vistok.evaluation.set_metrics import FeatureStore, SetMetrics
from vistok.evaluation.size_limits import too_small, without_colours
from vistok.images.evaluation_crops import crop_text
from vistok.images.ranges import levels_of
from vistok.processes import locks, signals
from vistok.processes.progress_bar import progress
from vistok.terminal import say

FORMAT = 7  # format 6 had images of one size, no hashes of pixels and weights, and protocols with fewer settings
TOO_FEW = "a Fréchet distance needs at least 2 images; feature_network=none omits it"


class Result:
    """Scores of the reconstructions of one source under all protocols.

    Attributes:
        scores: Scores of all ranks, by the name of the preparation.
        fingerprint: Hash of the tokenizer, or of the stored reconstructions.
    """

    def __init__(self, fingerprint: str):
        self.fingerprint = fingerprint
        self.scores: dict[str, Scores] = {}
        self.partials: list[Path] = []

    @property
    def names(self) -> list[str]:
        return next(iter(self.scores.values())).names

    @property
    def hashes(self) -> list[str]:
        return next(iter(self.scores.values())).hashes

    @property
    def unreadable(self) -> list[str]:
        return sorted({reason for scores in self.scores.values() for reason in scores.unreadable})

    @property
    def passed_over(self) -> int:
        """Number of members of tars beside the images, which were not read."""
        return int(next(iter(self.scores.values())).passed_over)

    def metrics(self, protocols: Mapping[str, Protocol]) -> dict[str, dict[str, float]]:
        return {name: self.scores[protocol.preparation.name].metrics(name) for name, protocol in protocols.items()}

    def partial(self, protocols: Mapping[str, Protocol]) -> dict[str, str]:
        """Metrics that are of some images only, with the number of these and the reason."""
        found: dict[str, str] = {}
        for name, protocol in protocols.items():
            found |= self.scores[protocol.preparation.name].partial(name)
        return found

    def forget(self) -> None:
        """Deletes the saved states and the features of single images, of all ranks."""
        for path in self.partials:
            path.unlink(missing_ok=True)


def score(
    sources: Sequence[Reconstructions],
    data: Data,
    protocols: Mapping[str, Protocol],
    networks: ScoringNetworks = ScoringNetworks(),
    device: torch.device | str = "cpu",
    reference: str | None = None,
    partial_folder: Path | None = None,
    partial_every: float = 60,
    console: Console | None = None,
    take_over: bool = False,
    asked: SetMetrics = SetMetrics(),
    page_images: int = 60,
    strata: Collection[str] = (),
) -> list[Result]:
    """Compares every image with its reconstruction from every source, once per preparation, as the protocols say.

    Under ``torch.distributed`` each process takes every n-th image, and all return the scores of all images.

    Args:
        sources: Tokenizers or stored reconstructions to score.
        data: Data whose ``scored_batches`` are reconstructed.
        protocols: Protocols by name.
        networks: Networks by which images are compared.
        device: Device on which all networks run.
        reference: File with statistics of the images, written by ``save_reference``.
        partial_folder: Folder of the saved state, from which the same call resumes after a kill, and of the features of
            single images, until ``Result.forget``; None saves no state.
        partial_every: Seconds between two writes of the state.
        console: Console for progress; None prints nothing.
        take_over: True takes over the state of a process on another machine that no longer responds.
        asked: Metrics that need the features of single images, for which ``partial_folder`` must be given. They are
            left out where ``reference`` has the images' statistics.
        page_images: Number of images that the report shows, of the first protocol's crop.
        strata: Parts by which errors are reported too: ``class``, ``frequency``, ``contrast``.

    Raises:
        ValueError: A reconstruction is not finite, no image is readable, the reference does not match, or a folder for
            features is needed.
    """
    rank, world_size = rank_and_size()
    console = console or Console(quiet=True)
    networks = networks.to(device)
    preparations: dict[Preparation, dict[str, Protocol]] = {}
    for name, protocol in protocols.items():
        preparations.setdefault(protocol.preparation, {})[name] = protocol
    refuse_enlarging(preparations, data.image_size)
    all_names = data.test.names() if isinstance(data, ImageDataModule) else None
    known = known_statistics(reference, data, preparations, networks)
    state_of_data = state_of_files(data) if partial_folder else None
    results, stores = [], {}
    for number, source in enumerate(sources):
        source.to(device)
        result = Result(source.fingerprint)
        for preparation, own in preparations.items():
            reading = reading_of(preparation, data)
            unavailable = {name for protocol in own.values() for name in too_small(protocol, data.image_size)}
            unavailable |= without_colours(data.view).keys()
            references = {name: value.to(device) for name, value in known[preparation].items()}
            in_report = page_images if preparation == next(iter(preparations)) else 0
            examples = Examples(in_report) if in_report else None
            views = [protocol.view for protocol in own.values()]
            columns = asked.columns(views, networks) if not reference else {}
            if columns and partial_folder is None:
                raise ValueError(f"{asked} needs the folder partial_folder for features")
            key = digest(
                {
                    "format": FORMAT,
                    "source": source.key(),
                    "in_report": in_report,
                    "strata": sorted(strata),
                    "protocols": {name: asdict(protocol) for name, protocol in own.items()},
                    "networks": {name: own.sha256 for name, own in networks.weight_hashes().items()},
                    "references": sorted(references),
                    "features": columns,
                    "reference": reference,
                    "data": [
                        data.about,
                        data.image_size,
                        reading.batch_size,
                        data.num_workers,
                        data.form,
                        repr(data.view),
                    ],
                    "names": None if all_names is None else names_hash(all_names),
                    "files": state_of_data,
                }
            )
            partial = store = None
            if partial_folder:
                partial = partial_folder / f".{key}-{rank}of{world_size}.state"
                files = [partial_folder / f".{key}-{r}of{world_size}.state" for r in range(world_size)]
                result.partials += [*files, *(path.with_suffix(".features") for path in files)]
                if columns:
                    store = FeatureStore(
                        partial.with_suffix(".features"), asked, views, networks, stores.get(preparation)
                    )
                    stores.setdefault(preparation, store)
            scores = Scores(
                own,
                source.tokenizer,
                networks,
                references,
                unavailable,
                device,
                examples,
                granularities_of(source.tokenizer) if source.tokenizer else 1,
                store,
                all_names,
                strata,
                data.view,
            )
            title = crop_text(preparation.name) + (f", {number + 1} of {len(sources)}" if len(sources) > 1 else "")
            with ExitStack() as lock:
                if partial_folder:
                    state, what = locks.beside(partial_folder / key), "the state of the same evaluation"
                    lock.enter_context(locks.held_for_all_ranks(state, what, take_over, "run.take_over=true"))
                run(scores, source, data, reading, device, partial, partial_every, console, title)
            scores.gather()
            if not scores.names:
                raise ValueError(f"{data.about} has no image that can be read")
            if networks.feature_networks and len(scores.names) < 2:
                raise ValueError(TOO_FEW)
            if reference:
                check_reference(reference, data, preparation, own, scores)
            first = results[0].scores[preparation.name] if results else scores
            if (scores.names, scores.hashes) != (first.names, first.hashes):
                result.forget()
                raise ValueError(f"the images of {data.about} changed while {len(sources)} tokenizers were scored")
            known[preparation] = scores.references | scores.images  # the next tokenizer sees the same images
            result.scores[preparation.name] = scores
        results.append(result)
        source.to("cpu")
    return results


def refuse_enlarging(preparations: Iterable[Preparation], image_size: int) -> None:
    """Refuses a protocol that compares images at a larger size than the tokenizer's input."""
    for preparation in preparations:
        if preparation.size is not None and preparation.size > image_size:
            raise ValueError(f"protocol: size={preparation.size} must be at most data.image_size={image_size}")


def run(
    scores: Scores,
    source: Reconstructions,
    data: Data,
    reading: Reading,
    device: torch.device | str,
    partial: Path | None,
    partial_every: float,
    console: Console,
    title: str,
) -> None:
    """Accumulates this rank's share of the images in ``scores``, resuming from ``partial`` if it exists."""
    rank, world_size = rank_and_size()
    done = 0
    if partial and partial.is_file():
        tensors, about = statistics.read(partial)
        scores.restore(tensors, about["scores"])
        done = about["batches"]
        say(f"resumes after {len(scores.names) * world_size:,} images, from {partial}", console=console)
    if scores.store:
        scores.store.file.truncate(len(scores.names))  # the file may be ahead of the state
    total = data.num_test
    data.skipped.reasons |= set(scores.unreadable)
    written, before = time.monotonic(), len(scores.names)
    try:
        with progress(console, title, total, before * world_size) as advance, torch.inference_mode():
            own, size = reading.preparation, data.image_size
            batches = data.scored_batches(
                own.transforms(size), rank, world_size, done, stored=own.stored, batch_size=reading.batch_size
            )
            for batch in batches:
                with signals.deferred():  # a saved state has all of a batch or none of it
                    data.note(batch, total)
                    if batch.names:
                        images, compared = own.split(levels_of(batch.images.to(device)), size)
                        found, labels = source.of(batch, images, reading), batch.labels
                        scores.update(
                            batch.names,
                            images,
                            found.images,
                            found.emitted,
                            compared,
                            batch.hashes,
                            labels,
                            found.levels,
                        )
                    scores.unreadable += batch.skipped
                    scores.passed_over += len(batch.passed_over)
                    done += 1
                done_images = (len(scores.names) + len(scores.unreadable)) * world_size
                advance(done_images if total is None else min(done_images, total))
                if partial and time.monotonic() - written >= partial_every:
                    keep(scores, done, partial)
                    written = time.monotonic()
    except signals.Interrupted:
        if partial:
            keep(scores, done, partial)
        raise
    if partial:
        keep(scores, done, partial)


def keep(scores: Scores, batches: int, path: Path) -> None:
    if scores.store:
        scores.store.file.flush()  # the state must not be ahead of the file
    tensors, about = scores.save()
    statistics.write(tensors, {"scores": about, "batches": batches}, path)
