"""Protocols: everything that a score depends on besides tokenizer and images, as a value with a name and a hash."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from vistok.evaluation.preparation import Preparation
from vistok.images.evaluation_crops import CROPS, NATIVE
from vistok.metrics.distances import DISTANCES
from vistok.metrics.inception_score import SPLITS

CHOICES = {
    "crop": (*CROPS, NATIVE),
    "decoding": ("upright", "stored"),
    "rounding": ("nearest", "truncate", "truncate_reconstructions"),
    "pixels": ("uint8", "float"),
    "file": ("png", "jpeg75"),
    "frechet": ("uint8", "float", "clean"),
    "lpips": ("uint8", "float", "doubled"),
    "inception_score": (None, *SPLITS),
}


@dataclass(frozen=True)
class Protocol:
    """The way in which a published evaluator crops, rounds and compares images.

    Args:
        crop: Way from an image file to the square that a tokenizer reconstructs; see ``evaluation_crops.CROPS``. With
            ``native`` images keep their own size.
        decoding: Conversion of files to RGB. ``upright`` applies EXIF's orientation and composites transparency on
            white; ``stored`` does neither, as ``Image.open(file).convert("RGB")``. See ``read_rgb``.
        size: Side in pixels at which images are compared, if reconstructions are resized before; None for that of the
            tokenizer's input. See ``Preparation``.
        rounding: Conversion from [-1, 1] to 8 bits. ``nearest`` rounds to the nearest level; ``127.5 x + 128``
            truncated is the same function. ``truncate`` is ``255 (x + 1) / 2`` truncated, applied to the images too, 95
            of whose levels it changes. ``truncate_reconstructions`` is ``127.5 (x + 1)`` truncated, and leaves images
            unchanged.
        pixels: Input of all distances but LPIPS: ``uint8``, or ``float`` for unrounded images.
        file: File format through which images and reconstructions pass before the Fréchet distance: ``png`` (lossless)
            or ``jpeg75``, Pillow's JPEG at its default quality.
        frechet: Input of the Fréchet distance's network: ``uint8`` images, resized as TensorFlow 1 did
            (torch-fidelity); ``float`` images, never rounded, resized by ``F.interpolate`` (pytorch-fid); ``clean``,
            8-bit images resized by Pillow's bicubic filter in float (clean-fid). The resize applies to Inception; other
            networks have their own.
        lpips: Input of LPIPS: ``uint8`` for the 8-bit images, ``float`` for unrounded ones, ``doubled`` for 2 x - 1 of
            unrounded ones, the reconstructions unclamped: pyiqa's LPIPS, given images in [-1, 1] instead of [0, 1].
        inception_score: Division of the images for the Inception score, see ``inception_score.SPLITS``; None omits the
            score.
        distances: Names of the per-image distances; see ``metrics.distances.DISTANCES``.

    Raises:
        ValueError: A choice is unknown, or native images have a size to be resized to.
    """

    crop: str = "adm"
    decoding: str = "upright"
    size: int | None = None
    rounding: str = "nearest"
    pixels: str = "uint8"
    file: str = "png"
    frechet: str = "uint8"
    lpips: str = "uint8"
    inception_score: str | None = "permutation"
    distances: Sequence[str] = ("psnr", "ssim_gauss11")

    def __post_init__(self) -> None:
        object.__setattr__(self, "distances", tuple(self.distances))
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                choices = ", ".join("null" if own is None else own for own in known)
                raise ValueError(f"protocol: {name}={getattr(self, name)} must be one of {choices}")
        if self.size is not None and self.size < 1:
            raise ValueError(f"protocol: size={self.size} must be at least 1 pixel")
        if self.size is not None and self.crop == NATIVE:
            raise ValueError(f"protocol: size={self.size} needs square crops, not crop={NATIVE}")
        unknown = set(self.distances) - DISTANCES.keys()
        if unknown:
            raise ValueError(f"protocol: unknown distances {sorted(unknown)}; known are {sorted(DISTANCES)}")

    @property
    def hash(self) -> str:
        """First eight digits of the SHA-256 of all choices: equal for equal protocols of any name."""
        return digest(asdict(self))

    @property
    def preparation(self) -> Preparation:
        return Preparation(self.crop, self.decoding, self.size)

    @property
    def view(self) -> tuple[str, str, str]:
        """Everything but the preparation that determines the input of the feature networks: rounding, file, input."""
        return (self.rounding, self.file, self.frechet)


def digest(content: dict) -> str:
    """First eight hexadecimal digits of the SHA-256 of plain content as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def differences(one: dict, other: dict) -> str:
    """Differences between two descriptions, for a message."""
    return ", ".join(f"{k} is {one.get(k)!r}, not {other.get(k)!r}" for k in other if one.get(k) != other.get(k))
