"""Export to the layouts of published checkpoints: the files that their authors' code loads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from vistok.files import atomic_folder, write_json
from vistok.formats import model_card, plain
from vistok.formats.exporters.parity import Encoded, Parity, ParityError, check, sizes_of
from vistok.formats.families import FAMILIES, Family
from vistok.formats.importers.key_map import to_theirs
from vistok.formats.importers.published import Container, Published
from vistok.formats.load import load_file
from vistok.formats.tokenizer_paths import SETTINGS
from vistok.quantizers import Quantizer
from vistok.tokenizer import Tokenizer

WRITTEN = {family.name: family for family in FAMILIES if family.write}


def save(
    tokenizer: Tokenizer,
    folder: str | Path,
    about: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    family: str = "taming",
) -> Parity:
    """Writes a tokenizer as a checkpoint of a published family, checks it by reading it, then renames its folder.

    The folder holds the weights in the container and under the names that the authors' code reads, their configuration,
    ``vistok.json`` with family and settings for ``vistok.load``, and a model card with the lines that load them.

    Args:
        tokenizer: A tokenizer with the family's structure.
        folder: Path of the folder, which must not exist.
        about: Facts for the model card.
        image_size: Ignored: the tokenizer determines the sizes that it accepts.
        family: Name of the family, one of ``WRITTEN``.

    Raises:
        ValueError: The layout cannot represent this tokenizer; the message names a target that can.
        ParityError: What is read from the files differs from the tokenizer.
    """
    layout = WRITTEN[family]
    assert layout.write and layout.container
    published = layout.write(tokenizer)
    with atomic_folder(folder) as partial:
        path = write_weights(layout, published, partial)
        write_settings(layout.container, published, partial)
        note = {"weights": path.name, "family": family, "config": published.config}
        write_json(note, partial / SETTINGS)  # with which the folder is read without arguments
        read = load_file(path, family, published.config)
        same_tensors(read, published.tokenizer)
        parity = compare(read, published.tokenizer, plain.inference_copy(tokenizer))
        model_card.write(partial, published.tokenizer, about, layout.container.usage, "pytorch", str(parity))
    return parity


def write_weights(layout: Family, published: Published, folder: Path) -> Path:
    """Writes the tensors under their published names; returns the file's path."""
    assert layout.container
    files = layout.container
    theirs = {**to_theirs(published.rules or layout.rules, published.tokenizer.state_dict()), **published.extra}
    theirs = {files.prefix + name: own.contiguous().clone() for name, own in theirs.items()}  # no storage is shared
    path = folder / files.file
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(theirs, path)
    else:
        torch.save(theirs if files.within is None else {files.within: theirs}, path)
    return path


def write_settings(container: Container, published: Published, folder: Path) -> None:
    """Writes the authors' configuration files."""
    for name, content in container.settings(published.config).items():
        if name.endswith(".json"):
            write_json(content, folder / name)
        else:
            (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))


def same_tensors(read: Tokenizer, written: Tokenizer) -> None:
    """Compares two tokenizers' structure and tensors, which must be equal bit for bit.

    Raises:
        ParityError: They differ.
    """
    kinds, tensors = ([{n: type(m) for n, m in t.named_modules()} for t in (read, written)],
                      [t.state_dict() for t in (read, written)])  # fmt: skip
    names = [name for name in (*kinds[0], *kinds[1]) if kinds[0].get(name) is not kinds[1].get(name)]
    names += sorted(tensors[0].keys() ^ tensors[1].keys())
    names += [name for name, own in tensors[1].items() if name in tensors[0] and not torch.equal(own, tensors[0][name])]
    if names:
        raise ParityError(f"{len(names)} parts of it are read otherwise than they were written: {', '.join(names[:3])}")


def compare(read: Tokenizer, written: Tokenizer, original: Tokenizer) -> Parity:
    """Compares codes and images of what was read with the tokenizer before it was brought into the layout's form."""

    def encode(images: Tensor) -> Encoded:
        codes, keep = read.to_codes(images)
        return Encoded(codes, read.encode(images), keep)

    def decode(codes: Tensor, size: tuple[int, int]) -> Tensor:
        return read.decode(read.lookup(codes, size), size)

    if metrics(written.quantizer) == metrics(original.quantizer):
        return check(original, encode, decode, sizes_of(original))
    return check(written, encode, decode, sizes_of(original), original=original)


def metrics(head: Quantizer) -> list[str | None]:
    """Metric of each codebook; None where there is no table."""
    tables = [head.table(i) for i in range(len(head.codebook_sizes))]
    return [table and table.metric for table in tables]
