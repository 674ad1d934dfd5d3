"""Export to LlamaGen's layout (arXiv:2406.06525): a torch file for its code and projects that use the same layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vistok.files import atomic_folder, write_json
from vistok.formats import load, model_card, plain
from vistok.formats.exporters.parity import Encoded, Parity, check, sizes_of
from vistok.formats.importers import from_llamagen as layout
from vistok.formats.importers.key_map import to_theirs
from vistok.formats.tokenizer_paths import SETTINGS
from vistok.tokenizer import Tokenizer

TARGET = "LlamaGen's layout"
FILE = "vq_model.pt"
USAGE = f"""
checkpoint = torch.load("FOLDER/{FILE}", weights_only=True)
config = checkpoint["config"]
arguments = {{name: config[name] for name in config.keys() & ModelArgs.__dataclass_fields__.keys()}}
model = VQModel(ModelArgs(**arguments))  # LlamaGen's, tokenizer/tokenizer_image/vq_model.py
model.load_state_dict(checkpoint["model"])
"""


def save(
    tokenizer: Tokenizer, folder: str | Path, about: Mapping[str, Any] | None = None, image_size: int | None = None
) -> Parity:
    """Writes ``vq_model.pt``, checks it, then renames its folder.

    The file holds ``model``, the tensors under LlamaGen's names, and ``config``, the arguments of its ``ModelArgs``.
    Its code supports only ``ch=128`` and ``num_res_blocks=2``; for other values, which are in ``config`` too, its
    ``Encoder`` and ``Decoder`` must be created with them. ``codebook_l2_norm`` is true for a cosine head, and where all
    codewords have unit length; where it is false, it must be set in LlamaGen's scripts.

    Args:
        tokenizer: LlamaGen's networks with any head that folds into one table.
        folder: Path of the folder, which must not exist.
        about: Facts for the model card.
        image_size: Ignored: the networks accept any size.

    Raises:
        ValueError: LlamaGen's model cannot represent this tokenizer; the message names a target that can.
        ParityError: The written model differs from the tokenizer.
    """
    folded = plain.vqgan(tokenizer, TARGET)
    config = config_of(folded)
    state = to_theirs(layout.RULES, plain.state_of(folded)) | {"quantize.codebook_used": torch.zeros(layout.WINDOW)}
    with atomic_folder(folder) as partial:
        torch.save({"model": state, "config": config}, partial / FILE)
        write_json({"weights": FILE, "family": "llamagen", "config": config}, partial / SETTINGS)
        read = load.load_file(partial / FILE, "llamagen", config)

        def encode(images: Tensor) -> Encoded:
            return Encoded(read.tokenize(images), read.encode(images))

        def decode(codes: Tensor, size: tuple[int, int]) -> Tensor:
            return read.decode(read.quantizer.lookup(codes))

        parity = check(folded, encode, decode, sizes_of(folded))
        model_card.write(partial, folded, about, USAGE, "pytorch", str(parity))
    return parity


def config_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Arguments of these networks by LlamaGen's names."""
    return layout.model_args(tokenizer, TARGET) | {"codebook_l2_norm": plain.codewords_are_unit(tokenizer)}
