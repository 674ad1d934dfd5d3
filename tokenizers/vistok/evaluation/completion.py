"""Reconstructions by every tokenizer of the images that a report shows, where only some of them selected an image."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vistok.evaluation.examples import Example, Examples, selected_names
from vistok.images.ranges import to_uint8
from vistok.quantizers import Codes

Reconstruct = Callable[[Sequence[str], Tensor], tuple[Tensor, Codes | None]]


def complete(of_tokenizers: Sequence[Examples], reconstruct: Sequence[Reconstruct | None], batch_size: int) -> None:
    """Adds to each tokenizer's examples those that only others have, and drops all that a report does not show.

    An image of which only a part is kept cannot be reconstructed again; other tokenizers then lack it.

    Args:
        of_tokenizers: Examples of each tokenizer, after ``gather``.
        reconstruct: For each tokenizer a function of names and images (b, 3, H, W) uint8 that returns the
            reconstructions in [-1, 1] and their codes; None if the kept images are not what it was given.
        batch_size: Greatest number of images that are reconstructed at once.
    """
    names, _ = selected_names(of_tokenizers)
    originals = {name: example for own in of_tokenizers for name, example in own.kept.items()}
    for run, own in zip(reconstruct, of_tokenizers, strict=True):
        of_size: dict[torch.Size, list[str]] = {}
        for name in names:
            if run and name not in own.kept and not originals[name].part:
                of_size.setdefault(originals[name].image.shape, []).append(name)
        for group in of_size.values():
            for i in range(0, len(group), batch_size):
                batch = group[i : i + batch_size]
                with torch.inference_mode():
                    reconstruction, emitted = run(batch, torch.stack([originals[name].image for name in batch]))
                pixels, codes = to_uint8(reconstruction).cpu(), emitted or Codes(None)
                for j, name in enumerate(batch):
                    sides = (None if side is None else side[j].cpu().clone() for side in (pixels, *codes))
                    own.kept[name] = Example(originals[name].image, *sides)
        own.kept = {name: own.kept[name] for name in names if name in own.kept}
