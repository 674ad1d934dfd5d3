"""Reconstructions by every tokenizer of the images that a report shows, where only some of them selected an image."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vistok.evaluation.examples import Example, Examples, selected_names
from vistok.images.ranges import to_uint8
from vistok.quantizers import Codes
from vistok.tokenizer import Tokenizer

Reconstruct = Callable[[Tokenizer, Tensor], tuple[Tensor, Codes]]


def complete(
    of_tokenizers: Sequence[Examples],
    tokenizers: Sequence[Tokenizer],
    device: torch.device | str,
    batch_size: int,
    reconstruct: Reconstruct,
) -> None:
    """Adds to each tokenizer's examples those that only others have, and drops all that a report does not show.

    Args:
        of_tokenizers: Examples of each tokenizer, after ``gather``.
        tokenizers: The tokenizers.
        device: Device on which they reconstruct.
        batch_size: Greatest number of images that are reconstructed at once.
        reconstruct: Maps a tokenizer and images (b, 3, H, W) uint8 to the reconstruction in [-1, 1] and its codes.
    """
    names, _ = selected_names(of_tokenizers)
    originals = {name: example.image for own in of_tokenizers for name, example in own.kept.items()}
    for tokenizer, own in zip(tokenizers, of_tokenizers, strict=True):
        of_size: dict[torch.Size, list[str]] = {}
        for name in names:
            if name not in own.kept:
                of_size.setdefault(originals[name].shape, []).append(name)
        if of_size:
            tokenizer.to(device)
        for group in of_size.values():
            for i in range(0, len(group), batch_size):
                batch = group[i : i + batch_size]
                images = torch.stack([originals[name] for name in batch])
                with torch.inference_mode():
                    reconstruction, emitted = reconstruct(tokenizer, images.to(device))
                for j, name in enumerate(batch):
                    sides = (to_uint8(reconstruction), emitted.codes, emitted.keep)
                    own.kept[name] = Example(
                        originals[name], *(None if x is None else x[j].cpu().clone() for x in sides)
                    )
        if of_size:
            tokenizer.to("cpu")
        own.kept = {name: own.kept[name] for name in names}
