"""Header of tokens: their tokenizer, layout, vocabulary and crop, as JSON beside the arrays."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vistok.images.evaluation_crops import NATIVE
from vistok.quantizers import Layout
from vistok.tokenizer import Tokenizer, fingerprint
from vistok.tokens.factorization import join_codes, split_sizes
from vistok.tokens.views import VIEWS
from vistok.untrusted.bounded_json import MAX_LISTING, read_object, short

FORMAT, VERSION = "vistok-tokens", 3
EARLIER = (1, 2)  # versions that are read too: 1 hashed the tokenizer in another way
ADDED = ("scales", "split_bits")  # which these versions do not have
TILES = ("tile", "overlap")  # which files of version 3 may lack
INDEX = "index.json"
PARTIAL_INDEX = f"{INDEX}.partial"  # exists until all shards do
MAX_CODES = 2**24  # most codes of an image in all its views
MAX_GRAINS = 8
MAX_SCALES = 1024
MAX_BITS = 62  # most bits of a code


@dataclass(frozen=True)
class Header:
    """Everything that the meaning of tokens depends on.

    Attributes:
        tokenizer: Name of the tokenizer, given by the user.
        tokenizer_sha256: Hash of the tokenizer, by ``vistok.tokenizer.fingerprint``.
        codebook_sizes: Number of codewords in each of the k codebooks, or of values in each of their parts.
        factor: Pixels along each side of a position.
        grid: Last two axes of an image's codes: its grid (h, w), or (1, n) for scales one after the other. None for
            images of native size, each of which has its own (``TokenStore.view``).
        grains: Number of granularities of a dynamic head, whose sequences are ragged; None for all other heads.
        order: Order of a dynamic head's sequences: ``region`` or ``row`` (``vistok.quantizers.sequences``).
        rate: Share of fine regions that was set for a dynamic head; None if its router decided.
        image_size: Side in pixels of the square that the tokenizer got; None for images of native size.
        crop: Crop of the images: ``adm``, ``bicubic``, ``bilinear``, ``opencv`` or ``none``, as in evaluation, or
            ``native`` for images in their own size.
        views: Views of each image: ``none``, ``flip`` or ``ten``.
        ten_crop_size: Side in pixels of the larger square for ten crops.
        dtype: Dtype in which the networks computed.
        batch_size: Number of images in a forward pass; the last digits of a latent depend on it.
        device: ``cpu`` or ``cuda``; the last digits of a latent depend on it too.
        classes: Names of the labels, if known.
        scales: Grid (h, w) of each scale of a multi-scale head, in order; None for all other heads.
        split_bits: Bits of each part of a code, lowest first, where codes are stored in parts
            (``vistok.tokens.factorization``); None where they are stored as they are.
        tile: Side in pixels of the tiles in which images of native size passed the networks; None for full images.
        overlap: Pixels of a tile beside its own part, at each side; None for the default (``vistok.tiles``).
    """

    tokenizer: str
    tokenizer_sha256: str
    codebook_sizes: tuple[int, ...]
    factor: int
    grid: tuple[int, int] | None
    grains: int | None
    order: str | None
    rate: float | None
    image_size: int | None
    crop: str
    views: str
    ten_crop_size: int | None
    dtype: str
    batch_size: int
    device: str
    classes: tuple[str, ...] | None
    scales: tuple[tuple[int, int], ...] | None = None
    split_bits: tuple[int, ...] | None = None
    tile: int | None = None
    overlap: int | None = None

    @property
    def native(self) -> bool:
        """True for images of native size, whose grids differ."""
        return self.crop == NATIVE

    def refuse_native(self, what: str) -> None:
        """Refuses images of native size.

        Args:
            what: What needs one grid, for the message.

        Raises:
            ValueError: The images have grids of their own.
        """
        if self.native:
            raise ValueError(
                f"{what} needs images of one size, but each image of these tokens (crop=native) has its own"
            )

    @property
    def layout(self) -> Layout:
        """Arrangement of the codes of an image."""
        self.refuse_native("a layout of all images")
        return Layout(self.scales or (self.grid,), len(self.codebook_sizes), self.grains or 1)

    @property
    def num_views(self) -> int:
        """Number of views v of an image."""
        return VIEWS[self.views]

    @property
    def positions(self) -> int:
        """Number of positions of the grid, or of all scales."""
        self.refuse_native("a number of positions")
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
        """Content of a JSON file, which ``Header.of`` reads."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def of(cls, content: Any, path: Path) -> "Header":
        """Header from the content of a JSON file; other keys are ignored.

        Raises:
            ValueError: The content has another format or version, or is incomplete or inconsistent.
        """
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"{path} is not a header of tokens: its format is {short(found)}, not {FORMAT!r}")
        version = content.get("version")
        if version not in (*EARLIER, VERSION):
            raise ValueError(f"{path} has the version {short(version)}; this vistok reads {VERSION}")
        if version in EARLIER:
            content = content | dict.fromkeys(ADDED)
        content = dict.fromkeys(TILES) | content
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in content]
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)}")
        values = {name: content[name] for name in names}
        for name in ("codebook_sizes", "grid", "classes", *ADDED):
            if values[name] is None and (name not in ("codebook_sizes", "grid") or values["crop"] == NATIVE):
                continue
            if type(values[name]) is not list:
                raise ValueError(f"{path} has {name}={short(values[name])}, not a list")
            values[name] = tuple(tuple(item) if type(item) is list else item for item in values[name])
        header = cls(**values)
        header.check(path)
        return header

    @classmethod
    def read(cls, path: Path) -> "Header":
        """Header in a JSON file.

        Raises:
            ValueError: The file does not exist or is not valid.
        """
        return cls.of(read_object(path, MAX_LISTING), path)

    def factorized(self, bits: Sequence[int] | None) -> "Header":
        """Header of the same tokens with every code in parts of so many bits; None changes nothing.

        Raises:
            ValueError: The codes have another number of bits, or are in other parts already.
        """
        bits = None if bits is None else tuple(bits)
        if bits in (None, self.split_bits):
            return self
        if self.split_bits is not None:
            raise ValueError(
                f"split-bits {_joined(bits)}: these tokens are in parts of {_joined(self.split_bits)} bits"
            )
        return replace(self, codebook_sizes=split_sizes(self.codebook_sizes, bits), split_bits=bits)

    def complete_codes(self, codes: Tensor) -> Tensor:
        """Codes (b, k, *positions) of the tokenizer, from codes that may be in parts."""
        return codes if self.split_bits is None else join_codes(codes, self.split_bits)

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuses a tokenizer that did not make these tokens: the same ids would decode to other images."""
        sha256 = fingerprint(tokenizer)
        if sha256 != self.tokenizer_sha256:
            raise ValueError(
                f"these tokens are of {self.tokenizer} with the sha256 {self.tokenizer_sha256[:16]}..., but the "
                f"given tokenizer has {sha256[:16]}...; give the tokenizer that computed them, or run python -m vistok "
                "tokenize again (also for tokens of an earlier vistok, which had another hash)"
            )

    def check(self, path: Path) -> None:
        """Refuses invalid values: wrong types, impossible grids, vocabularies beyond int64.

        Raises:
            ValueError: A value is invalid; the message names ``path``, the location of the header.
        """
        if self.native:
            self._check_native(path)
        grid, image_size = ((1, 1), 1) if self.native else (self.grid, self.image_size)
        counts = (*(self.codebook_sizes or ()), *grid, self.factor, image_size, self.batch_size)
        if not all(_is_count(value) for value in counts) or not self.codebook_sizes or len(grid) != 2:
            raise ValueError(
                f"{path} has codebook_sizes={short(self.codebook_sizes)}, grid={short(self.grid)}, "
                f"factor={short(self.factor)}, image_size={short(self.image_size)}, "
                f"batch_size={short(self.batch_size)}: all must be integers above 0"
            )
        if sum(self.codebook_sizes) > 2**63:
            raise ValueError(f"{path} has codebook_sizes={short(self.codebook_sizes)}, too many for one vocabulary")
        if type(self.views) is not str or self.views not in VIEWS:
            raise ValueError(f"{path} has views={short(self.views)}, not one of {', '.join(VIEWS)}")
        codes = self.num_views * len(self.codebook_sizes) * math.prod(grid)
        if codes > MAX_CODES:
            raise ValueError(f"{path} has {codes:,} codes of an image, more than {MAX_CODES:,}")
        if self.grains is not None and (
            type(self.grains) is not int
            or not 2 <= self.grains <= MAX_GRAINS
            or self.order not in ("region", "row")
            or any(side % 2 ** (self.grains - 1) for side in self.grid)
        ):
            raise ValueError(
                f"{path} has grains={short(self.grains)} in the order {short(self.order)} on a grid of {self.grid}"
            )
        self._check_scales(path)
        self._check_parts(path)
        texts = {name: getattr(self, name) for name in ("tokenizer", "tokenizer_sha256", "crop", "dtype", "device")}
        wrong = [name for name, value in texts.items() if type(value) is not str]
        if self.rate is not None and not (type(self.rate) in (int, float) and 0 <= self.rate <= 1):
            wrong.append("rate")
        if self.ten_crop_size is not None and not _is_count(self.ten_crop_size):
            wrong.append("ten_crop_size")
        if self.classes is not None and not all(type(name) is str for name in self.classes):
            wrong.append("classes")
        if self.tile is not None and not (self.native and _is_count(self.tile)):
            wrong.append("tile")
        if self.overlap is not None and not (self.tile and (self.overlap == 0 or _is_count(self.overlap))):
            wrong.append("overlap")
        if wrong:
            raise ValueError(f"{path} has {wrong[0]}={short(getattr(self, wrong[0]))}")
        if len(self.tokenizer_sha256) != 64:
            raise ValueError(f"{path} has tokenizer_sha256={short(self.tokenizer_sha256)}, which is not a SHA-256")

    def _check_native(self, path: Path) -> None:
        """Refuses what images of native size cannot have: one grid, several in a batch, granularities, scales."""
        for name in ("grid", "image_size", "grains", "scales", "rate", "ten_crop_size"):
            if getattr(self, name) is not None:
                raise ValueError(f"{path} has {name}={short(getattr(self, name))} with crop={NATIVE}, not null")
        if self.views == "ten" or self.batch_size != 1:
            raise ValueError(
                f"{path} has views={short(self.views)} and batch_size={short(self.batch_size)} with crop={NATIVE}, not "
                "none or flip, and 1"
            )

    def _check_scales(self, path: Path) -> None:
        """Refuses scales that do not make up the positions."""
        if self.scales is None:
            return
        pairs = all(type(own) is tuple and len(own) == 2 and all(map(_is_count, own)) for own in self.scales)
        if not pairs or not 2 <= len(self.scales) <= MAX_SCALES or self.layout.positions != self.grid or self.grains:
            raise ValueError(
                f"{path} has scales={short(self.scales)}: they must be 2 to {MAX_SCALES} grids (h, w), and together "
                f"the positions {self.grid}, without grains"
            )

    def _check_parts(self, path: Path) -> None:
        """Refuses parts of codes that are not those of the vocabulary."""
        if self.split_bits is None:
            return
        counts = len(self.split_bits) > 1 and all(map(_is_count, self.split_bits)) and sum(self.split_bits) <= MAX_BITS
        codebooks = len(self.codebook_sizes) // max(len(self.split_bits), 1)
        if not counts or self.codebook_sizes != tuple(2**own for own in self.split_bits) * codebooks:
            raise ValueError(
                f"{path} has split_bits={short(self.split_bits)}, which are not the bits of "
                f"codebook_sizes={short(self.codebook_sizes)}"
            )


def _joined(bits: Sequence[int]) -> str:
    return " ".join(map(str, bits))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= 2**62
