"""``eval.py``: tokenizers times protocols, over all images once for each cut, on one process or several."""

import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from rich import get_console
from rich.console import Console
from torch import Tensor

from vistok import reports
from vistok.data import ImageDataModule, ShardDataModule
from vistok.evaluation import files
from vistok.evaluation.examples import Examples
from vistok.evaluation.geometry import CROPS
from vistok.evaluation.progress import progress
from vistok.evaluation.protocols import Protocol, digest
from vistok.evaluation.report import page
from vistok.evaluation.scores import Judges, Scores, reference_name, score_names, too_small
from vistok.files import whole
from vistok.metrics.frechet import FeatureStatistics
from vistok.pixels import to_float
from vistok.quantizers import DynamicQuantizer
from vistok.quantizers.base import Quantized
from vistok.ranks import rank_and_size
from vistok.tokenizer import Tokenizer

FORMAT = 3
WIDTH = 160  # characters of a line in a file or a pipe
TOO_FEW = "a Fréchet distance needs at least 2 images; network=none leaves it out"
Data = ImageDataModule | ShardDataModule


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Score tokenizers on a set of images as ``configs/eval.yaml`` says; prints a table and writes JSON and values.

    Returns:
        What the JSON holds; on ranks other than 0 an empty dict.

    Raises:
        ValueError: The config does not make sense, or does not fit a tokenizer or the reference.
        FileNotFoundError: There is no tokenizer.
    """
    from vistok import cli
    from vistok.export.checkpoints import load

    cli.refuse_missing(config)
    output = Path(config.output)
    if output.exists():
        raise ValueError(f"output={output} exists already and is not overwritten")
    if output.suffix in (".html", ".npz"):
        raise ValueError(f"output={output} is the JSON; files of other kinds are written beside it")
    with processes(config.device) as device:
        rank, world_size = rank_and_size()
        console = Console(quiet=rank > 0)
        get_console().quiet = rank > 0
        if not console.is_terminal:
            console.width = WIDTH
        paths = [config.tokenizer] if isinstance(config.tokenizer, str) else list(config.tokenizer)
        tokenizers = [load(path, config.family, config.family_config) for path in paths]
        protocols = cli.instantiate(config.protocol)
        data = cli.instantiate(config.data)
        for tokenizer in tokenizers:
            check(tokenizer, data, config.rate)
        if config.data.get("resize") == 0:
            raise ValueError(
                "data.resize=0: the protocol says how images are cut; protocol=fvq leaves their size alone"
            )
        judges, unavailable = judges_of(config, protocols.values())
        if judges.networks and data.num_test is not None and data.num_test < 2:
            raise ValueError(TOO_FEW)
        for protocol in protocols.values():
            unavailable |= too_small(protocol, data.image_size)
        for name, reason in unavailable.items():
            console.print(f"[yellow]{name} is unavailable:[/] {reason}", highlight=False)
        results = score(
            tokenizers,
            data,
            protocols,
            judges,
            rate=config.rate,
            device=device,
            reference=config.reference,
            partial_folder=output.parent,
            partial_every=config.partial_every,
            console=console,
        )
        if rank > 0:
            return {}
        report = report_of(config, paths, tokenizers, data, protocols, results, unavailable, device)
        if config.save_reference:
            save_reference(Path(config.save_reference), data, protocols, results[0])
        write(report, results, output)
        for done in results:
            done.forget()
        console.print(reports.scores_table(report))
        beside = f"{output.with_suffix('.html').name} and {output.with_suffix('.npz').name}"
        console.print(f"written to {output}, {beside}", highlight=False, soft_wrap=True)
        return report


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
    judges: Judges = Judges(),
    rate: float | None = None,
    device: torch.device | str = "cpu",
    reference: str | None = None,
    partial_folder: Path | None = None,
    partial_every: float = 60,
    console: Console | None = None,
) -> list[Result]:
    """Reconstruct all images with all tokenizers, once for each cut, and keep what the protocols' numbers need.

    Under ``torch.distributed`` each process takes every n-th image, and all return the scores of all images.

    Args:
        tokenizers: What is scored.
        data: Its ``scored_batches`` are.
        protocols: By name.
        judges: The networks to compare images by.
        rate: Of a dynamic head: the share of regions that get fine codes.
        device: Where the networks run.
        reference: File with statistics of the images, made by ``save_reference``.
        partial_folder: Where the state is kept, so that the same call goes on after a kill; None keeps none.
        partial_every: Seconds between two such writes.
        console: For progress; None is silent.

    Raises:
        ValueError: A reconstruction is not finite, no image can be read, or the reference is of something else.
    """
    rank, world_size = rank_and_size()
    console = console or Console(quiet=True)
    judges = judges.to(device)
    crops: dict[str, dict[str, Protocol]] = {}
    for name, protocol in protocols.items():
        crops.setdefault(protocol.crop, {})[name] = protocol
    left_out = {name for protocol in protocols.values() for name in too_small(protocol, data.image_size)}
    known = known_statistics(reference, data, crops, judges)
    results = []
    for number, tokenizer in enumerate(tokenizers):
        tokenizer = tokenizer.to(device).eval()
        result = Result(fingerprint(tokenizer))
        for crop, own in crops.items():
            references = {name: statistics_to(held, device) for name, held in known[crop].items()}
            shown = crop == next(iter(crops))  # a report's pictures are of the first protocol's cut
            scores = Scores(own, tokenizer, judges, references, left_out, device, Examples() if shown else None)
            key = digest(
                {
                    "format": FORMAT,
                    "tokenizer": result.fingerprint,
                    "rate": rate,
                    "shown": shown,
                    "protocols": {name: asdict(protocol) for name, protocol in own.items()},
                    "judges": [*(network.name for network in judges.networks), *sorted(judges.lpips)],
                    "references": sorted(references),
                    "reference": reference,
                    "data": [data.about, data.image_size, data.batch_size, data.num_workers],
                    "names": names_hash(data.test.names()) if isinstance(data, ImageDataModule) else None,
                }
            )
            partial = None
            if partial_folder:
                partial = partial_folder / f".{key}-{rank}of{world_size}.partial"
                result.partials += [partial_folder / f".{key}-{r}of{world_size}.partial" for r in range(world_size)]
            title = f"{crop} crops" + (f", tokenizer {number + 1} of {len(tokenizers)}" if len(tokenizers) > 1 else "")
            run(scores, tokenizer, data, crop, rate, device, partial, partial_every, console, title)
            scores.gather()
            if not scores.names:
                raise ValueError(f"{data.about} has no image that can be read")
            if judges.networks and len(scores.names) < 2:
                raise ValueError(TOO_FEW)
            if reference:
                check_reference(reference, data, crop, own, scores)
            known[crop] = scores.references | scores.images  # the next tokenizer sees the same images
            result.scores[crop] = scores
        results.append(result)
        tokenizer.to("cpu")
    return results


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
        tensors, about = files.read(partial)
        scores.restore(tensors, about)
        done = about["batches"]
        console.print(f"goes on after {len(scores.names) * world_size:,} images, from {partial}", soft_wrap=True)
    total = data.num_test
    data.skipped.reasons |= set(scores.unreadable)
    written, before = time.monotonic(), len(scores.names)
    with progress(console, title, total, before * world_size) as advance, torch.inference_mode():
        for batch in data.scored_batches(CROPS[crop](data.image_size), rank, world_size, done):
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
    if partial:
        keep(scores, done, partial)


def reconstruct(tokenizer: Tokenizer, images: Tensor, rate: float | None, batch_size: int) -> tuple[Tensor, Quantized]:
    """What a tokenizer makes of uint8 images (b, 3, H, W), always on batches of one size.

    A convolution's last digits depend on the size of its batch. A short batch is filled up, so that an image's pixels
    are the same on any number of ranks.
    """
    b = len(images)
    filled = torch.cat([images, images[-1:].expand(batch_size - b, -1, -1, -1)])
    reconstruction, quantized = tokenizer(to_float(filled), rate)
    keep = None if quantized.keep is None else quantized.keep[:b]
    return reconstruction[:b], quantized._replace(latent=quantized.latent[:b], codes=quantized.codes[:b], keep=keep)


def keep(scores: Scores, batches: int, path: Path) -> None:
    tensors, about = scores.state()
    files.write(tensors, about | {"batches": batches}, path)


@contextmanager
def processes(device: str | None) -> Iterator[torch.device]:
    """The device of this process; those that ``torchrun`` has started are brought together."""
    ranks, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", local)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if ranks == 1 or dist.is_initialized():
        yield chosen
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield chosen
        dist.barrier()  # rank 0 is still writing
    finally:
        dist.destroy_process_group()


def judges_of(config: DictConfig, protocols: Sequence[Protocol]) -> tuple[Judges, dict[str, str]]:
    """The networks of a config that can be had and that a protocol asks for, and why the others cannot."""
    from vistok import cli
    from vistok.losses import LPIPS
    from vistok.metrics import DINOv2
    from vistok.weights import WeightsUnavailable

    networks, lpips, unavailable = [], {}, {}
    wanted = {name for protocol in protocols for name in protocol.distances}
    for net, weights in (config.lpips or {}).items():
        name = f"lpips_{net}"
        if name in wanted and weights is not None:
            try:
                lpips[name] = LPIPS(net, weights)
            except WeightsUnavailable as error:
                unavailable[name] = str(error)
    if config.network:
        model = config.network.get("model")
        try:
            networks.append(cli.instantiate(config.network))
        except InstantiationException as error:
            if not isinstance(error.__cause__, WeightsUnavailable):
                raise
            unavailable[f"frechet_{model}" if model else "rfid"] = str(error.__cause__)
    if config.dinov2:
        try:
            networks.append(DINOv2(config.dinov2))
        except WeightsUnavailable as error:
            unavailable[f"frechet_dinov2_{config.dinov2}"] = str(error)
    return Judges(tuple(networks), lpips), unavailable


def check(tokenizer: Tokenizer, data: Data, rate: float | None) -> None:
    """Refuse a tokenizer that does not fit the data or the rate."""
    from vistok import cli

    if rate is not None:
        head = tokenizer.quantizer
        if not isinstance(head, DynamicQuantizer) or head.grains != 2:
            raise ValueError(f"rate={rate} needs a dynamic head of two grains, not a {type(head).__name__}")
        if not 0 <= rate <= 1:
            raise ValueError(f"rate={rate} must be a share in [0, 1]")
    cli.check_image_size(data.image_size, tokenizer)


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 of the tokenizer's structure and weights."""
    sha = hashlib.sha256(repr(tokenizer).encode())
    sha.update(repr(tokenizer.pixels).encode())
    for name, tensor in sorted(tokenizer.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def names_hash(names: Sequence[str]) -> str:
    """SHA-256 of the sorted list of images."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def statistics_to(statistics: FeatureStatistics, device: torch.device | str) -> FeatureStatistics:
    moved = FeatureStatistics(len(statistics.total), device)
    for name, tensor in moved.tensors().items():
        tensor.copy_(statistics.tensors()[name])
    return moved


def description(data: Data, crop: str, view: Sequence[str], score_name: str) -> dict[str, Any]:
    """What statistics of images depend on besides which images they are."""
    return {
        "crop": crop,
        "image_size": data.image_size,
        **dict(zip(("rounding", "file", "frechet"), view, strict=True)),
        "network": score_name,
    }


def identity(names: Sequence[str]) -> dict[str, Any]:
    return {"images": len(names), "images_sha256": names_hash(names)}


def known_statistics(
    reference: str | None, data: Data, crops: Mapping[str, Mapping[str, Protocol]], judges: Judges
) -> dict[str, dict[str, FeatureStatistics]]:
    """Of each crop what the file ``reference`` has, refused where it is of another protocol, network or set."""
    if not reference:
        return {crop: {} for crop in crops}
    known = {}
    for crop, own in crops.items():
        wanted = {
            reference_name(protocol.view, name): description(data, crop, protocol.view, name)
            for protocol in own.values()
            for network in judges.networks
            for name in score_names(network)
        }
        if isinstance(data, ImageDataModule) and not data.unreadable:
            counts = {own.count.item() for own in files.load_references(Path(reference), wanted).values()}
            if counts == {data.num_test}:  # else some may be unreadable: seen at the end
                wanted = {name: about | identity(data.test.names()) for name, about in wanted.items()}
        known[crop] = files.load_references(Path(reference), wanted)
    return known


def check_reference(reference: str, data: Data, crop: str, own: Mapping[str, Protocol], scores: Scores) -> None:
    """Refuse a reference that turns out to be of other images."""
    for protocol in own.values():
        wanted = {
            name: description(data, crop, protocol.view, name.rpartition("/")[2]) | identity(scores.names)
            for name in scores.references
            if name.startswith("/".join(protocol.view) + "/")
        }
        files.load_references(Path(reference), wanted)


def save_reference(path: Path, data: Data, protocols: Mapping[str, Protocol], result: Result) -> None:
    """Write the statistics of the images under all protocols."""
    statistics, descriptions = {}, {}
    for protocol in protocols.values():
        scores = result.scores[protocol.crop]
        for name, own in (scores.references | scores.images).items():
            view, _, score_name = name.rpartition("/")
            if view == "/".join(protocol.view):
                key = f"{protocol.crop}/{name}"
                statistics[key] = own
                descriptions[key] = description(data, protocol.crop, protocol.view, score_name) | identity(scores.names)
    files.save_references(path, statistics, descriptions)


def report_of(
    config: DictConfig,
    paths: Sequence[str],
    tokenizers: Sequence[Tokenizer],
    data: Data,
    protocols: Mapping[str, Protocol],
    results: Sequence[Result],
    unavailable: Mapping[str, str],
    device: torch.device,
) -> dict[str, Any]:
    """All that is known about the scores, for JSON."""
    return {
        "format": FORMAT,
        "scores": [
            {"tokenizer": path, "protocol": name, "hash": protocols[name].hash, "metrics": metrics}
            for path, result in zip(paths, results, strict=True)
            for name, metrics in result.metrics(protocols).items()
        ],
        "unavailable": dict(unavailable),
        "protocols": {
            name: {"hash": protocol.hash, **asdict(protocol), "distances": list(protocol.distances)}
            for name, protocol in protocols.items()
        },
        "tokenizers": [
            {
                "tokenizer": path,
                "sha256": result.fingerprint,
                "parameters": sum(parameter.numel() for parameter in tokenizer.parameters()),
                "codebook_sizes": list(tokenizer.quantizer.codebook_sizes),
                "factor": tokenizer.factor,
            }
            for path, tokenizer, result in zip(paths, tokenizers, results, strict=True)
        ],
        "data": {
            "source": data.about,
            "images": len(results[0].names),
            "unreadable": results[0].unreadable,
            "image_size": data.image_size,
            "sha256_of_names": names_hash(results[0].names),
        },
        "rate": config.rate,
        "reference": config.reference,
        "dtype": "float32",
        "device": str(device),
        "processes": rank_and_size()[1],
        "versions": reports.versions(),
        "config": OmegaConf.to_container(config, resolve=True),
    }


def write(report: Mapping[str, Any], results: Sequence[Result], output: Path) -> None:
    """Write values and pictures beside the JSON, which comes last and so means success.

    ``OUTPUT.html`` is the page to look at.

    ``OUTPUT.npz`` holds ``names`` (n,); for the i-th tokenizer ``i/PROTOCOL/DISTANCE`` (n,) float32, and for each crop
    ``i/CROP/tokens`` (n,) int64, the positions that are tokens, and ``i/CROP/counts/j`` (size,) int64, how often each
    codeword of the j-th codebook was chosen.
    """
    arrays = {"names": np.array(results[0].names)}
    for i, result in enumerate(results):
        for crop, scores in result.scores.items():
            for protocol in scores.protocols:
                arrays |= {f"{i}/{protocol}/{name}": v.numpy() for name, v in scores.values(protocol).items()}
            arrays[f"{i}/{crop}/tokens"] = np.array(scores.tokens)
            arrays |= {f"{i}/{crop}/counts/{j}": own.cpu().numpy() for j, own in enumerate(scores.usage.counts)}
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole(output.with_suffix(".npz")) as file:
        np.savez_compressed(file, **arrays)
    with whole(output.with_suffix(".html")) as file:
        file.write(page(report, [result.scores for result in results]).encode())
    reports.write_json(report, output)
