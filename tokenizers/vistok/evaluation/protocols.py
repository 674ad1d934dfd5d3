"""What a score depends on besides the tokenizer and the images, as a value with a name and a hash."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from vistok.images.evaluation_crops import CROPS
from vistok.metrics.distances import DISTANCES

CHOICES = {
    "crop": tuple(CROPS),
    "rounding": ("nearest", "truncate"),
    "file": ("png", "jpeg75"),
    "frechet": ("uint8", "float", "clean"),
    "lpips": ("uint8", "float"),
}


@dataclass(frozen=True)
class Protocol:
    """How an evaluator of the field cuts, rounds and compares images.

    Args:
        crop: From an image file to the square that a tokenizer sees; see ``evaluation_crops.CROPS``.
        rounding: From [-1, 1] to 8 bits. ``nearest`` level: ``127.5 x + 128`` truncated is the same function.
            ``truncate`` is ``255 (x + 1) / 2`` truncated, on the images too, some of whose levels it moves.
        file: What images and reconstructions go through before the Fréchet distance: ``png`` (which loses nothing) or
            ``jpeg75``, Pillow's JPEG at its default quality.
        frechet: What its network sees: ``uint8`` images, resized as TensorFlow 1 did (torch-fidelity); ``float`` ones,
            never rounded, resized by ``F.interpolate`` (pytorch-fid); ``clean``, 8-bit ones resized by Pillow's bicubic
            filter in float (clean-fid). The resize is Inception's: other networks have their own.
        lpips: Whether LPIPS sees the 8-bit images or the unrounded ones.
        distances: Names of the distances of each image; see ``metrics.distances.DISTANCES``.

    Raises:
        ValueError: A choice that there is not.
    """

    crop: str = "adm"
    rounding: str = "nearest"
    file: str = "png"
    frechet: str = "uint8"
    lpips: str = "uint8"
    distances: Sequence[str] = ("psnr", "ssim_gauss11")

    def __post_init__(self) -> None:
        object.__setattr__(self, "distances", tuple(self.distances))
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"protocol: {name}={getattr(self, name)} must be one of {', '.join(known)}")
        unknown = set(self.distances) - DISTANCES.keys()
        if unknown:
            raise ValueError(f"protocol: there are no distances {sorted(unknown)}, only {sorted(DISTANCES)}")

    @property
    def hash(self) -> str:
        """Eight digits of the SHA-256 of all its choices: equal for equal protocols of whatever name."""
        return digest(asdict(self))

    @property
    def view(self) -> tuple[str, str, str]:
        """What the Fréchet distance's network is shown, on top of the crop: rounding, file and input."""
        return (self.rounding, self.file, self.frechet)


def digest(content: dict) -> str:
    """Eight hexadecimal digits of the SHA-256 of plain content as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def differences(one: dict, other: dict) -> str:
    """Where two descriptions differ, for a message."""
    return ", ".join(f"{k} is {one.get(k)!r}, not {other.get(k)!r}" for k in other if one.get(k) != other.get(k))
