"""What tokens are of: the tokenizer, its grid and vocabulary, and how images were cut; JSON beside the arrays."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from vistok.tokenizer import Tokenizer
from vistok.tokens.views import VIEWS

FORMAT, VERSION = "vistok-tokens", 1
INDEX = "index.json"
PARTIAL_INDEX = f"{INDEX}.partial"  # there until all shards are


@dataclass(frozen=True)
class Header:
    """All that the meaning of tokens depends on.

    Attributes:
        tokenizer: What the user called it.
        tokenizer_sha256: Of its weights, by ``sha256_of_weights``.
        codebook_sizes: Codewords in each of the k codebooks.
        factor: Pixels along each side of a position.
        grid: Positions (h, w) of an image.
        grains: Of a dynamic head, whose sequences are ragged; None for all others.
        order: Of a dynamic head's sequences: ``region`` or ``row`` (``vistok.quantizers.sequences``).
        rate: The share of fine regions that a dynamic head was asked for; None left it to its router.
        image_size: Pixels of the square that the tokenizer saw.
        crop: How it was cut: ``adm``, ``bicubic``, ``bilinear``, ``opencv`` or ``none``, as in evaluation.
        views: ``none``, ``flip`` or ``ten``: which views of each image there are.
        ten_crop_size: Pixels of the larger square that ten crops are cut from.
        dtype: What the networks computed in.
        batch_size: Images in a forward; the last digits of a latent depend on it.
        device: ``cpu`` or ``cuda``; so do they on this.
        classes: The names of the labels, where they are known.
    """

    tokenizer: str
    tokenizer_sha256: str
    codebook_sizes: tuple[int, ...]
    factor: int
    grid: tuple[int, int]
    grains: int | None
    order: str | None
    rate: float | None
    image_size: int
    crop: str
    views: str
    ten_crop_size: int | None
    dtype: str
    batch_size: int
    device: str
    classes: tuple[str, ...] | None

    @property
    def num_views(self) -> int:
        """Views v of an image."""
        return VIEWS[self.views]

    @property
    def positions(self) -> int:
        """Positions of the grid."""
        return self.grid[0] * self.grid[1]

    @property
    def dtype_on_disk(self) -> str:
        """``uint16`` where every code fits, else ``uint32``, else ``uint64`` (binary codes of more than 32 bits)."""
        largest = max(self.codebook_sizes)
        return "uint16" if largest <= 2**16 else "uint32" if largest <= 2**32 else "uint64"

    @property
    def positions_dtype(self) -> str:
        """``uint16`` where every position fits, else ``uint32``."""
        return "uint16" if self.positions <= 2**16 else "uint32"

    def json(self) -> dict[str, Any]:
        """The content of a JSON file, which ``Header.of`` reads."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def of(cls, content: Any, path: Path) -> "Header":
        """A header from a JSON file's content, of which other keys are left out.

        Raises:
            ValueError: It is of something else, of another version, or lacks or contradicts something.
        """
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"{path} is no header of tokens: its format is {found!r}, not {FORMAT!r}")
        if content.get("version") != VERSION:
            raise ValueError(f"{path} has the version {content.get('version')!r}; this vistok reads {VERSION}")
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in content]
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)}")
        values = {name: content[name] for name in names}
        for name in ("codebook_sizes", "grid", "classes"):
            values[name] = None if values[name] is None else _tuple(values[name], name, path)
        header = cls(**values)
        header._check(path)
        return header

    @classmethod
    def read(cls, path: Path) -> "Header":
        """The header in a JSON file.

        Raises:
            ValueError: There is none, or it is not valid.
        """
        return cls.of(read_json(path), path)

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuse a tokenizer that did not make these tokens: the same ids would be other pictures."""
        sha256 = sha256_of_weights(tokenizer)
        if sha256 != self.tokenizer_sha256:
            raise ValueError(
                f"these tokens are of {self.tokenizer} with the sha256 {self.tokenizer_sha256[:16]}..., but the "
                f"tokenizer given has {sha256[:16]}...: their ids mean other codewords"
            )

    def _check(self, path: Path) -> None:
        """Refuse values that cannot be."""
        counts = (*self.codebook_sizes, *self.grid, self.factor, self.image_size, self.batch_size)
        wrong = [value for value in counts if not isinstance(value, int) or isinstance(value, bool) or value < 1]
        if wrong or not self.codebook_sizes or len(self.grid) != 2 or max(counts) > 2**62:
            raise ValueError(
                f"{path} has codebook_sizes={list(self.codebook_sizes)}, grid={list(self.grid)}, factor={self.factor}, "
                f"image_size={self.image_size}, batch_size={self.batch_size}: all must be whole numbers above 0"
            )
        if self.views not in VIEWS:
            raise ValueError(f"{path} has views={self.views!r}, not one of {', '.join(VIEWS)}")
        if self.grains is not None and (self.grains not in range(2, 9) or self.order not in ("region", "row")):
            raise ValueError(f"{path} has grains={self.grains!r} in the order {self.order!r}")
        if not isinstance(self.tokenizer_sha256, str) or len(self.tokenizer_sha256) != 64:
            raise ValueError(f"{path} has tokenizer_sha256={self.tokenizer_sha256!r}, which is no sha256")


def sha256_of_weights(tokenizer: Tokenizer) -> str:
    """SHA-256 of the names and values of a tokenizer's weights: the same on any device and in later versions."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tokenizer.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: There is no such file, or it is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"there is no {path}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _tuple(value: Any, name: str, path: Path) -> tuple:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{path} has {name}={value!r}, not a list")
    return tuple(value)
