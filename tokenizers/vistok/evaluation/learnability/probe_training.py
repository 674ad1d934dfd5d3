"""Training of the probe: the same small model, images and updates for every tokenizer."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from vistok.evaluation.learnability.autoregressive import NextIdModel
from vistok.evaluation.learnability.id_sequences import PADDING, IdBatch, IdSpace
from vistok.evaluation.learnability.next_scale import NextScaleModel, ScaleBatch, ScaleSpace

SIZES = {"tiny": (2, 128, 4), "small": (6, 384, 6), "base": (12, 768, 12)}  # layers, width, heads
RATES = {"tiny": 2e-3, "small": 1e-3, "base": 5e-4}
DROPPED = 0.1  # share of labels that are hidden, for guidance
LARGEST_LOGITS = {"cpu": 2**22, "cuda": 2**28}  # values of the logits of a part of a batch: 16 MiB, 1 GiB


@dataclass(frozen=True)
class ProbeSettings:
    """Everything that a probe's bits depend on besides the tokens and the seed.

    Args:
        size: Size of the model: ``tiny`` (2 layers of 128 channels, 4 heads), ``small`` (6, 384, 6) or ``base``
            (12, 768, 12).
        updates: Number of optimizer steps: AdamW, with a warm-up of a twentieth and a cosine to 0.
        batch_size: Number of images in each step.
    """

    size: str = "tiny"
    updates: int = 500
    batch_size: int = 32


def train_probe(
    space: IdSpace | ScaleSpace,
    tokens: Dataset,
    settings: ProbeSettings,
    classes: int = 0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] = lambda images: None,
) -> NextIdModel | NextScaleModel:
    """Trains a model on tokens.

    Args:
        space: Ids and slots of the tokens, for a model that predicts id by id; or their scales, for one that predicts
            scale by scale.
        tokens: Items with ``codes``, ``label`` and ``keep``, as ``TokenDataset`` has them; ``set_epoch``, if there is
            one, is called with the number of each pass.
        settings: Size, updates and batch.
        classes: Number of classes; with 0 labels are ignored.
        seed: Seed of the weights, the order and the hidden labels. On a CPU equal seeds give equal models.
        device: Device of the model; on a GPU it computes in bfloat16.
        advance: Called after each update with the number of images so far.
    """
    layers, width, heads = SIZES[settings.size]
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = (classes, layers, width, heads)
        model = NextIdModel(space, *sizes) if isinstance(space, IdSpace) else NextScaleModel(space, *sizes)
        model.to(device)
    rate, warmup = RATES[settings.size], max(1, settings.updates // 20)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    batches = endless(tokens, settings.batch_size, rng)
    for update in range(settings.updates):
        done = (update - warmup) / max(1, settings.updates - warmup)
        share = (update + 1) / warmup if update < warmup else 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        item = next(batches)
        labels = labels_of(item.label, classes)
        labels = labels.masked_fill(torch.rand(len(labels), generator=rng) < DROPPED, classes)
        batch = space.sequences(item.codes, item.keep)
        present = int((batch.ids != PADDING).sum())
        optimizer.zero_grad()
        for part, own in parts(batch, labels, space.vocabulary, device):
            with autocast(device):
                nats = model.nats(part.to(device), own.to(device))
            (nats.sum() / present).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        advance((update + 1) * settings.batch_size)
    return model.eval().requires_grad_(False)


def endless(tokens: Dataset, batch_size: int, rng: torch.Generator) -> Iterator:
    """Shuffled batches, pass after pass."""
    epoch, size = 0, min(batch_size, len(tokens))
    while True:
        getattr(tokens, "set_epoch", lambda epoch: None)(epoch)
        yield from DataLoader(tokens, size, shuffle=True, drop_last=True, generator=rng)
        epoch += 1


def labels_of(labels: Tensor, classes: int) -> Tensor:
    """Labels (b,) int64 for a model of so many classes; images without a label get ``classes``."""
    return torch.where((labels >= 0) & (labels < classes), labels, classes)


def parts(
    batch: IdBatch | ScaleBatch, labels: Tensor, vocabulary: int, device: torch.device | str
) -> Iterator[tuple[IdBatch | ScaleBatch, Tensor]]:
    """Parts of a batch whose logits fit in memory, with their labels."""
    size = max(1, LARGEST_LOGITS[torch.device(device).type] // (batch.ids.shape[1] * vocabulary))
    for *part, own in zip(*(tensor.split(size) for tensor in (*batch, labels)), strict=True):
        yield type(batch)(*part), own


def autocast(device: torch.device | str) -> AbstractContextManager:
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")


@torch.no_grad()
def held_out_bits(model: NextIdModel | NextScaleModel, tokens: Dataset, device: torch.device | str = "cpu") -> float:
    """Sum of -log₂ p over all codes of the images."""
    total = 0.0
    for item in DataLoader(tokens, 100):
        batch, labels = model.space.sequences(item.codes, item.keep), labels_of(item.label, model.classes)
        for part, own in parts(batch, labels, model.space.vocabulary, device):
            with autocast(device):
                total += model.nats(part.to(device), own.to(device)).double().sum().item()
    return total / math.log(2)
