"""Frozen feature networks for Fréchet distances: uint8 images (b, 3, H, W) to float32 features (b, d)."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from vistok.files import sha256_of
from vistok.metrics.image_checks import check_range
from vistok.pretrained import (
    FrozenNetwork,
    WeightHash,
    downloading,
    fixed_seed,
    read_state,
    tensor_hash,
    timm_network,
    torchvision_features,
    torchvision_official,
)

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # torch-fidelity's release


class FeatureNetwork(FrozenNetwork):
    """Maps images to features.

    Attributes:
        name: Name of the network, which its scores carry: for other than official weights with digits of their hash.
        dim: Number of features d of an image.
        only_uint8: True if images that are not 8-bit are refused.
        weight_hash: Identity of the weights; None before ``identify``.
    """

    name: str
    dim: int
    only_uint8 = False
    weight_hash: WeightHash | None = None

    def identify(self, model: str, official: bool = False) -> None:
        """Hashes the weights, and sets ``weight_hash`` and ``name``.

        Args:
            model: Name of the network with its official weights.
            official: True if it has these.
        """
        self.weight_hash = WeightHash(tensor_hash(self.state_dict()), official)
        self.name = self.weight_hash.name(model)


class InceptionFeatures(NamedTuple):
    """Outputs of Inception for a batch."""

    pool: Tensor  # (b, 2048), for FID
    spatial: Tensor  # (b, 2023), for sFID: 7 channels at 17×17 places
    logits: Tensor  # (b, 1008), without the bias, for the Inception score


class Inception(FeatureNetwork):
    """Inception network of FID (TensorFlow, 2015-12-05), torch-fidelity's port "inception-v3-compat", pooled features.

    It resizes images to 299 pixels itself. Norms are fused into the preceding convolutions and channels come last: this
    is faster than the published network and changes only the last digits of features. It always computes in float32.

    Args:
        weights: File with its state dict; None downloads torch-fidelity's. Any other file is a different network: the
            hash of its tensors becomes part of ``name``, and no score made with it is called FID.

    Attributes:
        official: True for the weights that define FID.

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
            weights = Path(torch.hub.get_dir(), "checkpoints", Path(fidelity.URL_INCEPTION_V3).name)
        else:
            state = read_state(weights)
        file = io.BytesIO()  # torch-fidelity unpickles its file, so it gets one of plain tensors
        torch.save(state, file)
        file.seek(0)
        try:
            with fixed_seed():
                self.network = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], file)
        except RuntimeError as error:
            raise ValueError(f"{weights} does not hold torch-fidelity's Inception: {error}") from error
        self.official = sha256_of(Path(weights)) == INCEPTION_SHA256
        self.identify("inception", self.official)  # before norms are fused, which rounds
        for layer in cast(Any, self.network).modules():
            if isinstance(layer, fidelity.BasicConv2d):
                layer.conv = fuse_conv_bn_eval(layer.conv, layer.bn)
                setattr(layer, "bn", nn.Identity())  # noqa: B010 type checkers reject a plain assignment
        self.network.to(memory_format=torch.channels_last)
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).pool

    def features(self, images: Tensor, resize: str = "uint8") -> InceptionFeatures:
        """Computes all outputs in one pass.

        sFID's features are ADM's (``mixed_6/conv`` of TensorFlow's graph, the first 7 channels): the branch of one 1×1
        convolution of that block, after its ReLU.

        Args:
            images: (b, 3, H, W) uint8; float from 0 to 255 with the ``float`` resize.
            resize: ``uint8``, ``clean`` or ``float``, as a protocol's ``frechet``.
        """
        check_range(images, low=0, high=255)
        x = (_resized(images, resize) - 128) / 128 if resize != "float" else _resized(images, resize) / 127.5 - 1
        x = x.contiguous(memory_format=torch.channels_last)
        for name, layer in self.network.named_children():
            if name == "Mixed_6d":
                spatial = cast(Any, layer).branch1x1(x)[:, :7].flatten(1)
            if name == "fc":
                break
            x = layer(x)
        pool = x.flatten(1)
        return InceptionFeatures(pool, spatial, pool @ self.network.fc.weight.T)


def _resized(images: Tensor, resize: str) -> Tensor:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    size = (299, 299)
    if resize == "float":
        return F.interpolate(images.float(), size, mode="bilinear", align_corners=False)
    if resize == "clean":  # Pillow's kernel
        return F.interpolate(images.float(), size, mode="bicubic", antialias=True).clamp(0, 255)
    return interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=size, align_corners=False)


class DINOv2(FeatureNetwork):
    """Class token of DINOv2 (arXiv:2304.07193), as torch-fidelity extracts it: images resized to 224 pixels.

    Args:
        model: ``vit-s-14``, ``vit-b-14``, ``vit-l-14`` or ``vit-g-14``. torch.hub downloads its code and weights, or
            takes them from its cache (``TORCH_HOME``).

    Raises:
        WeightsUnavailable: The download failed.
        ValueError: The model is unknown.
    """

    only_uint8 = True
    dims = {"vit-s-14": 384, "vit-b-14": 768, "vit-l-14": 1024, "vit-g-14": 1536}

    def __init__(self, model: str):
        super().__init__()
        from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

        if model not in self.dims:
            raise ValueError(f"metrics.dinov2={model} must be one of {', '.join(self.dims)}")
        with fixed_seed(), downloading(f"DINOv2's {model}", "put facebookresearch/dinov2 into torch.hub's cache"):
            self.network = FeatureExtractorDinoV2(f"dinov2-{model}", ["dinov2"])
        self.identify(f"dinov2_{model}", official=True)  # torch.hub takes them from the authors alone
        self.dim = self.dims[model]
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[0]


class TimmFeatures(FeatureNetwork):
    """Features of a timm model without its classifier.

    Images are resized to the model's input (bicubic, antialiased), not cropped.

    Args:
        model: Name of the model in timm.
        weights: ``pretrained`` downloads timm's weights, ``random`` draws the same random weights every time; any other
            value is the path of a state dict in timm's layout.

    Raises:
        WeightsUnavailable: The download failed. Without a network huggingface_hub first retries for up to a minute;
            ``HF_HUB_OFFLINE=1`` avoids that.
        ValueError: timm has no such model or weights, or the file does not fit.
    """

    def __init__(self, model: str, weights: str | Path = "pretrained"):
        super().__init__()
        self.network, settings = timm_network(model, weights)
        self.preprocess = Preprocess(settings["input_size"][1:], settings["mean"], settings["std"])
        self.freeze()
        self.identify(model, official=weights == "pretrained")
        self.dim = _width(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.preprocess(images))


class TorchvisionFeatures(FeatureNetwork):
    """Output of a torchvision convnet's ``features``, averaged over positions.

    Images are resized to the size of the model's ImageNet evaluation (bicubic, antialiased, not cropped).

    Args:
        model: Name of the model in torchvision: AlexNet, VGG, SqueezeNet, DenseNet, MobileNet, EfficientNet and
            ConvNeXt have ``features``.
        weights: ``pretrained`` downloads torchvision's weights, ``random`` draws the same random weights every time;
            any other value is the path of a state dict in torchvision's layout, of which ``features.*`` is read. For
            MobileNetV2 the older layout with flat blocks is read too.

    Raises:
        WeightsUnavailable: The download failed.
        ValueError: torchvision has no such convnet, or the file does not fit.
    """

    def __init__(self, model: str, weights: str | Path = "pretrained"):
        super().__init__()
        self.network, settings = torchvision_features(model, weights)
        self.preprocess = Preprocess((settings.crop_size[0],) * 2, settings.mean, settings.std)
        self.freeze()
        self.identify(model, torchvision_official(model, weights))
        self.dim = _width(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.preprocess(images)).mean((2, 3))


class Preprocess(nn.Module):
    """Converts images (b, 3, H, W), uint8 or float from 0 to 255, to the input of ImageNet networks.

    The resize is in float, without rounding.

    Args:
        size: Height and width of the input in pixels.
        mean: Mean of each channel, on a scale of 0 to 1.
        std: Standard deviation of each channel, on the same scale.
    """

    mean: Tensor  # (3, 1, 1)
    std: Tensor

    def __init__(self, size: Sequence[int], mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.size = tuple(size)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        check_range(images, low=0, high=255)
        resized = F.interpolate(images.float(), self.size, mode="bicubic", antialias=True).clamp(0, 255)
        return (resized / 255 - self.mean) / self.std


@torch.no_grad()
def _width(network: FeatureNetwork) -> int:
    return network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape[1]
