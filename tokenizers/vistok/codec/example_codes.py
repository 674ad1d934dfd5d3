"""Codes of example images, for weights and counts of codewords."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from vistok.data.batches import Sample
from vistok.data.image_folder import ImageFiles
from vistok.data.image_paths import LISTED, find_images
from vistok.data.listings.opening import open_splits
from vistok.data.streams import ShardImages
from vistok.images.crops import ADMCrop
from vistok.images.ranges import to_float
from vistok.processes.patience import PATIENCE, in_time
from vistok.quantizers import Quantizer
from vistok.tokenizer import Tokenizer

BATCH = 8


def code_grids(
    tokenizer: Tokenizer, heads: Sequence[Quantizer], images: str, image_size: int, most: int
) -> list[np.ndarray]:
    """Codes (images, k, h, w) int32 of each head for centre crops of images.

    Args:
        tokenizer: Tokenizer whose encoder computes the latents.
        heads: Heads that quantize the latents.
        images: Any source of ``image_paths``; of one with splits the images to train on.
        image_size: Side of the crops in pixels.
        most: Largest number of images; the first ones are used.

    Raises:
        ValueError: The folder or a shard does not exist, has no images, or the size does not fit the tokenizer.
    """
    tokenizer.grid(image_size, image_size, f"--image-size={image_size}")
    found: list[list[np.ndarray]] = [[] for _ in heads]
    read = in_time(samples(images, image_size), PATIENCE)
    crops = islice((sample.image for sample in read if sample.image is not None), most)
    batches = iter(lambda: list(islice(crops, BATCH)), [])
    with torch.no_grad():
        for batch in track(batches, description="codes of examples", transient=True):
            latent = tokenizer.encode(to_float(torch.stack(batch)))
            for codes, head in zip(found, heads, strict=True):
                codes.append(head.encode(latent).codes.numpy().astype(np.int32))
    if not found[0]:
        raise ValueError(f"--images={images} has no image that can be read")
    return [np.concatenate(codes) for codes in found]


def samples(images: str, image_size: int) -> Iterator[Sample]:
    """All images of a source, cropped at the centre; only those to train on of one with splits."""
    transforms = [ADMCrop(image_size)]
    found = find_images(images, "--images", (*LISTED, "shards"))
    if found.kind == "shards":
        return iter(ShardImages(found.shards, transforms))
    files = ImageFiles(open_splits(images, "--images").train, transforms)
    return (files[0, i] for i in range(len(files)))


def counts_of(grids: np.ndarray, sizes: Sequence[int]) -> list[Tensor]:
    """Counts (n,) int64 of each codebook's codewords in codes (images, k, h, w)."""
    return [torch.from_numpy(np.bincount(grids[:, i].ravel(), minlength=size)) for i, size in enumerate(sizes)]
