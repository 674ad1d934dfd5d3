"""Extraction of tokens from images, on one process or several; after a kill the same call resumes.

The resumed extraction writes the same bytes.
"""

import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from vistok import versions
from vistok.data.skipped import Skipped
from vistok.distributed.collectives import gather_objects, rank_and_size
from vistok.images.decoding import MOST_PIXELS
from vistok.images.padding import padded
from vistok.images.ranges import to_float
from vistok.images.reader import PixelForm
from vistok.processes import locks
from vistok.processes.patience import PATIENCE
from vistok.processes.progress_bar import progress
from vistok.quantizers import Codes, Context
from vistok.terminal import say
from vistok.tiles import Tiles
from vistok.tiles.stitching import refuse_global
from vistok.tokenizer import Tokenizer, fingerprint
from vistok.tokens.factorization import split_codes
from vistok.tokens.header import INDEX, Header
from vistok.tokens.index import begin, finish, finished_shards, summary_of
from vistok.tokens.loading import PartBatches, loaded
from vistok.tokens.protocol import DTYPES, TokenProtocol
from vistok.tokens.sources import Source
from vistok.tokens.token_shards import joined, packed, write_shard
from vistok.untrusted.bounded_json import MAX_LISTING, read_object


def tokenize(
    tokenizer: Tokenizer,
    source: Source,
    out: Path,
    protocol: TokenProtocol = TokenProtocol(),
    name: str = "",
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    max_unreadable: float = 0.01,
    console: Console | None = None,
    max_pixels: int = MOST_PIXELS,
    timeout: float = PATIENCE,
    take_over: bool = False,
) -> dict[str, Any]:
    """Writes the tokens of all images that are still missing, then the index.

    Under ``torch.distributed`` rank r of n writes every n-th missing shard; the result does not depend on n.

    Args:
        tokenizer: The tokenizer; its head is folded.
        source: The images.
        out: A new folder, or that of an interrupted extraction with the same arguments.
        protocol: Settings of the conversion from images to tokens.
        name: Name of the tokenizer in the header.
        device: Device on which the networks run.
        num_workers: Number of processes that decode images, for each rank.
        max_unreadable: Share of images, in [0, 1], that may be unreadable before the extraction stops.
        console: Console for progress; None prints nothing.
        max_pixels: Number of pixels above which an image counts as unreadable.
        timeout: Seconds to wait for a batch before the extraction stops.
        take_over: True takes over the folder of a process on another machine that no longer responds.

    Returns:
        Content of ``index.json``; an empty dict on ranks other than 0.

    Raises:
        ValueError: The tokenizer does not fit the protocol, or the folder has other content or is in use.
    """
    rank, world_size = rank_and_size()
    console = console or Console(quiet=True)
    skipped = Skipped(max_unreadable, "--max-unreadable")
    sha256, tokenizer = fingerprint(tokenizer), tokenizer.to(device).eval().fold()
    header = header_of(tokenizer, sha256, protocol, source, name, torch.device(device))
    header.check(out / INDEX)
    tiles = None if protocol.tile is None else Tiles(tokenizer, protocol.tile, protocol.overlap, "--tile")
    plan = header.json() | {"source": source.identity(), "versions": versions.versions()}
    with locks.held_for_all_ranks(out / locks.NAME, f"--out={out}", take_over, "--take-over"):
        begin(out, plan)
        finished = finished_shards(out, source.parts)
        waiting = [number for number in range(source.parts) if number not in finished][rank::world_size]
        before = sum(note["images"] for note in finished.values())
        if finished:
            say(f"resumes after {before:,} images", console=console)
        batches = PartBatches(
            source,
            waiting,
            protocol.batch_size,
            protocol.transforms,
            protocol.views,
            protocol.image_size,
            max_pixels,
            form_of(tokenizer)._replace(as_values=source.as_values),
        )
        tokens, labels, names, unreadable, captions = [], [], [], [], []
        began, done = time.monotonic(), 0

        def close_until(part: int | None) -> None:
            """Writes the shards before ``part``, of which the first has been filled; all remaining shards for None."""
            while waiting and waiting[0] != part:
                texts = captions if source.captions else None
                write_shard(out, waiting.pop(0), joined(tokens, header), labels, names, unreadable, texts)
                for buffer in (tokens, labels, names, unreadable, captions):
                    buffer.clear()

        with progress(console, "tokens", source.count, before) as advance, torch.inference_mode():
            for batch in loaded(batches, num_workers, torch.device(device).type == "cuda", timeout):
                close_until(batch.part)
                skipped.note(batch, None if source.count is None else -(-source.count // world_size))
                if len(batch):
                    size = (batch.images.shape[-2], batch.images.shape[-1])
                    views = quantized_views(tokenizer, batch.images, protocol, device, tiles)
                    tokens.append(packed(views, header, size))
                labels += batch.labels
                names += batch.names
                captions += batch.captions
                unreadable += batch.skipped
                done += len(batch)
                total = before + done * world_size
                advance(total if source.count is None else min(total, source.count))
            close_until(None)
        seconds = time.monotonic() - began
        counts = gather_objects(done)  # all ranks have finished
        if rank == 0:
            finish(out, plan, source.parts)
            rate = f", {sum(counts) / seconds:,.1f} images/s" if sum(counts) else ""
            say(f"{summary_of(out)}{rate}: {out}", console=console)
        gather_objects(None)  # the index is written
        return read_object(out / INDEX, MAX_LISTING) if rank == 0 else {}


def form_of(tokenizer: Tokenizer) -> PixelForm:
    """Form of the images that a tokenizer was trained on."""
    return PixelForm(tokenizer.channels, tokenizer.value_range)


def header_of(
    tokenizer: Tokenizer, sha256: str, protocol: TokenProtocol, source: Source, name: str, device: torch.device
) -> Header:
    """Header of the tokens to extract; refuses settings that do not fit the tokenizer."""
    if protocol.native:
        return native_header(tokenizer, sha256, protocol, source, name, device)
    head, size = tokenizer.quantizer, protocol.image_size
    layout = head.layout(*tokenizer.grid(size, size, f"--image-size={size}"))
    grains = layout.granularities if layout.granularities > 1 else None
    if protocol.rate is not None and (grains != 2 or not 0 <= protocol.rate <= 1):
        raise ValueError(f"--rate={protocol.rate:g} must be a share in [0, 1], for a dynamic head of two granularities")
    with torch.inference_mode():  # also reveals sizes that the tokenizer does not support
        codes = tokenizer.tokenize(torch.zeros(1, form_of(tokenizer).channels, size, size, device=device))
    header = Header(
        tokenizer=name,
        tokenizer_sha256=sha256,
        codebook_sizes=tuple(head.codebook_sizes),
        factor=tokenizer.factor,
        grid=(codes.shape[2], codes.shape[3]),
        grains=grains,
        order=None if grains is None else protocol.order,
        rate=protocol.rate,
        image_size=size,
        crop=protocol.crop,
        views=protocol.views,
        ten_crop_size=protocol.square if protocol.views == "ten" else None,
        dtype=protocol.dtype,
        batch_size=protocol.batch_size,
        device=device.type,
        classes=source.classes,
        scales=layout.grids if len(layout.grids) > 1 else None,
    )
    return header.factorized(protocol.split_bits)


def native_header(
    tokenizer: Tokenizer, sha256: str, protocol: TokenProtocol, source: Source, name: str, device: torch.device
) -> Header:
    """Header of the tokens of images of native size; refuses heads whose codes do not form one grid."""
    refuse_global(tokenizer.quantizer, "--crop=native", "its tokens are not one grid for each image")
    header = Header(
        tokenizer=name,
        tokenizer_sha256=sha256,
        codebook_sizes=tuple(tokenizer.quantizer.codebook_sizes),
        factor=tokenizer.factor,
        grid=None,
        grains=None,
        order=None,
        rate=None,
        image_size=None,
        crop=protocol.crop,
        views=protocol.views,
        ten_crop_size=None,
        dtype=protocol.dtype,
        batch_size=protocol.batch_size,
        device=device.type,
        classes=source.classes,
        tile=protocol.tile,
        overlap=protocol.overlap,
    )
    return header.factorized(protocol.split_bits)


def quantized_views(
    tokenizer: Tokenizer,
    images: Tensor,
    protocol: TokenProtocol,
    device: torch.device | str,
    tiles: Tiles | None = None,
) -> list[Codes]:
    """Codes of each view of uint8 images (b, v, 3, H, W), in parts if asked for; always in batches of the same size.

    Images of native size are padded as by ``Tokenizer.reconstruct``, and pass in tiles if there are any.

    The last digits of a convolution depend on the batch size. A short batch is padded, so that an image's codes do not
    depend on which images were unreadable or where a shard ends.
    """
    b, found = len(images), []
    filler = images[-1:].expand(protocol.batch_size - b, -1, -1, -1, -1)
    images = torch.cat([images, filler]).to(device, non_blocking=True)
    for view in images.unbind(1):
        with torch.autocast(torch.device(device).type, DTYPES[protocol.dtype], enabled=protocol.dtype != "float32"):
            if tiles is not None:
                codes = Codes(tiles.tokenize(view))
            else:
                size = tokenizer.padded_size(*view.shape[-2:]) if protocol.native else (view.shape[-2], view.shape[-1])
                codes = tokenizer.to_codes(to_float(padded(view, size)), Context(rate=protocol.rate))
        own, keep = (None if part is None else part[:b] for part in codes)
        found.append(Codes(split_codes(own, protocol.split_bits) if protocol.split_bits else own, keep))
    return found
