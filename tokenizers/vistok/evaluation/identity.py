"""Number and hash of the images of an evaluation."""

from collections.abc import Sequence
from typing import Any

from vistok.files import sha256_of_lines


def names_hash(names: Sequence[str]) -> str:
    """SHA-256 of the sorted list of image names."""
    return sha256_of_lines(sorted(names))


def identity(names: Sequence[str]) -> dict[str, Any]:
    return {"images": len(names), "images_sha256": names_hash(names)}
