"""ST-LPIPS, the shift-tolerant perceptual distance (Ghildyal and Liu, arXiv:2207.13686), in its AlexNet form."""

from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.kernels import normalised_distances
from vistok.pretrained import FrozenNetwork, WeightsUnavailable, fixed_seed, load_state, read_state

PACKAGE, FILE = "stlpips_pytorch", "weights/vST0.0/alex_shift_tolerant.pth"


class STLPIPS(FrozenNetwork):
    """Mean ST-LPIPS of images (b, 3, H, W) in [-1, 1], H and W at least 32; frozen.

    Trunk and heads were trained together on human judgements: this is not LPIPS and has no ImageNet features, so its
    values should be called ST-LPIPS. Its file is small and needs no network access.

    Args:
        weights: Path of the authors' state dict, in any precision; ``pretrained`` reads it from the installed package
            ``stlpips_pytorch``, whose code is not executed; ``random`` is for debugging.

    Raises:
        WeightsUnavailable: ``pretrained`` is set and the package is not installed.
        ValueError: The file does not fit.
    """

    shift: Tensor  # (3, 1, 1)
    scale: Tensor

    def __init__(self, weights: str | Path = "pretrained"):
        super().__init__()
        with fixed_seed():
            self.trunk, self.heads = nn.ModuleList(stages()), nn.ModuleList(head(c) for c in (64, 192, 384, 256, 256))
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))
        if weights != "random":
            path = package_file() if weights == "pretrained" else Path(weights)
            load_state(self, renamed(read_state(path), path), path)
        self.freeze()

    def forward(self, reconstruction: Tensor, images: Tensor) -> Tensor:
        return self.distance(self.view(reconstruction), self.view(images)).mean()

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """ST-LPIPS of each pair, (b,) in float32; gradients reach ``a`` alone."""
        with torch.no_grad():
            wanted = self.features(b)
        weights = [cast(Tensor, head.weight) for head in self.heads]
        return normalised_distances(self.features(a), wanted, weights)

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps of the trunk that are compared, (b, c, h, w) each."""
        maps = [(images - self.shift) / self.scale]
        for stage in self.trunk:
            maps.append(stage(maps[-1]))
        return maps[1:]


class ReflectedBlur(nn.Module):
    """Filters every channel by [1, 2, 1] in both directions with stride 2; borders are reflected by 2."""

    kernel: Tensor  # (1, 1, 3, 3)

    def __init__(self):
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", torch.outer(row, row)[None, None] / 16, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=x.shape[1])


def stages() -> list[nn.Sequential]:
    """AlexNet in five parts, each ending at a map that is compared, with blurs instead of its strides."""
    pool = nn.MaxPool2d(3, stride=1)
    return [
        nn.Sequential(nn.Conv2d(3, 64, 11, padding=2), ReflectedBlur(), nn.ReLU()),
        nn.Sequential(pool, ReflectedBlur(), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
        nn.Sequential(pool, ReflectedBlur(), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]


def head(channels: int) -> nn.Conv2d:
    """Non-negative weights of squared differences."""
    convolution = nn.Conv2d(channels, 1, 1, bias=False)
    nn.init.constant_(convolution.weight, 1 / channels)
    return convolution


def package_file() -> Path:
    """Path of the weights within the package, found without importing it."""
    package = find_spec(PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise WeightsUnavailable(
            f"ST-LPIPS's weights come with the package {PACKAGE}, which is not installed; pip install --no-deps "
            f"{PACKAGE}, or pass the path of {Path(FILE).name} as `weights`"
        )
    return Path(package.submodule_search_locations[0]) / FILE


def renamed(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Renames the authors' tensors to ours; their blur kernels and second copy of the heads are dropped."""
    convolutions = {
        "net.slice1.0": "trunk.0.0",
        "net.slice2.5": "trunk.1.2",
        "net.slice3.9": "trunk.2.2",
        "net.slice4.11": "trunk.3.0",
        "net.slice5.13": "trunk.4.0",
    }
    names = {
        f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in convolutions.items() for kind in ("weight", "bias")
    }
    names |= {f"lin{i}.model.1.weight": f"heads.{i}.weight" for i in range(5)}
    names |= {f"scaling_layer.{name}": name for name in ("shift", "scale")}
    missing = [name for name in names if name not in state]
    if missing:
        raise ValueError(f"{path} does not hold ST-LPIPS's AlexNet: {missing[0]} is missing")
    own = {ours: state[theirs] for theirs, ours in names.items()}
    return own | {name: own[name].reshape(3, 1, 1) for name in ("shift", "scale")}
