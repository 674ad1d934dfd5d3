"""The networks of published evaluators, by the packages that they use, with weights from files."""

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as fidelity_inception


def frechet(images: np.ndarray, reconstructions: np.ndarray) -> float:
    """pytorch-fid's distance, in a basis of the space that all features lie in.

    There are fewer images than features. Distances in an orthonormal basis are the same, and the root of a product of
    singular matrices is avoided.
    """
    from pytorch_fid.fid_score import calculate_frechet_distance

    together = np.concatenate([images, reconstructions]).astype(np.float64)
    centre = together.mean(0)
    _, lengths, basis = np.linalg.svd(together - centre, full_matrices=False)
    basis = basis[lengths > 1e-7 * lengths[0]].T
    sides = ((own.astype(np.float64) - centre) @ basis for own in (images, reconstructions))
    moments = [moment for own in sides for moment in (own.mean(0), np.cov(own, rowvar=False))]
    return float(calculate_frechet_distance(*moments))


def fidelity(weights: Path, double: bool = False) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """torch-fidelity's extractor: images (b, 3, H, W) uint8 to features and logits without the bias."""
    names = ["2048", "logits_unbiased"]
    network = fidelity_inception.FeatureExtractorInceptionV3(
        "inception-v3-compat", names, str(weights), feature_extractor_internal_dtype="float64" if double else "float32"
    )
    return torch.inference_mode()(lambda images: tuple(own.double() if double else own for own in network(images)))


@torch.inference_mode()
def adm(weights: Path, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """ADM's features of (n, H, W, 3) uint8: pool_3, the first 7 channels of mixed_6/conv, and logits without bias.

    Its graph of TensorFlow is the network of which torch-fidelity has the port. mixed_6/conv is the 1 x 1 branch of the
    port's Mixed_6d.
    """
    extract = fidelity_inception.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], str(weights)
    )
    spatial: list[Tensor] = []
    extract.Mixed_6d.branch1x1.register_forward_hook(lambda layer, inputs, output: spatial.append(output[:, :7]))
    pool, logits = [], []
    for first in range(0, len(images), 16):
        own = extract(torch.from_numpy(images[first : first + 16]).permute(0, 3, 1, 2))
        pool.append(own[0])
        logits.append(own[1])
    # TensorFlow lays the channels last
    flat = torch.cat(spatial).permute(0, 2, 3, 1).flatten(1)
    return torch.cat(pool).numpy(), flat.numpy(), torch.cat(logits)


def pytorch_fid(weights: Path, resize: bool = True) -> nn.Module:
    """pytorch-fid's Inception of images in [0, 1], or of ready inputs if it does not resize."""
    from pytorch_fid import inception

    state = torch.load(weights, weights_only=True)
    with mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: state):
        network = inception.InceptionV3(resize_input=resize, normalize_input=resize).eval()
    return network.requires_grad_(False)


def clean_fid(weights: Path) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """clean-fid's features of arrays (H, W, 3) uint8 of any size, in mode "clean"."""
    from cleanfid.resize import build_resizer

    resize, network = build_resizer("clean"), pytorch_fid(weights, resize=False)

    def features(images: Sequence[np.ndarray]) -> np.ndarray:
        found = []
        for first in range(0, len(images), 16):
            resized = np.stack([resize(image) for image in images[first : first + 16]])
            x = (torch.from_numpy(resized).permute(0, 3, 1, 2).float() - 128) / 128
            found.append(network(x)[0].flatten(1).numpy())
        return np.concatenate(found)

    return features


def lpips(net: str, weights: Path) -> nn.Module:
    """The package's LPIPS with its own heads, and a trunk from torchvision's file."""
    import lpips as package

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, about the package's arguments
        network = package.LPIPS(net=net, pnet_rand=True, verbose=False).eval().requires_grad_(False)
    load_trunk(network.net, weights)
    return network


def load_trunk(trunk: nn.Module, weights: Path) -> None:
    """Loads torchvision's ``features.{i}.*`` into slices whose layers keep the number i."""
    state = torch.load(weights, weights_only=True)
    for name, parameter in trunk.named_parameters():
        parameter.data.copy_(state[f"features.{name.split('.', 1)[1]}"])


def pyiqa_lpips(weights: Path) -> nn.Module:
    from pyiqa.archs import lpips_arch
    from torchvision import models

    with mock.patch.object(lpips_arch, "models", mock.Mock(alexnet=lambda weights: models.alexnet())):  # no download
        network = lpips_arch.LPIPS(pretrained=False, pnet_rand=True).eval().requires_grad_(False)
    heads = {name: own for name, own in lpips("alex", weights).state_dict().items() if name.startswith("lin")}
    missing = network.load_state_dict(heads, strict=False)
    if missing.unexpected_keys:
        raise ValueError(f"pyiqa's LPIPS has no {missing.unexpected_keys}")
    load_trunk(network.net, weights)
    return network


def pyiqa_psnr_y() -> nn.Module:
    from pyiqa.archs.psnr_arch import PSNR

    return PSNR(test_y_channel=True, color_space="ycbcr")
