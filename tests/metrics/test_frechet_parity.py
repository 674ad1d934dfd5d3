"""The Fréchet distance against torch-fidelity's own ``calculate_metrics``, on the same saved Inception weights."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics

from vistok.metrics import FeatureStatistics, Inception


class Held(Dataset):
    """A fixed set, as torch-fidelity reads one."""

    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def pictures_and_copies(count: int) -> tuple[Tensor, Tensor]:
    """Smooth pictures with some texture, and copies that have lost the texture and some contrast; uint8."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 5, generator=random)
    smooth = F.interpolate(coarse, (64, 48), mode="bilinear", align_corners=False)
    textured = smooth + 0.15 * torch.randn(smooth.shape, generator=random)
    return (textured.clamp(0, 1) * 255).to(torch.uint8), ((0.2 + 0.6 * smooth) * 255).to(torch.uint8)


@pytest.mark.slow
def test_two_fixed_sets_are_as_far_apart_as_torch_fidelity_says(inception_weights):
    images, copies = pictures_and_copies(18)
    network = Inception(inception_weights)
    sides = []
    for pictures in (images, copies):
        sides.append(FeatureStatistics(network.dim))
        for batch in pictures.split(7):
            sides[-1].update(network(batch))
    ours = sides[0].distance(sides[1]).item()
    theirs = calculate_metrics(
        input1=Held(copies),
        input2=Held(images),
        fid=True,
        cuda=False,
        batch_size=9,
        save_cpu_ram=True,
        verbose=False,
        cache=False,
        feature_extractor_weights_path=str(inception_weights),
    )["frechet_inception_distance"]
    assert theirs > 100  # far from 0: the weights tell the sets apart
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
def test_floats_are_as_far_apart_as_pytorch_fid_says(inception_weights, monkeypatch):
    """``frechet: float`` of a protocol is pytorch-fid's network, on floats that it resizes itself."""
    inception = pytest.importorskip("pytorch_fid.inception", reason="pytorch-fid is in the dev extra")
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    state = torch.load(inception_weights, weights_only=True)
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: state)
    theirs = inception.InceptionV3().eval()
    images, copies = (side.float() for side in pictures_and_copies(12))
    network = Inception(inception_weights)
    sides, features = [], []
    with torch.inference_mode():
        for pictures in (images, copies):
            sides.append(FeatureStatistics(network.dim))
            sides[-1].update(network.features(pictures, "float").pool)
            features.append(theirs(pictures / 255)[0].flatten(1).double().numpy())
    ours = sides[0].distance(sides[1]).item()
    # All features lie in a space of 24 dimensions: in an orthonormal basis of it distances are the same, and the root
    # of a covariance matrix takes no time.
    basis, _ = np.linalg.qr(np.concatenate(features).T)
    features = [own @ basis for own in features]
    statistics = [moment for own in features for moment in (own.mean(0), np.cov(own, rowvar=False))]
    expected = fid_score.calculate_frechet_distance(*statistics)
    assert expected > 100 and ours == pytest.approx(expected, rel=1e-4)
