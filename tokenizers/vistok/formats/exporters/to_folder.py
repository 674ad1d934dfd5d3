"""Export to our own folder, checked by loading it again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vistok.files import atomic_folder
from vistok.formats import native
from vistok.formats.exporters.parity import Encoded, Parity, check, sizes_of
from vistok.formats.plain import inference_copy
from vistok.tokenizer import Tokenizer


def save_folder(
    tokenizer: Tokenizer,
    folder: str | Path,
    about: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    half: bool = False,
) -> Parity:
    """Writes our own folder, checks it by loading it again, then renames it.

    Arguments as for the other exporters, and ``half`` as in ``native.save``. With ``half`` the check uses the rounded
    weights.
    """
    folded = inference_copy(tokenizer)
    if half:
        for name, tensor in folded.state_dict().items():
            tensor.copy_(native.stored_half(name, tensor))
    with atomic_folder(folder) as unnamed:
        read = native.load(native.save(folded, unnamed, dict(about or {}), half))

        def encode(images):
            codes, keep = read.to_codes(images)
            return Encoded(codes, read.encode(images), keep)

        sizes = sizes_of(folded) if image_size is None else [(image_size, image_size)]
        return check(folded, encode, lambda codes, size: read.decode(read.lookup(codes, size), size), sizes)
