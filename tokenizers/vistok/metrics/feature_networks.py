"""Frozen networks that a Fréchet distance compares images by: uint8 (b, 3, H, W) to float32 features (b, d)."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from vistok.pretrained import FrozenNetwork, downloading, fixed_seed, read_state, timm_network, torchvision_features

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # its release's file


class FeatureNetwork(FrozenNetwork):
    """Images to features.

    Attributes:
        name: What a number made with these features is called after.
        dim: Features d of an image.
        only_uint8: Whether images that are not 8-bit are refused.
    """

    name: str
    dim: int
    only_uint8 = False


class Seen(NamedTuple):
    """What Inception makes of images."""

    pool: Tensor  # (b, 2048), for FID
    spatial: Tensor  # (b, 2023), for sFID: 7 channels at 17×17 places
    logits: Tensor  # (b, 1008), without the bias, for the Inception score


class Inception(FeatureNetwork):
    """The Inception of FID (TensorFlow, 2015-12-05) as torch-fidelity ports it: "inception-v3-compat", pool features.

    It resizes images to 299 pixels itself. Norms are part of the convolutions before them and channels come last, which
    is faster than the network as it is published and changes features in their last digits alone; always in float32.

    Args:
        weights: A file with its state dict; None downloads torch-fidelity's. A file other than theirs is a different
            network: it takes its hash into ``name``, and no number made with it is called FID.

    Attributes:
        official: Whether these are the weights that define FID.

    Raises:
        WeightsUnavailable: The download failed.
        ValueError: The file does not fit.
    """

    dim = 2048
    spatial_dim = 7 * 17 * 17

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        from torch_fidelity import feature_extractor_inceptionv3 as fidelity

        if weights is None:
            with downloading("torch-fidelity's Inception", f"get {fidelity.URL_INCEPTION_V3} and give its path"):
                state = torch.hub.load_state_dict_from_url(
                    fidelity.URL_INCEPTION_V3, map_location="cpu", progress=False, check_hash=True, weights_only=True
                )
            digest = INCEPTION_SHA256
        else:
            state = read_state(weights)
            digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
        file = io.BytesIO()  # torch-fidelity unpickles the file it is given, so it is given one of plain tensors
        torch.save(state, file)
        file.seek(0)
        try:
            with fixed_seed():
                self.network = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], file)
        except RuntimeError as error:
            raise ValueError(f"{weights} does not hold torch-fidelity's Inception: {error}") from error
        for layer in cast(Any, self.network).modules():
            if isinstance(layer, fidelity.BasicConv2d):
                layer.conv = fuse_conv_bn_eval(layer.conv, layer.bn)
                setattr(layer, "bn", nn.Identity())  # noqa: B010 a plain assignment is none for a type checker
        self.network.to(memory_format=torch.channels_last)
        self.official = digest == INCEPTION_SHA256
        self.name = "inception" if self.official else f"inception_{digest[:8]}"
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        return self.look(images).pool

    def look(self, images: Tensor, resize: str = "uint8") -> Seen:
        """All that is made of images in one pass.

        sFID's features are ADM's (``mixed_6/conv`` of TensorFlow's graph, the first 7 channels): the block's branch of
        one 1×1 convolution, after its ReLU.

        Args:
            images: (b, 3, H, W) uint8, or of the ``float`` resize float from 0 to 255.
            resize: ``uint8``, ``clean`` or ``float``, as a protocol's ``frechet``.
        """
        x = (_resized(images, resize) - 128) / 128 if resize != "float" else _resized(images, resize) / 127.5 - 1
        x = x.contiguous(memory_format=torch.channels_last)
        for name, layer in self.network.named_children():
            if name == "Mixed_6d":
                spatial = cast(Any, layer).branch1x1(x)[:, :7].flatten(1)
            if name == "fc":
                break
            x = layer(x)
        pool = x.flatten(1)
        return Seen(pool, spatial, pool @ self.network.fc.weight.T)


def _resized(images: Tensor, resize: str) -> Tensor:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    size = (299, 299)
    if resize == "float":
        return F.interpolate(images.float(), size, mode="bilinear", align_corners=False)
    if resize == "clean":  # Pillow's kernel
        return F.interpolate(images.float(), size, mode="bicubic", antialias=True).clamp(0, 255)
    return interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=size, align_corners=False)


class DINOv2(FeatureNetwork):
    """DINOv2's class token (arXiv:2304.07193), as torch-fidelity extracts it: images resized to 224 pixels.

    Args:
        model: ``vit-s-14``, ``vit-b-14``, ``vit-l-14`` or ``vit-g-14``. torch.hub downloads its code and weights, or
            takes them from its cache (``TORCH_HOME``).

    Raises:
        WeightsUnavailable: The download failed.
        ValueError: There is no such model.
    """

    only_uint8 = True
    dims = {"vit-s-14": 384, "vit-b-14": 768, "vit-l-14": 1024, "vit-g-14": 1536}

    def __init__(self, model: str):
        super().__init__()
        from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

        if model not in self.dims:
            raise ValueError(f"dinov2={model} must be one of {', '.join(self.dims)}")
        with fixed_seed(), downloading(f"DINOv2's {model}", "put facebookresearch/dinov2 into torch.hub's cache"):
            self.network = FeatureExtractorDinoV2(f"dinov2-{model}", ["dinov2"])
        self.name, self.dim = f"dinov2_{model}", self.dims[model]
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[0]


class TimmFeatures(FeatureNetwork):
    """A timm model without its classifier, on images resized to its input (bicubic, antialiased, not cropped).

    Args:
        model: Its name in timm.
        weights: ``pretrained`` downloads timm's, ``random`` takes the same random ones every time, anything else is
            the path of a state dict in timm's layout.

    Raises:
        WeightsUnavailable: The download failed. Without a network huggingface_hub first retries for most of a minute;
            ``HF_HUB_OFFLINE=1`` spares that.
        ValueError: timm has no such model or weights, or the file does not fit.
    """

    def __init__(self, model: str, weights: str | Path = "pretrained"):
        super().__init__()
        self.network, settings = timm_network(model, weights)
        self.preprocess = Preprocess(settings["input_size"][1:], settings["mean"], settings["std"])
        self.freeze()
        self.name = _name(model, weights)
        self.dim = _width(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.preprocess(images))


class TorchvisionFeatures(FeatureNetwork):
    """The ``features`` of a torchvision convnet, averaged over positions.

    Images are resized to the size of its ImageNet evaluation (bicubic, antialiased, not cropped).

    Args:
        model: Its name in torchvision: AlexNet, VGG, SqueezeNet, DenseNet, MobileNet, EfficientNet and ConvNeXt have
            ``features``.
        weights: ``pretrained`` downloads torchvision's, ``random`` takes the same random ones every time, anything
            else is the path of a state dict in torchvision's layout, of which ``features.*`` is read; MobileNetV2 also
            in the older layout with flat blocks.

    Raises:
        WeightsUnavailable: The download failed.
        ValueError: torchvision has no such convnet, or the file does not fit.
    """

    def __init__(self, model: str, weights: str | Path = "pretrained"):
        super().__init__()
        self.network, settings = torchvision_features(model, weights)
        self.preprocess = Preprocess((settings.crop_size[0],) * 2, settings.mean, settings.std)
        self.freeze()
        self.name = _name(model, weights)
        self.dim = _width(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.preprocess(images)).mean((2, 3))


class Preprocess(nn.Module):
    """uint8 (b, 3, H, W) to what ImageNet networks expect, with the resize in float so that nothing is rounded.

    Args:
        size: Height and width to resize to.
        mean: Of each channel, on a scale of 0 to 1.
        std: Of each channel.
    """

    mean: Tensor  # (3, 1, 1)
    std: Tensor

    def __init__(self, size: Sequence[int], mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.size = tuple(size)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        resized = F.interpolate(images.float(), self.size, mode="bicubic", antialias=True).clamp(0, 255)
        return (resized / 255 - self.mean) / self.std


def _name(model: str, weights: str | Path) -> str:
    return f"{model}_random" if weights == "random" else model


@torch.no_grad()
def _width(network: FeatureNetwork) -> int:
    return network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape[1]
