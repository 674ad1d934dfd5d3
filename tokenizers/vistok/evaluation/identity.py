"""Hashes that identify the images and the tokenizer of a number."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from vistok.tokenizer import Tokenizer


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 of a tokenizer's structure and weights."""
    sha = hashlib.sha256(repr(tokenizer).encode())
    sha.update(repr(tokenizer.pixels).encode())
    for name, tensor in sorted(tokenizer.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def names_hash(names: Sequence[str]) -> str:
    """SHA-256 of the sorted list of image names."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def identity(names: Sequence[str]) -> dict[str, Any]:
    return {"images": len(names), "images_sha256": names_hash(names)}
