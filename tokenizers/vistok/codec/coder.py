"""Codec: a tokenizer, codebooks of several sizes for it, their statistics, and optionally a concealment model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vistok.codec import concealment, packets, range_coder, stream
from vistok.codec.codewords import codewords_of
from vistok.codec.filler import Filler
from vistok.codec.frequencies import Statistics
from vistok.codec.reduction import tables_of
from vistok.files import write_json
from vistok.formats import native
from vistok.images.ranges import to_float, to_uint8
from vistok.processes.patience import PATIENCE, within
from vistok.quantizers import Quantizer
from vistok.tokenizer import Tokenizer, fingerprint
from vistok.untrusted.tensor_files import write_safetensors

FORMAT = 1
CONFIG, TABLES, FILLER = "codec.json", "codec.safetensors", "filler.safetensors"
FILLER_SIZES = ("width", "depth", "num_heads", "window")
MAX_RATES = 256


class Rate(NamedTuple):
    """Codebooks of one size, with their statistics."""

    head: Quantizer  # head after ``with_codewords``
    statistics: tuple[Statistics, ...]  # one for each codebook

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codewords in each codebook."""
        return self.head.codebook_sizes

    @property
    def counts(self) -> list[Tensor]:
        """Approximate counts of the codewords in each codebook, (n,)."""
        return [torch.from_numpy(s.frequencies) for s in self.statistics]


class Codec:
    """Compresses images to bytes and decompresses them.

    Args:
        tokenizer: Tokenizer for inference; its own codebooks need not be among the rates.
        rates: Codebooks with their statistics, the largest first.
        filler: Concealment model for lost codes; None uses the mean of neighbours.

    Raises:
        ValueError: The codes of the tokenizer's head do not determine the latent.
    """

    def __init__(self, tokenizer: Tokenizer, rates: Sequence[Rate], filler: Filler | None = None):
        codewords_of(tokenizer.quantizer)
        if tokenizer.grid(2 * tokenizer.factor, 3 * tokenizer.factor) != (2, 3):
            f, name = tokenizer.factor, type(tokenizer.encoder).__name__
            raise ValueError(f"a codec stores a grid of one position for each {f}x{f} pixels, unlike a {name}")
        if tokenizer.channels != 3 or tokenizer.value_range is not None:
            kind = f"images of {tokenizer.channels} channels" if tokenizer.channels != 3 else "values of another range"
            raise ValueError(f"a codec compresses 8-bit RGB images, and this tokenizer is for {kind}")
        if not 1 <= len(rates) <= MAX_RATES:
            raise ValueError(f"a codec has from 1 to {MAX_RATES} rates, not {len(rates)}")
        self.tokenizer, self.rates, self.filler = tokenizer, list(rates), filler
        self.id = bytes.fromhex(fingerprint(tokenizer, tensors_of(rates)))

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Grid (h, w) of an image's codes."""
        return -(-height // self.tokenizer.factor), -(-width // self.tokenizer.factor)

    @torch.no_grad()
    def encode(self, image: Tensor, rate: int = 0) -> Tensor:
        """Encodes an image (3, H, W) uint8 of any size to codes (k, h, w).

        Border pixels are repeated where a side is not a multiple of the factor.
        """
        height, width = image.shape[-2:]
        h, w = self.grid(width, height)
        f = self.tokenizer.factor
        pixels = F.pad(to_float(image[None]), (0, w * f - width, 0, h * f - height), mode="replicate")
        return self.rates[rate].head.encode(self.tokenizer.encode(pixels)).codes[0]

    @torch.no_grad()
    def decode(self, latent: Tensor, width: int, height: int) -> Tensor:
        """Decodes a latent (d, h, w) to an image (3, height, width) uint8."""
        return to_uint8(self.tokenizer.decode(latent[None]))[0, :, :height, :width]

    def compress(
        self,
        image: Tensor,
        rate: int = 0,
        coding: str = "best",
        num_packets: int = 1,
        max_pixels: int = stream.MAX_PIXELS,
    ) -> bytes:
        """Compresses an image to the bytes of a file.

        Args:
            image: (3, H, W) uint8.
            rate: Index of the codebooks; 0 is the largest.
            coding: ``fixed``, ``static``, ``context``, or ``best``, the one with the fewest bytes.
            num_packets: Number of parts of the file, any of which may be lost; more than 1 excludes ``context``.
            max_pixels: Largest accepted number of pixels.

        Raises:
            ValueError: An argument is out of range.
        """
        height, width = image.shape[-2:]
        if width * height > max_pixels:
            raise ValueError(f"the image has {width}x{height} pixels, more than max_pixels={max_pixels}")
        if not 0 <= rate < len(self.rates):
            raise ValueError(f"rate {rate} must be from 0 to {len(self.rates) - 1}")
        return self.write(self.encode(image, rate).cpu().numpy(), width, height, rate, coding, num_packets)

    def write(
        self, codes: np.ndarray, width: int, height: int, rate: int, coding: str = "best", num_packets: int = 1
    ) -> bytes:
        """Writes the codes (k, h, w) of an image to the bytes of a file; see ``compress``."""
        h, w = self.grid(width, height)
        if not 1 <= num_packets <= min(packets.MOST, h * w):
            raise ValueError(f"packets={num_packets} must be from 1 to {min(packets.MOST, h * w)} for {h}x{w} codes")
        allowed = [name for name in range_coder.CODINGS if num_packets == 1 or name != "context"]
        if coding != "best" and coding not in allowed:
            raise ValueError(f"coding must be best or one of {', '.join(allowed)} here, not {coding!r}")
        statistics = self.rates[rate].statistics
        owner = packets.packet_of(h, w, num_packets)
        parts = [codes] if num_packets == 1 else [codes[:, owner == i] for i in range(num_packets)]
        files = []
        for name in allowed if coding == "best" else [coding]:
            number = range_coder.CODINGS[name]
            header = stream.StreamHeader(self.id[:4], width, height, rate, number)
            files.append(stream.pack(header, [range_coder.encode(part, statistics, number) for part in parts]))
        return min(files, key=len)

    def read(
        self, data: bytes, max_pixels: int = stream.MAX_PIXELS
    ) -> tuple[stream.StreamHeader, np.ndarray, np.ndarray]:
        """Reads a file: header, codes (k, h, w) with 0 for lost ones, and the received positions (h, w) bool.

        Raises:
            ValueError: The file is of another codec or not a compressed image, or its header is damaged.
        """
        header, received = stream.unpack(data, max_pixels)
        if header.codec != self.id[:4]:
            raise ValueError(f"it was compressed with the codec {header.codec.hex()}, this one is {self.id[:4].hex()}")
        h, w = self.grid(header.width, header.height)
        several = len(received) > 1
        if (
            header.rate >= len(self.rates)
            or header.coding not in range_coder.CODINGS.values()
            or (several and header.coding == range_coder.CONTEXT)
            or len(received) > h * w
        ):
            raise ValueError(f"its header is invalid: {header}, {len(received)} packets")
        statistics = self.rates[header.rate].statistics
        codes = np.zeros((len(statistics), h, w), dtype=np.int64)
        owner = packets.packet_of(h, w, len(received))
        known = np.zeros((h, w), dtype=bool)
        for i, packet in enumerate(received):
            if packet is None:
                continue
            own = owner == i
            shape = (int(own.sum()),) if several else (h, w)
            part = range_coder.decode(packet, shape, statistics, header.coding)
            codes[:, own] = part.reshape(len(statistics), -1)
            known |= own
        return header, codes, known

    def decompress(self, data: bytes, conceal: bool = False, max_pixels: int = stream.MAX_PIXELS) -> Tensor:
        """Decompresses the bytes of a file to its image (3, H, W) uint8.

        Args:
            data: The bytes.
            conceal: True fills codes of lost or damaged packets; False raises for them.
            max_pixels: Largest accepted number of pixels.

        Raises:
            ValueError: The file is not a compressed image, damaged, or of another codec.
        """
        header, codes, known = self.read(data, max_pixels)
        if not known.all() and not (conceal and known.any()):
            lost = 1 - known.mean()
            remedy = "" if not known.any() else "; --conceal predicts them"
            raise ValueError(f"it is damaged or truncated: {lost:.0%} of its codes are lost{remedy}")
        return self.decode(self.latent(codes, known, header.rate), header.width, header.height)

    def latent(self, codes: np.ndarray, known: np.ndarray, rate: int) -> Tensor:
        """Latent (d, h, w) of codes (k, h, w), concealed where ``known`` (h, w) is False."""
        head = self.rates[rate].head
        latent, received = head.lookup(torch.from_numpy(codes)[None])[0], torch.from_numpy(known)
        if self.filler is None:
            return concealment.neighbour_mean(latent, received)
        return concealment.fill(self.filler, latent, received, tables_of(head), self.rates[rate].counts)

    def save(self, folder: Path, about: dict[str, Any] | None = None) -> None:
        """Writes the tokenizer as an exported folder, with the codec beside it."""
        native.save(self.tokenizer, folder, about)
        config = {"format": FORMAT, "id": self.id.hex(), "rates": [list(rate.sizes) for rate in self.rates]}
        write_safetensors(tensors_of(self.rates), folder / TABLES)
        write_json(config, folder / CONFIG)
        if self.filler is not None:
            save_filler(self.filler, folder)


def tensors_of(rates: Sequence[Rate]) -> dict[str, Tensor]:
    """All tables by their names in the file."""
    named = {}
    for i, rate in enumerate(rates):
        for j, (table, statistics) in enumerate(zip(codewords_of(rate.head), rate.statistics, strict=True)):
            named[f"{i}.{j}.table"] = table.detach().cpu().contiguous()
            arrays = statistics._asdict()
            named |= {f"{i}.{j}.{name}": torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    return named


def save_filler(filler: Filler, folder: Path) -> None:
    """Writes a concealment model into a codec's folder."""
    sizes = {name: str(getattr(filler, name)) for name in FILLER_SIZES}
    write_safetensors(filler.state_dict(), folder / FILLER, sizes)


def decompress_file(codec: Codec, path: Path, conceal: bool = False, max_pixels: int = stream.MAX_PIXELS) -> Tensor:
    """Decompresses a file to an image (3, H, W) uint8. Arguments as for ``Codec.decompress``.

    Raises:
        ValueError: The file is not a compressed image, damaged, or of another codec.
    """
    try:
        return codec.decompress(within(PATIENCE, path.read_bytes), conceal, max_pixels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
