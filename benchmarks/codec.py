"""Quality of the codec on full photos, compared with JPEG and WebP at equal bytes, and with parts of its files lost.

    python benchmarks/codec.py curve CODEC IMAGES --stlpips FILE --out DIR
    python benchmarks/codec.py loss CODEC IMAGES --out DIR
    python benchmarks/codec.py tables TOKENIZER ... --images IMAGES --out DIR
    python benchmarks/codec.py picture CODEC IMAGES --out DIR

IMAGES are a folder or tar shards; sizes are those of whole files, headers included. ``curve`` writes ``curve.json``,
``curve.md`` and ``curve.png``, ``loss`` ``loss.md``, ``tables`` ``tables.md``, ``picture`` ``picture.jpg``.

JPEG and WebP are Pillow's. For each of our files they get its bytes: of all their files that are no larger, at full,
half and quarter resolution and ``QUALITIES``, the one of the highest PSNR counts (a smaller photo is enlarged
again by Lanczos). Without the smaller resolutions neither can make files as small as most of these.
"""

import argparse
import io
import json
import multiprocessing
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import vistok
from vistok.codec import concealment, stream
from vistok.codec.codec_folder import load
from vistok.codec.coder import Codec
from vistok.codec.example_codes import samples
from vistok.codec.reduction import tables_of
from vistok.data.folder_listing import list_images
from vistok.data.image_folder import ImageFiles
from vistok.data.image_paths import find_images
from vistok.data.listings.folder_images import FolderImages
from vistok.data.streams import ShardImages
from vistok.images.ranges import to_float
from vistok.losses import STLPIPS
from vistok.metrics.distances import ms_ssim, psnr, ssim_gauss11
from vistok.speed import keep_freed_pages

QUALITIES = (0, 1, 3, 6, 10, 15, 21, 28, 36, 46, 60, 80)
SCALES = (1, 2, 4)
CROP = 256  # pixels of the centre that pictures show
SEEN = 128  # pixels of the centre that ST-LPIPS sees: it works at full resolution and is slow
SHARES = (0.05, 0.10, 0.20)
PACKETS = 20
BETTER = {"psnr": max, "ms_ssim": max, "stlpips": min}
TITLES = {"psnr": "PSNR, dB", "ms_ssim": "MS-SSIM", "stlpips": "ST-LPIPS (lower is better)"}


CODEC: list = []  # of a process: the codec, and ST-LPIPS


class Candidate(NamedTuple):
    """A photo as another format stores it."""

    bytes: int
    psnr: float
    image: Tensor  # (3, H, W) uint8
    setting: str


def photos(images: str) -> Iterator[tuple[str, Tensor]]:
    """Names and whole photos (3, H, W) uint8."""
    kind, path, shards = find_images(images, "IMAGES", ("folder", "split", "shards"))
    if kind == "shards":
        samples = iter(ShardImages(shards, []))
    else:
        files = ImageFiles(FolderImages(path, list_images(path)), [])
        samples = (files[0, i] for i in range(len(files)))
    return ((sample.name.rpartition(":")[2], sample.image) for sample in samples if sample.image is not None)


def candidates(image: Tensor, kind: str) -> list[Candidate]:
    """A photo in all settings of ``JPEG`` or ``WEBP``."""
    original = Image.fromarray(image.permute(1, 2, 0).numpy())
    options = {"optimize": True} if kind == "JPEG" else {"method": 4}
    found = []
    for scale in SCALES:
        size = tuple(max(1, round(side / scale)) for side in original.size)
        small = original if scale == 1 else original.resize(size, Image.Resampling.LANCZOS)
        for quality in QUALITIES:
            file = io.BytesIO()
            small.save(file, kind, quality=quality, **options)
            with Image.open(file) as opened:
                read = opened.convert("RGB").resize(original.size, Image.Resampling.LANCZOS)
            tensor = torch.from_numpy(np.array(read)).permute(2, 0, 1)
            number, value = len(file.getvalue()), float(psnr(tensor[None], image[None]))
            found.append(Candidate(number, value, tensor, f"1/{scale}, quality {quality}"))
    return found


def best(found: list[Candidate], budget: int) -> Candidate | None:
    """The one of highest PSNR within so many bytes."""
    return max((c for c in found if c.bytes <= budget), key=lambda c: c.psnr, default=None)


@torch.no_grad()
def measured(reconstruction: Tensor, image: Tensor, perceptual: STLPIPS | None) -> dict[str, float]:
    """All metrics of one photo (3, H, W) uint8."""
    a, b = reconstruction[None], image[None]
    values = {"psnr": psnr(a, b), "ms_ssim": ms_ssim(a, b)}
    if perceptual is not None:
        values["stlpips"] = perceptual.distance(*(to_float(centre(x, SEEN)) for x in (a, b)))
    return {name: float(value) for name, value in values.items()}


def centre(images: Tensor, size: int = CROP) -> Tensor:
    """The middle size x size pixels of (b, 3, H, W)."""
    y, x = (max(0, (side - size) // 2) for side in images.shape[-2:])
    return images[..., y : y + size, x : x + size]


def curve(asked: argparse.Namespace) -> None:
    """Every rate of the codec, and JPEG and WebP within the same bytes for each photo."""
    out = Path(asked.out)
    out.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(asked.processes, prepare, (asked.codec, asked.stlpips)) as pool:
        records = [record for of_photo in pool.imap(compared, photos(asked.images)) for record in of_photo]
    (out / "curve.json").write_text(json.dumps(records, indent=1) + "\n")
    (out / "curve.md").write_text("\n".join(curve_table(load(asked.codec), records)) + "\n")
    curve_plot(records).save(out / "curve.png", optimize=True)


def prepare(codec: str, stlpips: str | None) -> None:
    """Objects that each process loads once."""
    torch.set_num_threads(1)
    keep_freed_pages()  # else two thirds of the time goes to the kernel
    CODEC.append(load(codec))
    CODEC.append(STLPIPS(stlpips) if stlpips else None)


def compared(photo: tuple[str, Tensor]) -> list[dict]:
    """A photo's record for each rate."""
    (name, image), (codec, perceptual) = photo, CODEC
    height, width = image.shape[-2:]
    others = {kind: candidates(image, kind) for kind in ("JPEG", "WEBP")}
    records = []
    for rate in range(len(codec.rates)):
        codes = codec.encode(image, rate).numpy()
        sizes = {c: len(codec.write(codes, width, height, rate, c)) for c in ("fixed", "static", "context")}
        data = codec.write(codes, width, height, rate)
        record = {"image": name, "rate": rate, "bytes": len(data), "pixels": width * height, "codings": sizes}
        record["ours"] = measured(codec.decompress(data), image, perceptual)
        for kind, found in others.items():
            chosen = best(found, len(data))
            if chosen is not None:
                values = measured(chosen.image, image, perceptual)
                record[kind] = values | {"bytes": chosen.bytes, "setting": chosen.setting}
            record[f"{kind} smallest"] = min(c.bytes for c in found if c.setting.startswith("1/1,"))
        records.append(record)
    return records


def mean(records: list[dict], who: str, metric: str) -> float:
    """Over the photos that all have; NaN where a format has no file so small for one of them."""
    if any(who not in record for record in records):
        return float("nan")
    return float(np.mean([record[who][metric] for record in records]))


def curve_table(codec: Codec, records: list[dict]) -> list[str]:
    """Markdown: a row for each rate, each cell ours / WebP / JPEG."""
    metrics = list(records[0]["ours"])
    heads = ["codewords", "bytes", "bits per pixel", "fixed / static / context", *(TITLES[m] for m in metrics)]
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join(['---'] * len(heads))} |"]
    for rate, of_rate in by_rate(records).items():
        bpp = np.mean([8 * r["bytes"] / r["pixels"] for r in of_rate])
        codings = " / ".join(f"{np.mean([r['codings'][c] for r in of_rate]):,.0f}" for c in of_rate[0]["codings"])
        cells = []
        for metric in metrics:
            values = [mean(of_rate, who, metric) for who in ("ours", "WEBP", "JPEG")]
            digits = 2 if metric == "psnr" else 3
            top = BETTER[metric]([v for v in values if v == v])
            shown = [f"{v:.{digits}f}" if v == v else "–" for v in values]
            cells.append(" / ".join(f"**{s}**" if v == top else s for s, v in zip(shown, values, strict=True)))
        sizes = " + ".join(f"{size:,}" for size in codec.rates[rate].sizes)
        lines.append(
            f"| {sizes} | {np.mean([r['bytes'] for r in of_rate]):,.0f} | {bpp:.3f} | {codings} | {' | '.join(cells)} |"
        )
    for kind in ("JPEG", "WEBP"):
        smallest = [r[f"{kind} smallest"] for r in by_rate(records)[0]]
        lines.append(f"\nThe smallest {kind} files at full resolution: {np.mean(smallest):,.0f} bytes on average.")
    return lines


def by_rate(records: list[dict]) -> dict[int, list[dict]]:
    return {rate: [r for r in records if r["rate"] == rate] for rate in sorted({r["rate"] for r in records})}


def curve_plot(records: list[dict]) -> Image.Image:
    """Each metric over bits per pixel."""
    metrics = list(records[0]["ours"])
    figure = Figure(figsize=(4.2 * len(metrics), 3.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for who, label, style in (("ours", "this codec", "o-"), ("WEBP", "WebP", "s--"), ("JPEG", "JPEG", "^:")):
            points = [
                (np.mean([8 * r["bytes"] / r["pixels"] for r in of_rate]), mean(of_rate, who, metric))
                for of_rate in by_rate(records).values()
            ]
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=5)
        axes.set_xlabel("bits per pixel")
        axes.set_title(TITLES[metric], fontsize=11)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    return rendered(figure)


def rendered(figure: Figure) -> Image.Image:
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")


def loss(asked: argparse.Namespace) -> None:
    """Files of 20 packets of which some are damaged: PSNR of each way to fill the gaps."""
    codec = load(asked.codec)
    rates = asked.rates or range(len(codec.rates))
    totals: dict[tuple[int, float, str], list[float]] = {}
    extra = {rate: [] for rate in rates}
    rng = np.random.default_rng(0)
    for _, image in islice(photos(asked.images), asked.num_images):
        height, width = image.shape[-2:]
        for rate in rates:
            data = codec.compress(image, rate, num_packets=PACKETS)
            extra[rate].append(len(data) / len(codec.compress(image, rate)) - 1)
            header, whole, everything = codec.read(data)
            exact = codec.decode(codec.latent(whole, everything, rate), width, height)
            totals.setdefault((rate, 0.0, "nothing lost"), []).append(float(psnr(exact[None], image[None])))
            for share in SHARES:
                header, codes, known = codec.read(damaged(data, round(share * PACKETS), rng))
                for name, latent in fillings(codec, codes, known, rate).items():
                    shown = codec.decode(latent, width, height)
                    totals.setdefault((rate, share, name), []).append(float(psnr(shown[None], image[None])))
    names = [name for rate, share, name in totals if (rate, share) == (rates[0], SHARES[0])]
    lines = [f"| codewords | lost | {' | '.join(names)} |", f"| {' | '.join(['---'] * (2 + len(names)))} |"]
    notes = []
    for rate in rates:
        sizes = " + ".join(f"{size:,}" for size in codec.rates[rate].sizes)
        exact = f"{np.mean(totals[rate, 0.0, 'nothing lost']):.2f}"
        lines.append(f"| {sizes} | 0 % | {' | '.join([exact] * len(names))} |")
        for share in SHARES:
            values = " | ".join(f"{np.mean(totals[rate, share, name]):.2f}" for name in names)
            lines.append(f"| {sizes} | {share:.0%} | {values} |".replace("%", " %"))
        notes.append(f"\n{PACKETS} packets cost {np.mean(extra[rate]):.1%} more bytes than one with {sizes} codewords.")
    out = Path(asked.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "loss.md").write_text("\n".join(lines + notes) + "\n")


def damaged(data: bytes, number: int, rng: np.random.Generator) -> bytes:
    """A file with one byte changed in each of so many packets."""
    lengths, start = layout(data)
    spoilt, starts = bytearray(data), start + np.cumsum([0, *lengths])
    for packet in rng.permutation(len(lengths))[:number]:
        spoilt[starts[packet] + int(rng.integers(lengths[packet]))] ^= 1 << int(rng.integers(8))
    return bytes(spoilt)


def layout(data: bytes) -> tuple[list[int], int]:
    """The lengths of a whole file's packets, and where the first one begins."""
    lengths = [len(packet) for packet in stream.unpack(data)[1]]
    return lengths, len(data) - sum(lengths)


def fillings(codec: Codec, codes: np.ndarray, known: np.ndarray, rate: int) -> dict[str, Tensor]:
    """The latent (d, h, w) by each way to conceal what was lost."""
    head, counts = codec.rates[rate].head, codec.rates[rate].counts
    tables, received = tables_of(head), torch.from_numpy(known)
    latent = head.lookup(torch.from_numpy(codes)[None])[0]
    found = {
        "none (code 0)": latent,
        "mean codeword": concealment.mean_codeword(latent, received, tables, counts),
        "nearest neighbour": concealment.neighbour_copy(latent, received),
        "mean of neighbours": concealment.neighbour_mean(latent, received),
    }
    if codec.filler is not None:
        found["model, likeliest"] = concealment.fill(codec.filler, latent, received, tables, counts, mean=False)
        found["model, mean"] = concealment.fill(codec.filler, latent, received, tables, counts)
    return found


@torch.no_grad()
def tables(asked: argparse.Namespace) -> None:
    """PSNR and SSIM of tokenizers on whole photos, cut to multiples of their factors, or on crops of one size."""
    lines = ["| tokenizer | codewords | PSNR, dB | SSIM |", "| --- | --- | --- | --- |"]
    for folder in asked.tokenizers:
        tokenizer, values = vistok.load(folder), []
        crops = (s.image for s in samples(asked.images, asked.image_size)) if asked.image_size else None
        for image in crops or (image for _, image in photos(asked.images)):
            f = tokenizer.factor
            image = image[:, : image.shape[1] // f * f, : image.shape[2] // f * f]
            shown = tokenizer.detokenize(tokenizer.tokenize(to_float(image[None])))
            shown = ((shown + 1) * 127.5 + 0.5).to(torch.uint8)
            values.append((float(psnr(shown, image[None])), float(ssim_gauss11(shown, image[None]))))
        sizes = " + ".join(f"{size:,}" for size in tokenizer.quantizer.codebook_sizes)
        a, b = np.mean(values, axis=0)
        lines.append(f"| {folder} | {sizes} | {a:.2f} | {b:.3f} |")
    out = Path(asked.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tables.md").write_text("\n".join(lines) + "\n")


def picture(asked: argparse.Namespace) -> None:
    """Crops of some photos: the original, ours, WebP and JPEG within the same bytes, for one rate."""
    codec, rows = load(asked.codec), []
    wanted = set(asked.photos)
    for name, image in photos(asked.images):
        if Path(name).stem not in wanted:
            continue
        data = codec.compress(image, asked.rate)
        row = [(f"{Path(name).stem}", image), (f"this codec, {len(data):,} bytes", codec.decompress(data))]
        for kind, label in (("WEBP", "WebP"), ("JPEG", "JPEG")):
            chosen = best(candidates(image, kind), len(data))
            caption = f"{label}, no file so small" if chosen is None else f"{label}, {chosen.bytes:,} bytes"
            row.append((caption, torch.full_like(image, 230) if chosen is None else chosen.image))
        rows.append(row)
    gap, caption = 6, 22
    sheet = Image.new("RGB", (4 * (CROP + gap) + gap, len(rows) * (CROP + caption + gap) + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for i, row in enumerate(rows):
        for j, (text, image) in enumerate(row):
            x, y = gap + j * (CROP + gap), gap + i * (CROP + caption + gap)
            draw.text((x, y + caption // 2), text, fill=(40, 40, 40), font=font, anchor="lm")
            sheet.paste(Image.fromarray(centre(image[None])[0].permute(1, 2, 0).numpy()), (x, y + caption))
    out = Path(asked.out)
    out.mkdir(parents=True, exist_ok=True)
    sheet.save(out / "picture.jpg", quality=88)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = words.add_subparsers(required=True)
    for action in (curve, loss, picture):
        kind = kinds.add_parser(action.__name__, description=action.__doc__)
        kind.add_argument("codec")
        kind.add_argument("images")
        kind.set_defaults(action=action)
        kind.add_argument("--out", required=True)
        if action is curve:
            kind.add_argument("--stlpips", help="the authors' weights of ST-LPIPS")
            kind.add_argument("--processes", type=int, default=1)
        if action is loss:
            kind.add_argument("--rates", type=int, nargs="+")
            kind.add_argument("--num-images", type=int, help="the first so many photos")
        if action is picture:
            kind.add_argument("--rate", type=int, default=0)
            kind.add_argument("--photos", nargs="+", default=["kodim04", "kodim15", "kodim19", "kodim23"])
    kind = kinds.add_parser("tables", description=tables.__doc__)
    kind.add_argument("tokenizers", nargs="+")
    kind.add_argument("--images", required=True)
    kind.add_argument("--image-size", type=int, help="pixels of centre crops, instead of whole photos")
    kind.add_argument("--out", required=True)
    kind.set_defaults(action=tables)
    return words


if __name__ == "__main__":
    asked = parser().parse_args()
    asked.action(asked)
