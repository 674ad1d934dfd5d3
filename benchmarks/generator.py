"""Quality of a generator of a fixed budget on a tokenizer's tokens, and its samples.

    python benchmarks/generator.py TOKENIZER --train DIR --test DIR --images TARS --network FILE --out FOLDER
    python benchmarks/generator.py --table FOLDER ...

Trains a small class-conditional GPT (transformers) on tokens that ``python -m vistok tokenize`` wrote. Its bits on
held-out images are a probe of how learnable the tokens are: all heads get the same network, images and updates.
Samples are decoded, and compared with photos by the Fréchet distance of MobileNetV2's features. Writes
``FOLDER/report.json`` and ``FOLDER/samples.png``.

A sequence is the codes in raster order: of factorized heads those of a position one after the other; of a dynamic head
of two grains, region by region, one id for a coarse region and four other ids for a fine one, so that the ids also say
the grain. The network is told the place that the next id is for.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

import vistok
from vistok.data import shards
from vistok.files import write_json
from vistok.images.ranges import to_uint8
from vistok.metrics import FeatureStatistics, TorchvisionFeatures, psnr
from vistok.plots import labelled_tiles
from vistok.tokens import Header, TokenDataset
from vistok.versions import versions

PADDING = -100  # what cross_entropy leaves out


class Batch(NamedTuple):
    ids: Tensor  # (b, l) int64, PADDING behind the end
    slots: Tensor  # (b, l) int64: the place of each id


class Places:
    """The places of an image's ids, which ids may be at each, and codes as ids and back.

    Args:
        header: Of the tokens.

    Attributes:
        number: Places S; not all of them have an id where the head is dynamic.
        vocabulary: Number of ids V.
        allowed: (S, V) float: 0 for an id that may be at a place, -inf for others.
    """

    def __init__(self, header: Header):
        self.header, self.dynamic = header, header.grains is not None
        sizes, (h, w) = header.codebook_sizes, header.grid
        self.k = len(sizes)
        if self.dynamic and (header.grains, self.k) != (2, 1):
            raise ValueError("of dynamic heads only those of two grains and one codebook")
        self.number = h * w * self.k
        self.vocabulary = 2 * sizes[0] if self.dynamic else sum(sizes)
        place, ids = torch.arange(self.number)[:, None], torch.arange(self.vocabulary)
        if self.dynamic:  # behind the first place of a region there are only fine ids
            fits = (place % 4 == 0) | (ids >= sizes[0])
        else:
            ends = torch.tensor(np.cumsum(sizes))
            fits = torch.bucketize(ids, ends, right=True) == place % self.k
        self.allowed = torch.zeros(self.number, self.vocabulary).masked_fill(~fits, -math.inf)

    def sequences(self, codes: Tensor, keep: Tensor) -> Batch:
        """Codes (b, k, h, w) and keep (b, h, w) as ids in the order of their places."""
        if not self.dynamic:
            starts = torch.tensor(np.cumsum([0, *self.header.codebook_sizes[:-1]]))
            ids = rearrange(codes + starts[:, None, None], "b k h w -> b (h w k)")
            return Batch(ids, torch.arange(self.number).expand_as(ids))
        codes, keep = (rearrange(t, "b (h p) (w q) -> b (h w) (p q)", p=2, q=2) for t in (codes[:, 0], keep))
        ids = (codes + self.header.codebook_sizes[0] * keep[:, :, 1:2]).flatten(1)
        keep = keep.flatten(1)
        order = (~keep).int().sort(dim=1, stable=True).indices[:, : int(keep.sum(1).max())]
        ids = ids.masked_fill(~keep, PADDING).gather(1, order)
        return Batch(ids, order)

    def following(self, slots: Tensor, ids: Tensor) -> Tensor:
        """The places (b,) after those with these ids; ``number`` at the end."""
        if not self.dynamic:
            return slots + 1
        return slots + torch.where(ids < self.header.codebook_sizes[0], 4, 1)

    def codes(self, table: Tensor) -> Tensor:
        """Ids by place (b, S), anything where there is none, as codes (b, k, h, w)."""
        h, w = self.header.grid
        if not self.dynamic:
            starts = torch.tensor(np.cumsum([0, *self.header.codebook_sizes[:-1]]))
            return rearrange(table, "b (h w k) -> b k h w", h=h, w=w) - starts[:, None, None]
        n = self.header.codebook_sizes[0]
        regions = rearrange(table, "b (r p) -> b r p", p=4)
        coarse = regions[:, :, :1] < n
        regions = torch.where(coarse, regions[:, :, :1], regions - n)
        return rearrange(regions, "b (h w) (p q) -> b 1 (h p) (w q)", h=h // 2, p=2)


class Generator(nn.Module):
    """A GPT-2 over ids, with the class in front, that is told the place of the next id."""

    def __init__(self, places: Places, classes: int, width: int, layers: int, heads: int):
        super().__init__()
        self.places, self.classes = places, classes
        config = GPT2Config(
            vocab_size=places.vocabulary + classes + 1,  # the last one is no class, for guidance
            n_positions=places.number,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
        )
        self.gpt = GPT2LMHeadModel(config)
        # Not as position_ids: where these have gaps, transformers takes what follows for another sequence.
        self.place = nn.Embedding(places.number, width)
        nn.init.normal_(self.place.weight, std=config.initializer_range)
        self.register_buffer("allowed", places.allowed, persistent=False)

    def forward(self, before: Tensor, slots: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """Logits (b, l, V) of the ids at ``slots`` (b, l), given the ids before each of them."""
        embedded = self.gpt.transformer.wte(before) + self.place(slots)
        out = self.gpt(inputs_embeds=embedded, cache=cache, use_cache=cache is not None)
        return out.logits[..., : self.places.vocabulary] + self.allowed[slots]

    def start(self, labels: Tensor) -> Tensor:
        """Start id before the first id, (b, 1); the label ``classes`` means no class."""
        return labels[:, None] + self.places.vocabulary

    def nats(self, batch: Batch, labels: Tensor) -> Tensor:
        """-ln p of each id (b, l), 0 where there is none."""
        before = torch.cat([self.start(labels), batch.ids[:, :-1].clamp(min=0)], dim=1)
        logits = self(before, batch.slots)
        return F.cross_entropy(logits.transpose(1, 2), batch.ids, ignore_index=PADDING, reduction="none")

    @torch.no_grad()
    def sample(self, labels: Tensor, temperature: float, top_k: int | None, guidance: float, rng) -> Tensor:
        """Codes (b, k, h, w) drawn for labels (b,); guidance 1 is none."""
        b, number = len(labels), self.places.number
        guided = guidance != 1
        if guided:
            labels = torch.cat([labels, torch.full_like(labels, self.classes)])
        before, slots, cache = self.start(labels), torch.zeros(b, dtype=torch.int64), DynamicCache()
        table = torch.zeros(b, number + 4, dtype=torch.int64)  # what is drawn after the end goes behind it
        while bool((slots < number).any()):
            own = slots.clamp(max=number - 1)
            logits = self(before, (torch.cat([own, own]) if guided else own)[:, None], cache)[:, 0]
            if guided:
                with_class, without = logits.log_softmax(-1).chunk(2)
                logits = torch.where(with_class.isinf(), with_class, without + guidance * (with_class - without))
            logits = logits / temperature
            if top_k:
                logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -math.inf)
            ids = torch.multinomial(logits.softmax(-1), 1, generator=rng)[:, 0]
            table.scatter_(1, slots[:, None], ids[:, None])
            slots = torch.where(slots < number, self.places.following(slots, ids), slots)
            before = (torch.cat([ids, ids]) if guided else ids)[:, None]
        return self.places.codes(table[:, :number])


def train(model: Generator, data: TokenDataset, asked: argparse.Namespace) -> float:
    """Train; the seconds of CPU that it took."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=asked.lr, betas=(0.9, 0.95), weight_decay=0.01)
    warmup = max(1, asked.updates // 20)

    def rate(n: int) -> float:
        done = (n - warmup) / max(1, asked.updates - warmup)
        return (n + 1) / warmup if n < warmup else 0.5 * (1 + math.cos(math.pi * done))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    rng, began, n, epoch = torch.Generator().manual_seed(0), time.process_time(), 0, 0
    while n < asked.updates:
        data.set_epoch(epoch)
        for item in DataLoader(data, asked.batch_size, shuffle=True, drop_last=True, generator=rng):
            dropped = torch.rand(len(item.label), generator=rng) < 0.1
            labels = item.label.masked_fill(dropped, model.classes)
            batch = model.places.sequences(item.codes, item.keep)
            nats = model.nats(batch, labels)
            loss = nats.sum() / (batch.ids != PADDING).sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            n += 1
            if n % 100 == 0 or n == asked.updates:
                print(f"update {n}: {loss.item() / math.log(2):.3f} bits/token", flush=True)
            if n == asked.updates:
                break
        epoch += 1
    return time.process_time() - began


@torch.no_grad()
def held_out(model: Generator, train: TokenDataset, test: TokenDataset) -> dict[str, float]:
    """Bits of the test images' tokens: by the model given the class, by frequencies alone, and at fixed length."""
    places = model.places
    counts = torch.ones(places.vocabulary)  # Laplace's prior
    for item in DataLoader(train, 500):
        ids = places.sequences(item.codes, item.keep).ids
        counts += ids[ids != PADDING].bincount(minlength=places.vocabulary)
    frequencies = (counts.log() + places.allowed).log_softmax(-1)  # (S, V)
    nats, tokens, unigram = 0.0, 0, 0.0
    for item in DataLoader(test, 100):
        batch = places.sequences(item.codes, item.keep)
        there = batch.ids != PADDING
        nats += model.nats(batch, item.label).double().sum().item()
        unigram -= frequencies[batch.slots[there], batch.ids[there]].double().sum().item()
        tokens += int(there.sum())
    n, sizes = len(test), train.header.codebook_sizes
    grain = train.header.positions / 4 if places.dynamic else 0.0  # one bit for each region
    return {
        "images": n,
        "tokens_per_image": tokens / n,
        "bits_per_token": nats / tokens / math.log(2),
        "bits_per_image": nats / n / math.log(2),
        "unigram_bits_per_image": unigram / n / math.log(2),
        "fixed_bits_per_image": tokens / n * sum(map(math.log2, sizes)) / len(sizes) + grain,
    }


@torch.no_grad()
def pictures(asked: argparse.Namespace, model: Generator, test: TokenDataset, out: Path) -> dict[str, float]:
    """Samples and reconstructions beside photos."""
    tokenizer = vistok.load(asked.tokenizer)
    network = TorchvisionFeatures("mobilenet_v2", asked.network)
    data = shards(None, val_urls=asked.images, image_size=test.header.image_size, batch_size=100)
    photos = torch.cat([batch.images for batch in data.val_dataloader()])[: asked.samples]

    def statistics(images: Tensor) -> FeatureStatistics:
        found = FeatureStatistics(network.dim)
        for part in images.split(50):
            found.update(network(part))
        return found

    n = asked.samples
    of_photos = statistics(photos)
    codes = torch.stack([torch.from_numpy(test.store.view(i)[0]) for i in range(n)])
    rebuilt = torch.cat([to_uint8(test.store.decode(tokenizer, part)) for part in codes.split(100)])
    labels = repeat(torch.arange(model.classes), "c -> (c n)", n=n // model.classes)
    rng = torch.Generator().manual_seed(0)
    drawn = torch.cat(
        [model.sample(part, asked.temperature, asked.top_k, asked.guidance, rng) for part in labels.split(250)]
    )
    samples = torch.cat([to_uint8(test.store.decode(tokenizer, part)) for part in drawn.split(100)])
    columns = 8
    shown = [c * (n // model.classes) + i for c in range(model.classes) for i in range(columns)]
    names = test.header.classes or [f"class {c}" for c in range(model.classes)]
    captions = [names[i // columns] if i % columns == 0 else "" for i in range(len(shown))]
    labelled_tiles(samples[shown], captions, columns).save(out / "samples.png")
    return {
        "photos": len(photos),
        "samples": len(samples),
        "psnr": psnr(rebuilt, photos[:n]).mean().item(),
        f"frechet_{network.name}_reconstructions": statistics(rebuilt).distance(of_photos).item(),
        f"frechet_{network.name}_samples": statistics(samples).distance(of_photos).item(),
    }


def probe(asked: argparse.Namespace) -> None:
    """One tokenizer: train, measure, sample, report."""
    out = Path(asked.out)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    data, test = TokenDataset(asked.train), TokenDataset(asked.test, view=0)
    if data.header.tokenizer_sha256 != test.header.tokenizer_sha256:
        raise ValueError("--train and --test are of different tokenizers")
    model = Generator(Places(data.header), len(data.header.classes), asked.width, asked.layers, asked.heads)
    seconds = train(model, data, asked)
    model.eval()
    report = {
        "tokenizer": asked.tokenizer,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": round(seconds, 1),
        "held_out": held_out(model, data, test),
        "pictures": pictures(asked, model, test, out),
        "arguments": vars(asked),
        "versions": versions(),
    }
    write_json(report, out / "report.json")
    print(json.dumps(report["held_out"] | report["pictures"], indent=2))


def table(folders: list[str]) -> None:
    """The reports of several probes as Markdown."""
    print(
        "| head | tokens | bits, fixed length | bits by frequency | bits by the GPT | bits/token | PSNR, dB | "
        "Fréchet (MobileNetV2), reconstructions | samples | CPU s |\n" + "| --- " * 10 + "|"
    )
    for folder in folders:
        report = json.loads((Path(folder) / "report.json").read_text())
        held, seen = report["held_out"], report["pictures"]
        print(
            f"| {Path(folder).name} | {held['tokens_per_image']:.1f} | {held['fixed_bits_per_image']:.0f} | "
            f"{held['unigram_bits_per_image']:.0f} | {held['bits_per_image']:.0f} | {held['bits_per_token']:.2f} | "
            f"{seen['psnr']:.2f} | {seen['frechet_mobilenet_v2_reconstructions']:.0f} | "
            f"{seen['frechet_mobilenet_v2_samples']:.0f} | {report['cpu_seconds']:.0f} |"
        )


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("tokenizer", nargs="?", help="that made the tokens")
    words.add_argument("--train", help="its tokens to train on, with views as augmentation")
    words.add_argument("--test", help="its tokens of held-out images")
    words.add_argument("--images", help="tars of those images, in the same order")
    words.add_argument("--network", help="torchvision's weights of MobileNetV2")
    words.add_argument("--out", help="folder to write to")
    words.add_argument("--updates", type=int, default=500)
    words.add_argument("--batch-size", type=int, default=32)
    words.add_argument("--lr", type=float, default=2e-3)
    words.add_argument("--width", type=int, default=128)
    words.add_argument("--layers", type=int, default=2)
    words.add_argument("--heads", type=int, default=4)
    words.add_argument("--samples", type=int, default=1000)
    words.add_argument("--temperature", type=float, default=1.0)
    words.add_argument("--top-k", type=int)
    words.add_argument("--guidance", type=float, default=1.0)
    words.add_argument("--table", nargs="+", help="folders of finished probes: print them as a table")
    asked = words.parse_args()
    if asked.table:
        table(asked.table)
        return
    missing = [name for name in ("tokenizer", "train", "test", "images", "network", "out") if not vars(asked)[name]]
    if missing:
        words.error(f"missing: {', '.join(missing)}")
    torch.set_num_threads(1)
    probe(asked)


if __name__ == "__main__":
    main()
