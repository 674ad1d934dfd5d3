"""Protocols against their original evaluators, as ``benchmarks/evaluators/originals.py`` writes them anew.

There are sixteen files of mixed sizes: with orientations, grey, with palettes, transparency, CMYK. In place of a
tokenizer there is a blur, whose numbers are the same on all machines.
"""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_fidelity
from PIL import Image
from torch import Tensor
from torchvision.models import alexnet

import vistok
from vistok import configuration
from vistok.data import folder
from vistok.data.sample import photo
from vistok.evaluation import ScoringNetworks, TokenizerReconstructions, reconstructions, score
from vistok.images.ranges import to_nearest_float
from vistok.losses import LPIPS
from vistok.metrics.feature_networks import FeatureNetwork
from vistok.quantizers import Codes

EVALUATORS = Path(__file__).parent.parent.parent / "benchmarks" / "evaluators"
SIZE, COUNT = 48, 16
# of originals.py, with albumentations 2.0.8, OpenCV 5.0.0, piq 0.8.0 and pyiqa 0.1.16
FIXED = {
    "ibq": {"psnr": 19.728992, "ssim_skimage7": 0.64066094, "lpips_alex": 0.02314421},
    "fvq": {"psnr_y": 21.55005, "ssim_gauss11_range2": 0.68622727, "lpips_alex": 0.021211143},
    "vqgan_lc": {"psnr_y": 21.753935, "ssim_gauss11_inner": 0.61032949, "lpips_alex": 0.018514899},
}


@pytest.fixture(scope="module")
def originals():
    """The module, its networks and its files of mixed kinds."""
    sys.path.insert(0, str(EVALUATORS))
    import originals
    import pictures

    yield SimpleNamespace(own=originals, networks=originals.networks, pictures=pictures)
    sys.path.remove(str(EVALUATORS))
    for name in ("originals", "pictures", "networks", "reading"):
        del sys.modules[name]


@pytest.fixture(scope="module")
def root(originals, tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    originals.pictures.write_pictures([photo("coffee"), photo("astronaut")], path, COUNT, 40, 120)
    return path


@pytest.fixture(scope="module")
def alex(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "alex.pt"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(alexnet(weights=None).features.state_dict(prefix="features."), path)
    return path


def blur(images: Tensor) -> Tensor:
    """A model: a blur with more contrast, which leaves [-1, 1]."""
    return 1.2 * F.interpolate(F.avg_pool2d(images, 4), scale_factor=4, mode="bilinear") + 0.05


class Kept(FeatureNetwork):
    """A feature network that keeps its inputs."""

    name, dim = "kept", 3

    def __init__(self):
        super().__init__()
        self.inputs: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.inputs.append(images)
        return images.float().mean((2, 3))


def scored(compose, monkeypatch, trained, root, alex, name):
    """Distances of a protocol, and inputs of feature networks: reconstructions, images."""
    codes = Codes(torch.zeros(COUNT, 1, 1, 1, dtype=torch.int64))
    monkeypatch.setattr(
        reconstructions, "reconstruct", lambda tokenizer, images, *_: (blur(to_nearest_float(images)), codes)
    )
    protocols = configuration.instantiate(compose("eval", f"protocol=[{name}]", "tokenizer=x").protocol)
    kept, lpips = Kept(), LPIPS("alex", str(alex))
    networks = ScoringNetworks((kept,), {"lpips_alex": lpips, "lpips_vgg": lpips})
    (result,) = score(
        [TokenizerReconstructions(vistok.load(trained))],
        folder(str(root), SIZE, COUNT, num_workers=0),
        protocols,
        networks,
    )
    reconstruction, images = kept.inputs
    metrics = result.metrics(protocols)[name]  # LPIPS with the hash of its weights
    return {re.sub("_[0-9a-f]{8}$", "", own): value for own, value in metrics.items()}, reconstruction, images


@pytest.fixture
def theirs(originals, monkeypatch):
    """Inputs of the networks of the originals, which are replaced: lists of arrays (b, H, W, 3)."""
    inputs = []

    def keep(images):
        levels = images if isinstance(images, np.ndarray) else images.permute(0, 2, 3, 1).numpy()
        inputs.append(levels)
        return len(levels)

    def of_folders(input1, input2, **_):
        for path in (input1, input2):
            keep(np.stack([np.asarray(Image.open(own).convert("RGB")) for own in sorted(Path(path).iterdir())]))
        return {"frechet_inception_distance": 0.0, "inception_score_mean": 0.0}

    def three(images):
        n = keep(images)
        return np.zeros((n, 2)), np.zeros((n, 2)), torch.zeros(n, 4)

    networks = originals.networks
    lpips = networks.lpips
    zeros = SimpleNamespace(ssim=lambda images, *_, **__: torch.zeros(len(images)))
    for name, own in {
        "frechet": lambda *_: 0.0,
        "adm": lambda weights, images: three(images),
        "pytorch_fid": lambda weights: lambda images: [torch.zeros(keep(images), 2, 1, 1)],
        "fidelity": lambda weights, double: lambda images: (torch.zeros(keep(images), 2), torch.zeros(len(images), 4)),
        "lpips": lambda net, weights: lpips("alex", weights),
        "pyiqa_psnr_y": lambda: lambda images, _: torch.zeros(len(images)),
        "pyiqa_lpips": lambda weights: lambda images, _: torch.zeros(len(images)),
    }.items():
        monkeypatch.setattr(networks, name, own)
    monkeypatch.setitem(sys.modules, "piq", zeros)
    monkeypatch.setattr(torch_fidelity, "calculate_metrics", of_folders)
    return inputs


ORDER = {"llamagen": "rest", "titok": "images first", "openmagvit2": "images first", "fvq": "rest"}


@pytest.mark.parametrize("name", ORDER)
def test_distances_and_inputs_of_networks(name, originals, theirs, compose, monkeypatch, trained, root, alex):
    """Distances to 1e-5 of their value; 8-bit inputs equal but for ties, of which there is none in a thousand."""
    weights = {"alex": alex, "vgg": alex, "inception": None}
    expected = getattr(originals.own, name)(root, torch.inference_mode()(blur), weights, SIZE)
    metrics, *ours = scored(compose, monkeypatch, trained, root, alex, name)
    known = {metric: value for metric, value in expected.items() if value and metric in metrics}
    assert len(known) == {"llamagen": 2, "openmagvit2": 4}.get(name, 0)
    for metric, value in known.items():
        assert metrics[metric] == pytest.approx(value, rel=1e-5), metric
    sides = [theirs[1::2], theirs[::2]] if ORDER[name] == "images first" else [theirs[:1], theirs[1:]]
    if name == "fvq":  # whose files lie in one folder
        order = sorted(range(COUNT), key=lambda i: originals.own.files(root)[i].name)
        ours = [side[order] for side in ours]
    for side, (own, parts) in enumerate(zip(ours, sides, strict=True)):
        other, own = np.concatenate(parts), own.permute(0, 2, 3, 1).numpy()
        if name == "openmagvit2":
            np.testing.assert_allclose(own / 255, other, atol=1e-6)
        elif side and name != "fvq":
            assert np.array_equal(own, other)
        else:
            apart = np.abs(own.astype(int) - other)
            assert (apart > 0).mean() < (0.01 if name == "fvq" else 0.001) and apart.max() <= 3


@pytest.mark.parametrize("name", FIXED)
def test_distances_by_packages_that_are_not_installed(name, compose, monkeypatch, trained, root, alex):
    metrics, *_ = scored(compose, monkeypatch, trained, root, alex, name)
    for metric, value in FIXED[name].items():
        assert metrics[metric] == pytest.approx(value, rel=1e-5), metric
