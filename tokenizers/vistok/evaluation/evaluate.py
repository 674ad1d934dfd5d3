"""Evaluation from a config to files: every tokenizer, or stored reconstructions, under every protocol."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich import get_console
from rich.console import Console
from torch import Tensor

from vistok import configuration
from vistok.data import ImageDataModule, split_record
from vistok.data.batches import Batch
from vistok.data.image_folder import ImageFiles
from vistok.data.shards import Data
from vistok.data.split_record import SplitRecord
from vistok.distributed.collectives import rank_and_size
from vistok.distributed.process_group import processes
from vistok.evaluation.completion import complete
from vistok.evaluation.config_check import check_config
from vistok.evaluation.networks import ScoringNetworks, networks_of
from vistok.evaluation.reconstructions import (
    Reading,
    Reconstructions,
    TokenizerReconstructions,
    reading_of,
)
from vistok.evaluation.references import save_reference
from vistok.evaluation.report import differences as report_differences
from vistok.evaluation.report import score_table, strata_tables
from vistok.evaluation.report.outputs import report_of, write
from vistok.evaluation.run_data import crop_note, held_out, run_of
from vistok.evaluation.scoring import TOO_FEW, score
from vistok.evaluation.set_metrics import SetMetrics, disk_space
from vistok.evaluation.size_limits import too_small, without_colours
from vistok.evaluation.stored import StoredReconstructions
from vistok.files import encodable
from vistok.formats.load import load
from vistok.processes import locks
from vistok.quantizers import Codes
from vistok.speed import keep_freed_pages
from vistok.terminal import say
from vistok.tokenizer import Tokenizer

WIDTH = 160  # characters of a line in a file or a pipe


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Scores tokenizers and stored reconstructions as ``configs/eval.yaml`` says; prints a table and writes files.

    Returns:
        Content of the JSON; an empty dict on ranks other than 0.

    Raises:
        ValueError: The config is inconsistent, or does not fit a tokenizer or the reference.
        FileNotFoundError: A tokenizer does not exist.
    """
    check_config(config)
    output = Path(config.run.out)
    with (
        processes(config.run.device) as device,
        locks.held_for_all_ranks(locks.beside(output), f"run.out={output}", config.run.take_over, "run.take_over=true"),
    ):
        if device.type == "cpu":
            keep_freed_pages()  # otherwise most time goes to memory pages of the kernel
        rank, world_size = rank_and_size()
        console = Console(quiet=rank > 0)
        get_console().quiet = rank > 0
        if not console.is_terminal:
            console.width = WIDTH
        sources: list[Reconstructions] = [
            TokenizerReconstructions(
                load(path, config.model.family, config.model.family_config),
                path,
                config.model.rate,
                config.model.tile,
                config.model.overlap,
            )
            for path in paths_of(config.tokenizer)
        ]
        protocols = configuration.instantiate(config.protocol)
        config.data = following(config, [source.tokenizer for source in sources if source.tokenizer is not None])
        data = configuration.instantiate(config.data)
        records = [split_record.read(run_of(path)) for path in paths_of(config.tokenizer)]
        notes = [*data.notes, *choose_images(data, list(filter(None, records)), config.run.held_out)]
        for note in filter(None, [*notes, crop_note(config)]):
            say(note, "yellow", console=console)
        sources += [StoredReconstructions(path, data) for path in paths_of(config.reconstructions)]
        for source in sources:
            source.check(data, list(dict.fromkeys(protocol.preparation for protocol in protocols.values())))
            for warning in source.warnings:
                say(f"warning: {warning}", "yellow", console=console)
        networks, unavailable = networks_of(config, protocols.values())
        unavailable |= without_colours(data.view)
        if not data.view.exists:
            networks, unavailable = ScoringNetworks(), unavailable | {"rfid": unavailable["lpips_alex"]}
        if networks.feature_networks and data.num_test is not None and data.num_test < 2:
            raise ValueError(TOO_FEW)
        for protocol in protocols.values():
            unavailable |= too_small(protocol, data.image_size)
        asked = SetMetrics(config.metrics.intervals, config.metrics.kid, config.metrics.precision_recall)
        unavailable |= asked.unavailable(networks, config.metrics.reference)
        _say_unavailable(unavailable, console)
        space = disk_space(asked, protocols, networks, len(sources), data.num_test)
        if space and not config.metrics.reference:
            say(space, console=console)
        results = score(
            sources,
            data,
            protocols,
            networks,
            device=device,
            reference=config.metrics.reference,
            partial_folder=output.parent,
            partial_every=config.run.partial_every,
            console=console,
            take_over=config.run.take_over,
            asked=asked,
            page_images=config.run.page_images,
            strata=config.metrics.strata or (),
        )
        of_few_images = {k: v for own in results[0].scores.values() for k, v in own.found.unavailable.items()}
        _say_unavailable(of_few_images, console)
        unavailable |= of_few_images
        if rank > 0:
            return {}
        if config.run.page_images:
            examples = [next(iter(result.scores.values())).examples for result in results]
            reading = reading_of(next(iter(results[0].scores.values())).preparation, data)
            by = [None if reading.preparation.size else partial(again, source, device, reading) for source in sources]
            complete(examples, by, reading.batch_size)
        report = report_of(config, sources, data, protocols, results, unavailable, device)
        if config.metrics.save_reference:
            save_reference(Path(config.metrics.save_reference), data, protocols, results[0].scores)
        write(report, results, output)
        for done in results:
            done.forget()
        console.print(score_table.scores_table(report))
        report_differences.say_all(report, console)
        for table in strata_tables.terminal_tables(report):
            console.print(table)
        beside = f"{output.with_suffix('.html').name} and {output.with_suffix('.npz').name}"
        say(f"written to {output}, {beside}", console=console)
        return report


def following(config: DictConfig, tokenizers: Sequence[Tokenizer]) -> DictConfig:
    """Config of the data with the channels and the range of values that the tokenizers were trained on.

    Raises:
        ValueError: The tokenizers differ.
    """
    data = OmegaConf.merge(config.data)
    channels = {tokenizer.channels for tokenizer in tokenizers}
    ranges = {tokenizer.value_range for tokenizer in tokenizers}
    for name, found, unset in (("channels", channels, 3), ("range", ranges, None)):
        if name in data and data[name] == unset and found:
            if len(found) > 1:
                raise ValueError(
                    f"the tokenizers were trained on images of other data.{name}: {sorted(found, key=str)}"
                )
            (value,) = found
            data[name] = list(value) if isinstance(value, tuple) else value
    return data


def choose_images(data: Data, records: Sequence[SplitRecord], run_held_out: bool) -> list[str]:
    """Leaves the images that the tokenizers' runs held out, of their own folder; returns sentences about the choice."""
    if not (isinstance(data, ImageDataModule) and isinstance(data.test, ImageFiles)):
        return []
    listing, names = data.test.listing, data.test.names()
    root = listing.root
    own = [record.hashes for record in records if record.root == encodable(str(root.resolve()))]
    chosen, note = held_out(names, own, run_held_out) if own else (names, "")
    if note and not chosen:
        raise ValueError(f"{root} has none of the images that the run held out; run.held_out=false scores all")
    kept = set(chosen)
    data.test.listing = listing = listing.part([i for i, name in enumerate(names) if name in kept])
    counts = [record.trained_on(root, listing.names) for record in records]
    trained = [count for count in counts if count]
    if trained:
        note = f"warning: {max(trained):,} of {len(data.test):,} images were trained on by the tokenizer's run"
    return [note] if note else []


def again(
    source: Reconstructions, device: torch.device, reading: Reading, names: Sequence[str], images: Tensor
) -> tuple[Tensor, Codes | None]:
    """Reconstructs images (b, 3, H, W) uint8 that only the examples of another source have."""
    source.to(device)
    found = source.of(Batch(images, names=names, sizes=[None] * len(names)), images.to(device), reading)
    source.to("cpu")
    return found.images, found.emitted


def paths_of(value: str | Sequence[str] | None) -> list[str]:
    """One path, several, or none, as a list."""
    return [value] if isinstance(value, str) else list(value or ())


def _say_unavailable(reasons: Mapping[str, str], console: Console) -> None:
    for name, reason in reasons.items():
        say(f"{name} is unavailable: {reason}", "yellow", console=console)
