"""Pretrained networks of others (LPIPS trunks, Inception, teachers), downloaded by the libraries that publish them."""

import hashlib
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Self

from vistok.files import sha256_of
from vistok.untrusted.torch_files import read_tensors

SILENCE = 60.0  # timeout in seconds for a silent server


class WeightsUnavailable(RuntimeError):
    """Pretrained weights are neither on disk nor downloadable; the message names a remedy."""


class WeightHash(NamedTuple):
    """Identity of a network's weights.

    Attributes:
        sha256: Hash of the tensors, by ``tensor_hash``.
        official: True for the published weights that a network's plain name stands for.
    """

    sha256: str
    official: bool

    def name(self, network: str) -> str:
        """Name of a network with these weights: for other than official ones with eight digits of their hash."""
        return network if self.official else f"{network}_{self.sha256[:8]}"


def tensor_hash(tensors: Mapping[str, Tensor], beside: str = "") -> str:
    """SHA-256 of names, dtypes, shapes and values of tensors: equal on every device and in every file format.

    Args:
        tensors: The tensors, by name.
        beside: Further text that is hashed.
    """
    sha = hashlib.sha256(beside.encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()


def torchvision_official(model: str, weights: str | Path) -> bool:
    """True if a network has torchvision's default weights, by the SHA-256 of which their file's name has eight digits.

    Args:
        model: Name of the model in torchvision.
        weights: ``pretrained`` for the file in torch's cache, ``random``, or the path of a file.
    """
    from torchvision import models

    if weights == "random":
        return False
    url = models.get_model_weights(model).DEFAULT.url
    name = url.rpartition("/")[2]
    file = Path(torch.hub.get_dir(), "checkpoints", name) if weights == "pretrained" else Path(weights)
    digits = re.search(r"-([0-9a-f]{8,})\.", name)
    return digits is not None and file.is_file() and sha256_of(file).startswith(digits[1])


def unchanged(images: Tensor) -> Tensor:
    return images


class FrozenNetwork(nn.Module):
    """Network that is never trained and stays in evaluation mode whatever the mode of its parent.

    Attributes:
        view: Function from images (b, c, H, W) to the three channels (b, 3, H, W) that the network looks at; training
            sets it for images of other than three channels.
    """

    view: Callable[[Tensor], Tensor] = staticmethod(unchanged)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def freeze(self) -> None:
        """Freezes all parameters; called at the end of a constructor."""
        self.eval().requires_grad_(False)


def timm_network(
    model: str, weights: str | Path = "pretrained", classifier: bool = False, channels: int = 3
) -> tuple[Any, dict[str, Any]]:
    """Builds a timm model; returns it with timm's settings for its images: ``input_size``, ``mean``, ``std``.

    Args:
        model: Name of the model in timm.
        weights: ``pretrained`` downloads timm's weights, ``random`` draws the same random weights every time; any other
            value is the path of a state dict in timm's layout.
        classifier: True keeps the model's classifier, so that its output is logits.
        channels: Channels of its input; for 1 timm sums the weights of red, green and blue.

    Raises:
        WeightsUnavailable: The download failed. Without a network huggingface_hub first retries for up to a minute;
            ``HF_HUB_OFFLINE=1`` avoids that.
        ValueError: timm has no such model or weights, or the file does not fit.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"{model} needs timm: pip install 'vistok[timm]'") from error

    if not timm.is_model(model):
        raise ValueError(f"timm has no model {model!r}")
    with fixed_seed(), downloading(f"timm's weights of {model}", "give the path of a file with them"):
        try:
            headless = {} if classifier else {"num_classes": 0}
            network = timm.create_model(model, weights == "pretrained", in_chans=channels, **headless)
        except RuntimeError as error:  # no such tag, or no weights for this model
            raise ValueError(f"timm cannot make {model!r} with weights={weights!r}: {error}") from error
    if weights not in ("pretrained", "random"):
        classifiers = () if classifier else network.pretrained_cfg.get("classifier") or ()
        classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
        dropped = tuple(f"{name}." for name in classifiers)
        load_state(network, {k: v for k, v in read_state(weights).items() if not k.startswith(dropped)}, weights)
    return network, timm.data.resolve_model_data_config(network)


def torchvision_features(
    model: str, weights: str | Path = "pretrained", channels: int = 3
) -> tuple[nn.Sequential, Any]:
    """Builds the ``features`` of a torchvision convnet, layer by layer.

    Args:
        model: Name of the model in torchvision: AlexNet, VGG, SqueezeNet, DenseNet, MobileNet, EfficientNet and
            ConvNeXt have ``features``.
        weights: ``pretrained`` downloads torchvision's weights, ``random`` draws the same random weights every time;
            any other value is the path of a state dict in torchvision's layout, of which ``features.*`` is read. For
            MobileNetV2 the older layout with flat blocks is read too.
        channels: Channels of its input; for other than 3 torchvision has no weights.

    Returns:
        The network, and torchvision's transforms with ``crop_size``, ``mean`` and ``std``.

    Raises:
        WeightsUnavailable: The download failed.
        ValueError: torchvision has no such convnet or weights, or the file does not fit.
    """
    from torchvision import models

    if model not in models.list_models(module=models):
        raise ValueError(f"torchvision has no classifier {model!r}")
    if weights == "pretrained" and channels != 3:
        raise ValueError(f"torchvision has no weights of {model} for channels={channels}: give the path of a file")
    published = models.get_model_weights(model).DEFAULT
    with fixed_seed(), downloading(f"torchvision's weights of {model}", "give the path of a file with them"):
        network = models.get_model(model, weights=published if weights == "pretrained" else None, progress=False)
        if channels != 3:
            _change_input(network, channels)
    parts = dict(network.named_children())
    if not {"features", "classifier"} <= parts.keys():
        raise ValueError(f"torchvision's {model} is not a convnet with `features`; timm may have it")
    features = parts["features"]
    if weights not in ("pretrained", "random"):
        state = {k.removeprefix("features."): v for k, v in read_state(weights).items() if k.startswith("features.")}
        load_state(features, _nest(state) if model == "mobilenet_v2" else state, weights)
    return features, published.transforms()


def _change_input(network: nn.Module, channels: int) -> None:
    """Gives the first convolution ``channels`` input channels, with random weights."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.in_channels = channels
    first.weight = nn.Parameter(torch.empty(first.out_channels, channels, *first.kernel_size))
    nn.init.kaiming_normal_(first.weight)


def _nest(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Converts MobileNetV2's flat layout (``1.conv.3.weight``) to torchvision's, where conv and norm are nested.

    The layers are the same; a state dict in torchvision's layout is returned unchanged.
    """
    without_expansion = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
    with_expansion = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
    if "1.conv.4.weight" not in state:
        return state
    nested = {}
    for key, value in state.items():
        block, _, rest = key.partition(".conv.")
        if rest:
            layer, _, parameter = rest.partition(".")
            table = with_expansion if f"{block}.conv.7.weight" in state else without_expansion
            key = f"{block}.conv.{table.get(layer, layer)}.{parameter}"
        nested[key] = value
    return nested


@contextmanager
def downloading(what: str, instead: str) -> Iterator[None]:
    """Raises ``WeightsUnavailable`` with the name of the weights if a download within the block fails.

    Args:
        what: Name of the weights, for the message.
        instead: Remedy without a network, for the message.
    """
    former = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)  # torch.hub sets none of its own
    try:
        yield
    except OSError as error:  # urllib's URLError and requests' exceptions are OSErrors
        raise WeightsUnavailable(f"{what} could not be downloaded ({error}); {instead}") from error
    finally:
        socket.setdefaulttimeout(former)


@contextmanager
def fixed_seed() -> Iterator[None]:
    """Seeds random weights with a constant; the caller's random numbers are unaffected."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Reads a state dict from a ``.safetensors`` or torch file without executing any of its code.

    Raises:
        ValueError: The file has other content, or is damaged.
    """
    try:
        state, others = read_tensors(path)
        if others:
            raise ValueError(f"it has objects of {few(list(others))}")
    except ValueError as error:
        raise ValueError(f"{path} is not a file of plain tensors: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is not a state dict: names and their tensors")
    return state


def load_state(network: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Loads weights stored in any precision; ``ValueError`` names missing and unexpected keys."""
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes
        raise ValueError(f"{path} does not fit: {error}") from error
    if missing or unexpected:
        raise ValueError(f"{path} does not fit: missing keys {few(missing)}, unexpected keys {few(unexpected)}")


def few(names: list[str], most: int = 4) -> str:
    """First names of a list, and the number of further ones, for messages."""
    return f"{names[:most]}" + f" and {len(names) - most} more" * (len(names) > most)
