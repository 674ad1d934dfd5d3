"""LPIPS, the perceptual distance (Zhang et al., arXiv:1801.03924), from the authors' package ``lpips``."""

import contextlib
import functools
import io
import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vistok.kernels import normalised_distances
from vistok.pretrained import FrozenNetwork, WeightHash, downloading, tensor_hash, torchvision_official

TRUNKS = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}  # torchvision's names
LINEAR_SHA256 = {  # of the linear layers in lpips 0.1, by tensor_hash
    "vgg": "29111e613b941aa54ea21b223695ac0279e99b05d1eeff15a6fa087ffda66bad",
    "alex": "e76b153fe38d4393c0829f7cc213f7fb2aeabd5a45cb6cfd0cceb8a1bfea8a93",
    "squeeze": "376fe1cbfc781dc4f3e6e4b067f3e70c25f27bd8d2574459555df915a4bfdd5c",
}


class LPIPS(FrozenNetwork):
    """Mean LPIPS v0.1 of images (b, 3, H, W) in [-1, 1]; frozen, and always in evaluation mode.

    The linear heads contain dropout, which a parent's ``train()`` would switch on; ``train`` is therefore ignored.
    ``distance`` is the package's own module, which metrics call. The loss has its numbers but not its tensors: features
    of the images are computed without gradients, and compared by ``normalised_distances``.

    Args:
        net: Trunk: ``vgg`` (the usual training loss), ``alex`` (the usual metric) or ``squeeze``.
        weights: ``pretrained`` (torchvision's ImageNet trunk, downloaded at first use), ``random`` (for debugging: the
            value is meaningless), or the path of torchvision's state dict of the trunk.

    Raises:
        WeightsUnavailable: The trunk is not in torch's cache and cannot be downloaded.
        ValueError: ``net`` is unknown, or the file does not fit it.
    """

    def __init__(self, net: Literal["vgg", "alex", "squeeze"] = "vgg", weights: str = "pretrained"):
        super().__init__()
        if net not in ("vgg", "alex", "squeeze"):
            raise ValueError(f"net must be vgg, alex or squeeze, not {net!r}")
        self.net, self.weights = net, weights
        self.distance: Any = _pretrained(net) if weights == "pretrained" else _untrained(net)
        if weights not in ("pretrained", "random"):
            _load_trunk(self.distance.net, net, weights)
        self.freeze()

    def forward(self, reconstruction: Tensor, images: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.features(images)
        weights = [head.model[-1].weight for head in self.distance.lins]
        return normalised_distances(self.features(reconstruction), wanted, weights).mean()

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps of the trunk that are compared, (b, c, h, w) each, of images (b, 3, H, W) in [-1, 1]."""
        return self.distance.net(self.distance.scaling_layer(self.view(images)))

    @functools.cached_property
    def weight_hash(self) -> WeightHash:
        """Identity of the weights of trunk and linear layers; official are torchvision's and the package's."""
        state = self.distance.state_dict()
        linear = {name: own for name, own in state.items() if name.startswith("lin") and not name.startswith("lins.")}
        official = tensor_hash(linear) == LINEAR_SHA256[self.net] and torchvision_official(
            TRUNKS[self.net], self.weights
        )
        return WeightHash(tensor_hash(state), official)


def _pretrained(net: str) -> nn.Module:
    trunk = {"vgg": "VGG-16", "alex": "AlexNet", "squeeze": "SqueezeNet 1.1"}[net]
    with downloading(
        f"LPIPS's {trunk} trunk",
        "put torchvision's file into torch's cache (TORCH_HOME/hub/checkpoints) or pass its path as `weights`",
    ):
        return _quietly(net, pnet_rand=False)


def _untrained(net: str) -> nn.Module:
    return _quietly(net, pnet_rand=True)


def _quietly(net: str, **arguments) -> nn.Module:
    """Builds the package's network without its printed lines and torchvision's warnings about old argument names."""
    import lpips

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        return lpips.LPIPS(net=net, verbose=False, **arguments)


def _load_trunk(trunk: nn.Module, net: str, path: str) -> None:
    """Copies torchvision's ``features.{i}.*``; the package keeps each layer's number i inside its slices."""
    source = {
        key.removeprefix("features."): tensor
        for key, tensor in torch.load(path, weights_only=True, map_location="cpu").items()
        if key.startswith("features.")
    }
    # slice3.10.weight is layer 10; squeezenet's fire modules have names below it
    own = {name.split(".", 1)[1]: parameter for name, parameter in trunk.named_parameters()}
    missing = [key for key in own if key not in source or source[key].shape != own[key].shape]
    if missing:
        raise ValueError(f"{path} does not fit the {net} trunk: features.{missing[0]} is missing or of another shape")
    with torch.no_grad():
        for key, parameter in own.items():
            parameter.copy_(source[key])
