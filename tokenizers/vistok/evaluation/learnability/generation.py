"""Scores of samples against images, by the protocols and networks of ``eval``."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from vistok.data.shards import Data
from vistok.evaluation.accumulator import Scores
from vistok.evaluation.learnability.autoregressive import NextIdModel
from vistok.evaluation.learnability.next_scale import NextScaleModel
from vistok.evaluation.networks import ScoringNetworks
from vistok.evaluation.preparation import Preparation
from vistok.evaluation.protocols import Protocol
from vistok.evaluation.set_metrics import FeatureStore, SetMetrics
from vistok.tokenizer import Tokenizer
from vistok.tokens.store import TokenStore


def samples_of(
    model: NextIdModel | NextScaleModel, store: TokenStore, count: int, seed: int, batch_size: int = 100, **settings
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draws codes (b, k, h, w) and their labels (b,), labels as often as they occur in the store.

    Args:
        model: The trained model.
        store: Tokens with the labels; the label C of a model of C classes means no class.
        count: Number of samples.
        seed: Seed of labels and codes.
        batch_size: Largest number that is drawn at a time.
        settings: Temperature, top_k and guidance of the model's ``sample``.
    """
    device = next(model.parameters()).device
    known = torch.from_numpy(store.labels[(store.labels >= 0) & (store.labels < model.classes)].copy())
    rng = torch.Generator().manual_seed(seed)
    labels = known[torch.randint(len(known), (count,), generator=rng)] if len(known) else None
    labels = torch.full((count,), model.classes) if labels is None else labels
    on_device = torch.Generator(device).manual_seed(seed)
    for part in labels.split(batch_size):
        yield model.sample(part.to(device), on_device, **settings).cpu(), part


def generation_scores(
    codes: Collection[Tensor],
    tokenizer: Tokenizer,
    store: TokenStore,
    data: Data,
    protocols: Mapping[str, Protocol],
    networks: ScoringNetworks,
    device: torch.device | str = "cpu",
    seed: int = 0,
    asked: SetMetrics = SetMetrics(),
) -> dict[str, dict[str, float]]:
    """Compares decoded samples with as many images.

    Args:
        codes: Sampled codes (b, k, h, w).
        tokenizer: The tokenizer of the tokens.
        store: The tokens.
        data: The images; those that samples are compared with are drawn by ``seed``, or the first ones of a stream.
        protocols: Protocols by name; their per-image distances do not apply.
        networks: The feature networks.
        device: Device on which all networks run.
        seed: Seed of the choice of images.
        asked: Metrics that need the features of single images, which are kept in a temporary folder.

    Returns:
        Scores of each protocol by name. Those of Inception are called ``gfid``, ``sfid`` and ``inception_score``; all
        others have the names that ``eval`` gives them. ``images`` is the number of samples.

    Raises:
        ValueError: There are fewer images than samples, or a protocol does not crop images.
    """
    refuse_native(protocols)
    found = {}
    for preparation in dict.fromkeys(protocol.preparation for protocol in protocols.values()):
        own = {name: replace(p, distances=()) for name, p in protocols.items() if p.preparation == preparation}
        views = [protocol.view for protocol in own.values()]
        with TemporaryDirectory() as folder:
            stored = asked.columns(views, networks)
            features = FeatureStore(Path(folder) / "rows", asked, views, networks) if stored else None
            scores = Scores(own, None, networks, device=device, store=features)  # codes are not scored here
            add_pairs(scores, decoded(codes, tokenizer, store, device), data, sum(map(len, codes)), seed)
            scores.gather()
        for name in own:
            values, of_codes = scores.metrics(name), scores.code_metrics()
            found[name] = {"gfid" if key == "rfid" else key: values[key] for key in values if key not in of_codes}
            found[name]["images"] = len(scores.names)
    return found


def refuse_native(protocols: Mapping[str, Protocol]) -> None:
    """Refuses protocols that do not crop images: samples are squares of one size."""
    native = [name for name, protocol in protocols.items() if protocol.preparation.native]
    if native:
        raise ValueError(f"protocol={','.join(native)} has images of any size, but samples are squares of one size")


def decoded(
    codes: Iterable[Tensor], tokenizer: Tokenizer, store: TokenStore, device: torch.device | str
) -> Iterator[Tensor]:
    """Samples one by one: (3, H, W) in [-1, 1], unclamped."""
    for part in codes:
        yield from store.decode(tokenizer, part.to(device))


def add_pairs(scores: Scores, samples: Iterator[Tensor], data: Data, count: int, seed: int) -> None:
    """Adds ``count`` samples and as many images; which sample stands beside which image has no meaning."""
    for names, images in chosen_images(data, scores.preparation, count, seed):
        own = torch.stack(list(islice(samples, len(images))))
        images, compared = scores.preparation.split(images.to(own.device), data.image_size)
        scores.update(names, images, own, compared=compared)
    if len(scores.names) < count:
        raise ValueError(f"{data.about} has {len(scores.names):,} images, fewer than the {count:,} samples")


def chosen_images(data: Data, preparation: Preparation, count: int, seed: int) -> Iterator[tuple[list[str], Tensor]]:
    """Names and uint8 images of ``count`` images, drawn without replacement if their number is known.

    The images (b, 3, H, W) are as ``preparation.transforms`` gives them.
    """
    total = data.num_test
    draw = torch.randperm(total or count, generator=torch.Generator().manual_seed(seed))[:count]
    chosen, at = set(draw.tolist()), 0
    for batch in data.scored_batches(preparation.transforms(data.image_size), stored=preparation.stored):
        own = [i for i in range(len(batch.names)) if at + i in chosen]
        at += len(batch.names)
        if own:
            yield [batch.names[i] for i in own], batch.images[own]
        if at >= (total or count):
            return
