import hashlib
import shutil
import sys
import urllib.error
from pathlib import Path
from unittest import mock

import huggingface_hub.constants
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.utils import create_feature_extractor

from vistok.evaluation.networks import score_names
from vistok.losses import LPIPS
from vistok.metrics import DINOv2, Inception, TimmFeatures, TorchvisionFeatures, feature_networks
from vistok.pretrained import WeightsUnavailable

MOBILENET = Path(__file__).resolve().parents[3] / "shared" / "weights" / "mobilenetv2-imagenet1k-features.pt"
needs_mobilenet = pytest.mark.skipif(not MOBILENET.is_file(), reason=f"{MOBILENET} is not there")


def pictures(count: int, height: int = 48, width: int = 48) -> torch.Tensor:
    """Smooth uint8 images, which the kernels of a resize must agree on."""
    coarse = torch.rand(count, 3, 6, 6)
    return (nn.functional.interpolate(coarse, (height, width), mode="bilinear") * 255).to(torch.uint8)


def resized_by_pillow(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """One image (3, H, W) resized in Pillow's float mode, which rounds nothing."""
    channels = [Image.fromarray(channel.numpy().astype(np.float32)) for channel in image]
    return torch.stack([torch.from_numpy(np.array(c.resize(size[::-1], Image.Resampling.BICUBIC))) for c in channels])


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize(("height", "width"), [(32, 40), (300, 260)])  # enlarged, and shrunk
def test_preprocessing_is_pillows_bicubic_resize(height, width):
    images = pictures(1, height, width)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = resized_by_pillow(images[0], (224, 200)).clamp(0, 255) / 255
    expected = (expected - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    actual = feature_networks.Preprocess((224, 200), mean, std)(images)[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


def test_networks_prepare_images_as_their_library_says():
    settings = timm.data.resolve_model_data_config(timm.create_model("mobilenetv3_small_050"))
    ours = TimmFeatures("mobilenetv3_small_050", "random").preprocess
    assert ours.size == settings["input_size"][1:] == (224, 224)
    assert (ours.mean.flatten().tolist(), ours.std.flatten().tolist()) == (
        pytest.approx(settings["mean"]),
        pytest.approx(settings["std"]),
    )
    settings = torchvision.models.get_model_weights("efficientnet_b0").DEFAULT.transforms()
    ours = TorchvisionFeatures("mobilenet_v2", "random").preprocess
    assert (ours.size, ours.mean.flatten().tolist()) == ((224, 224), pytest.approx(settings.mean))


@pytest.mark.parametrize(
    ("network", "model", "dim"), [(TimmFeatures, "mobilenetv3_small_050", 1024), (TorchvisionFeatures, "alexnet", 256)]
)
def test_random_networks(network, model, dim):
    state = torch.get_rng_state()
    made = network(model, "random")
    assert torch.equal(torch.get_rng_state(), state)
    assert (made.name, made.dim) == (f"{model}_{made.weight_hash.sha256[:8]}", dim)
    images = pictures(2)
    actual = made(images)
    assert (actual.shape, actual.dtype) == ((2, dim), torch.float32)
    torch.manual_seed(7)
    again = network(model, "random")
    assert torch.equal(again(images), actual) and again.name == made.name  # the same weights every time


def test_networks_stay_frozen_and_in_evaluation():
    parent = nn.Sequential(TimmFeatures("mobilenetv3_small_050", "random")).train()
    assert not any(module.training for module in parent[0].modules())
    assert not any(parameter.requires_grad for parameter in parent.parameters())


def test_timm_weights_from_files(tmp_path):
    model = timm.create_model("mobilenetv3_small_050")  # with its classifier, which is left out
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    safetensors.torch.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    images = pictures(2)
    made = TimmFeatures("mobilenetv3_small_050", tmp_path / "weights.pt")
    expected = model.eval().forward_head(model.forward_features(made.preprocess(images)), pre_logits=True)
    torch.testing.assert_close(made(images), expected)
    other = TimmFeatures("mobilenetv3_small_050", tmp_path / "weights.safetensors")
    assert torch.equal(made(images), other(images))
    assert made.name == other.name == f"mobilenetv3_small_050_{made.weight_hash.sha256[:8]}"  # of any format


def test_torchvision_weights_from_a_file(tmp_path):
    model = torchvision.models.mobilenet_v2().eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    made = TorchvisionFeatures("mobilenet_v2", tmp_path / "weights.pt")
    images = pictures(2)
    torch.testing.assert_close(made(images), model.features(made.preprocess(images)).mean((2, 3)))
    assert made.name == f"mobilenet_v2_{made.weight_hash.sha256[:8]}" and not made.weight_hash.official


def test_torchvisions_own_file_has_the_plain_name(tmp_path, monkeypatch):
    """A file is torchvision's if its SHA-256 begins with the digits in the name of the published one."""
    torch.save(torchvision.models.alexnet().state_dict(), tmp_path / "alexnet.pth")
    digest = "7be5be79" + 56 * "0"
    monkeypatch.setattr("vistok.pretrained.sha256_of", lambda path: digest)
    for network, plain in (
        (TorchvisionFeatures("alexnet", tmp_path / "alexnet.pth"), "alexnet"),
        (LPIPS("alex", str(tmp_path / "alexnet.pth")), "lpips_alex"),
    ):
        assert network.weight_hash.official and network.weight_hash.name(plain) == plain
    assert TorchvisionFeatures("alexnet", tmp_path / "alexnet.pth").name == "alexnet"
    changed = LPIPS("alex", str(tmp_path / "alexnet.pth"))
    with torch.no_grad():
        changed.distance.lin2.model[1].weight.add_(0.1)  # of the linear layers the package has the official ones
    assert changed.weight_hash.name("lpips_alex") == f"lpips_alex_{changed.weight_hash.sha256[:8]}"
    digest = "7be5be78" + 56 * "0"
    assert TorchvisionFeatures("alexnet", tmp_path / "alexnet.pth").name.startswith("alexnet_")


@needs_mobilenet
def test_mobilenet_with_flat_blocks_keeps_the_order_of_its_layers():
    made = TorchvisionFeatures("mobilenet_v2", MOBILENET)
    stored = torch.load(MOBILENET, weights_only=True).values()
    for ours, theirs in zip(made.network.state_dict().values(), stored, strict=True):
        assert torch.equal(ours, theirs.to(ours.dtype))
    assert (made.name, made.dim) == (f"mobilenet_v2_{made.weight_hash.sha256[:8]}", 1280)


@needs_mobilenet
def test_mobilenet_sees_what_an_image_is_of():
    from skimage import data

    photos = [data.chelsea(), data.rocket(), data.coffee()]
    halves = [half for photo in photos for half in np.array_split(photo[:, : photo.shape[1] // 2 * 2], 2, axis=1)]
    made = TorchvisionFeatures("mobilenet_v2", MOBILENET)
    found = torch.cat([made(torch.from_numpy(half.copy()).permute(2, 0, 1)[None]) for half in halves])
    similarity = nn.functional.cosine_similarity(found[:, None], found[None], dim=2).fill_diagonal_(-1)
    assert similarity.argmax(1).tolist() == [1, 0, 3, 2, 5, 4]


def test_files_that_do_not_fit(tmp_path):
    state = {f"features.{k}": v for k, v in torchvision.models.mobilenet_v2().features.state_dict().items()}
    state["features.99.bias"] = state.pop("features.18.1.bias")
    torch.save(state, tmp_path / "keys.pt")
    with pytest.raises(ValueError, match=r"missing keys \['18.1.bias'\], unexpected keys \['99.bias'\]"):
        TorchvisionFeatures("mobilenet_v2", tmp_path / "keys.pt")
    torch.save({key.replace(".conv", ".other"): value for key, value in state.items()}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"missing keys \[('[^']+', ){3}'[^']+'\] and \d+ more, unexpected keys"):
        TorchvisionFeatures("mobilenet_v2", tmp_path / "other.pt")
    torch.save({"model": state}, tmp_path / "nested.pt")
    with pytest.raises(ValueError, match="not a state dict"):
        TorchvisionFeatures("mobilenet_v2", tmp_path / "nested.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(ValueError, match="not a file of plain tensors"):
        TimmFeatures("mobilenetv3_small_050", tmp_path / "module.pt")
    with pytest.raises(FileNotFoundError):
        TimmFeatures("mobilenetv3_small_050", tmp_path / "missing.pt")


def test_unknown_models():
    with pytest.raises(ValueError, match="timm has no model 'resnet1'"):
        TimmFeatures("resnet1")
    with pytest.raises(ValueError, match="timm cannot make 'resnet18.untagged'"):
        TimmFeatures("resnet18.untagged")
    with pytest.raises(ValueError, match="torchvision has no classifier 'resnet1'"):
        TorchvisionFeatures("resnet1")
    with pytest.raises(ValueError, match="is not a convnet with `features`"):
        TorchvisionFeatures("resnet18", "random")


def test_failed_downloads_say_what_to_do(offline):
    with pytest.raises(WeightsUnavailable, match="torch-fidelity's Inception"):
        Inception()
    with pytest.raises(WeightsUnavailable, match="torchvision's weights of alexnet"):
        TorchvisionFeatures("alexnet")
    with pytest.raises(WeightsUnavailable, match="timm's weights of mobilenetv3_small_050"):
        TimmFeatures("mobilenetv3_small_050")


def test_missing_timm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install 'vistok\[timm\]'"):
        TimmFeatures("resnet18", "random")


def test_inception_has_torch_fidelitys_features(inception_weights):
    theirs = create_feature_extractor(
        "inception-v3-compat",
        [FeatureExtractorInceptionV3.get_default_feature_layer_for_metric(metric) for metric in ("fid", "isc")],
        cuda=False,
        feature_extractor_weights_path=str(inception_weights),
    )
    images = pictures(3)
    spatial = []
    theirs.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, output: spatial.append(output))
    pool, logits = theirs(images)
    network = Inception(inception_weights)
    actual = network.features(images)
    assert pool.std(0).mean() > 0.01  # not all alike
    torch.testing.assert_close(actual.pool, pool, rtol=1e-4, atol=1e-5)
    assert torch.equal(network(images), actual.pool)
    torch.testing.assert_close(actual.logits, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(actual.spatial, spatial[0][:, :7].flatten(1), rtol=1e-4, atol=1e-5)
    assert actual.spatial.shape == (3, 2023) and actual.pool.dtype == torch.float32


def test_inception_resizes_as_each_evaluator_does(inception_weights):
    """On images of 299 pixels the three agree; others they enlarge differently."""
    network = Inception(inception_weights)
    fitting = pictures(1, 299, 299)
    for resize in ("clean", "float"):
        torch.testing.assert_close(network.features(fitting, resize).pool, network(fitting), rtol=2e-2, atol=2e-3)
    (image,) = images = pictures(1)
    by_pillow = (resized_by_pillow(image, (299, 299)).clamp(0, 255) - 128) / 128
    by_torch = nn.functional.interpolate(images / 127.5 - 1, (299, 299), mode="bilinear", align_corners=False)[0]
    for resize, expected in (("clean", by_pillow), ("float", by_torch)):
        first = network.network.Conv2d_1a_3x3
        with mock.patch.object(first, "forward", wraps=first.forward) as forward:
            network.features(images, resize)
        torch.testing.assert_close(forward.call_args.args[0][0], expected, rtol=0, atol=2e-5)


def test_dinov2_is_torch_fidelitys(monkeypatch):
    """On a model in place of the downloaded one: images are resized as TensorFlow 1 did, and normalised."""

    class Mean(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert images.shape[-2:] == (224, 224)
            return images.mean((2, 3)).repeat(1, 128)

    monkeypatch.setattr(torch.hub, "load", lambda repository, model: Mean())
    network = DINOv2("vit-s-14")
    grey = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    expected = (128 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(network(grey), expected.repeat(128)[None], rtol=1e-4, atol=1e-4)
    assert (network.name, network.dim, network.only_uint8) == ("dinov2_vit-s-14", 384, True)
    with pytest.raises(ValueError, match="metrics.dinov2=vit-x must be one of vit-s-14"):
        DINOv2("vit-x")


def test_only_the_official_inception_makes_an_fid(inception_weights, monkeypatch, tmp_path):
    network = Inception(inception_weights)
    own = f"inception_{network.weight_hash.sha256[:8]}"
    assert (network.dim, network.name) == (2048, own)
    assert score_names(network) == {f"frechet_{own}": 2048, f"frechet_spatial_{own}": 2023}
    state = torch.load(inception_weights, weights_only=True)
    safetensors.torch.save_file(state, tmp_path / "same.safetensors")
    assert Inception(tmp_path / "same.safetensors").name == own  # the same tensors in another format
    digest = hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    monkeypatch.setattr(feature_networks, "INCEPTION_SHA256", digest)
    assert list(score_names(Inception(inception_weights))) == ["rfid", "sfid"]


def test_the_download_is_checked_and_official(inception_weights, monkeypatch, tmp_path):
    def download(url: str, path: str, hash_prefix: str, **_) -> None:
        assert published.startswith(hash_prefix) and len(hash_prefix) == 8
        shutil.copy(inception_weights, path)

    published = feature_networks.INCEPTION_SHA256
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert Inception().name.startswith("inception_")  # a file of another hash in torch's cache is not official
    digest = hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    monkeypatch.setattr(feature_networks, "INCEPTION_SHA256", digest)
    network = Inception()
    assert network.name == "inception" and list(score_names(network)) == ["rfid", "sfid"]


def test_inception_from_a_file_that_does_not_fit(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="does not hold torch-fidelity's Inception"):
        Inception(tmp_path / "weights.pt")
