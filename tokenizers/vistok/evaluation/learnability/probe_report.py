"""A probe from folders of tokens to numbers: bits of held-out images, with their spread over seeds."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Subset

from vistok.evaluation.learnability.autoregressive import NextIdModel
from vistok.evaluation.learnability.baselines import Frequencies
from vistok.evaluation.learnability.id_sequences import IdBatch, IdSpace
from vistok.evaluation.learnability.next_scale import NextScaleModel, ScaleSpace
from vistok.evaluation.learnability.probe_training import ProbeSettings, held_out_bits, train_probe
from vistok.processes.progress_bar import progress
from vistok.quantizers import Quantizer
from vistok.tokens.dataset import TokenDataset


class TokenSplit(NamedTuple):
    """Tokens to train on, with all views, and those of held-out images, of the first view."""

    train: Subset
    held_out: Subset


class Epochs(Subset):
    """A subset whose images have new views in each pass."""

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)


def split_tokens(folder: str, held_out: str | None = None, share: float = 0.1) -> TokenSplit:
    """Splits tokens by the hash of the images' names, or takes the held-out images from a folder of their own.

    Args:
        folder: Folder of tokens.
        held_out: Folder of tokens of held-out images by the same tokenizer; None holds out a share of ``folder``.
        share: Share of the images that are held out, in (0, 1).

    Raises:
        ValueError: The two are of different tokenizers or grids, or there are fewer than two images.
    """
    train, test = TokenDataset(folder), TokenDataset(held_out or folder, view=0)
    for own in (train, test):
        own.header.refuse_native("a probe")
    if held_out:
        for name in ("tokenizer_sha256", "grid", "scales", "codebook_sizes", "grains"):
            one, other = getattr(train.header, name), getattr(test.header, name)
            if one != other:
                raise ValueError(f"{folder} has {name}={one}, but --held-out={held_out} has {other}")
        return TokenSplit(Epochs(train, range(len(train))), Subset(test, range(len(test))))
    names = train.store.names
    if len(names) < 2:
        raise ValueError(f"{folder} has {len(names)} image: one to train on and one to hold out are needed")
    order = sorted(range(len(names)), key=lambda i: hashlib.sha256(names[i].encode()).digest())
    count = min(len(names) - 1, max(1, round(share * len(names))))
    return TokenSplit(Epochs(train, sorted(order[count:])), Subset(test, sorted(order[:count])))


class Probed(NamedTuple):
    """Result of ``probe``."""

    report: dict[str, Any]
    models: Mapping[str, NextIdModel | NextScaleModel]  # of the first seed, by the name of the row


def probe(
    split: TokenSplit,
    settings: ProbeSettings = ProbeSettings(),
    seeds: Sequence[int] = (0,),
    device: torch.device | str = "cpu",
    console: Console | None = None,
    quantizer: Quantizer | None = None,
) -> Probed:
    """Trains the models, and measures the bits of the held-out images.

    Args:
        split: The tokens.
        settings: Size, updates and batch of the models.
        seeds: Seeds; a model is trained with each.
        device: Device of the models.
        console: Console for progress; None prints nothing.
        quantizer: Head of the tokens' tokenizer; with several scales it makes the inputs of a next-scale model.

    Returns:
        The report and the models of the first seed. The report's ``bits`` has a row for each way to predict a token:
        ``fixed length``, ``order 0``, ``bigram``, ``probe`` and, where images have labels, ``probe, class given``; with
        a ``quantizer`` of several scales also ``next scale`` and ``next scale, class given``.
    """
    header = split.train.dataset.header
    space, console = IdSpace(header), console or Console(quiet=True)
    labels = split.train.dataset.store.labels
    classes = max(len(header.classes or ()), int(labels.max(initial=-1)) + 1) if (labels >= 0).any() else 0
    tokens = sum(int(item.keep.sum()) for item in DataLoader(split.held_out, 100)) * len(header.codebook_sizes)
    count = len(split.held_out)
    fixed = tokens * sum(map(math.log2, header.codebook_sizes)) / len(header.codebook_sizes)
    order0, bigram = Frequencies(space, sequences(space, split.train)).bits(sequences(space, split.held_out))
    totals = {
        "fixed length": [fixed + count * header.layout.granularity_bits],
        "order 0": [order0],
        "bigram": [bigram],
    }
    models: dict[str, NextIdModel | NextScaleModel] = {}
    spaces: dict[str, IdSpace | ScaleSpace] = {"probe": space}
    if quantizer is not None and len(header.layout.grids) > 1:
        spaces["next scale"] = ScaleSpace(header, quantizer)
    for (kind, space), own in product(spaces.items(), dict.fromkeys((0, classes))):
        name = f"{kind}, class given" if own else kind
        totals[name] = []
        for seed in seeds:
            total = settings.updates * settings.batch_size
            with progress(console, f"{name}, seed {seed}", total, 0) as advance:
                model = train_probe(space, split.train, settings, own, seed, device, advance)
            models.setdefault(name, model)
            totals[name].append(held_out_bits(model, split.held_out, device))
    pixels = header.image_size**2
    report = {
        "tokenizer": header.tokenizer,
        "tokenizer_sha256": header.tokenizer_sha256,
        "image_size": header.image_size,
        "images": {"train": len(split.train), "held_out": count},
        "tokens_per_image": tokens / count,
        "parameters": sum(p.numel() for p in models["probe"].parameters()),
        "seeds": list(seeds),
        "bits": {
            name: {
                "per_token": sum(own) / len(own) / tokens,
                "per_image": sum(own) / len(own) / count,
                "per_pixel": sum(own) / len(own) / count / pixels,
                "per_image_of_seeds": [value / count for value in own],
            }
            for name, own in totals.items()
        },
    }
    return Probed(report, models)


def sequences(space: IdSpace, tokens: Subset) -> Iterator[IdBatch]:
    """Sequences of all images in batches."""
    return (space.sequences(item.codes, item.keep) for item in DataLoader(tokens, 500))


def bits_table(report: Mapping[str, Any]) -> Table:
    """The bits as a table for a terminal."""
    counts = report["images"]
    table = Table(
        title=f"{counts['held_out']:,} held-out images, {report['tokens_per_image']:.1f} tokens each; trained on "
        f"{counts['train']:,}"
    )
    for heading in ("", "bits per token", "bits per image", "bits per pixel", "lowest to highest seed"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, row in report["bits"].items():
        of_seeds = row["per_image_of_seeds"]
        spread = f"{min(of_seeds):.1f} to {max(of_seeds):.1f}" if len(of_seeds) > 1 else ""
        values = f"{row['per_token']:.3f}", f"{row['per_image']:.1f}", f"{row['per_pixel']:.4f}"
        table.add_row(name, *values, spread)
    return table
