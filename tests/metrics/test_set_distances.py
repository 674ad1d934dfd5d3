"""KID, CMMD, precision and recall, against the packages and programs that define them."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_kid import kid_features_to_metric

from vistok.metrics import cmmd as cmmd_module
from vistok.metrics import precision_recall as blocks
from vistok.metrics.cmmd import cmmd
from vistok.metrics.feature_rows import FeatureRows
from vistok.metrics.kid import kernel_distance
from vistok.metrics.precision_recall import precision_recall, squared_radii


def rows(features: Tensor) -> FeatureRows:
    return FeatureRows(len(features), lambda places: features[list(places)])


def test_kid_is_torch_fidelitys():
    x = torch.rand(90, 32) + 0.2
    y = (x + 0.2 + 0.3 * torch.randn(90, 32)).clamp(min=0)
    ours = kernel_distance(rows(y), rows(x), subsets=7, size=40)
    theirs = kid_features_to_metric(y, x, kid_subsets=7, kid_subset_size=40, verbose=False)
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-6)
    assert ours.std == pytest.approx(theirs["kernel_inception_distance_std"], abs=1e-6)
    assert ours.mean > 1e-3 and ours.std > 1e-4
    with pytest.raises(ValueError, match="KID needs at least 1000 images, not 90"):
        kernel_distance(rows(y), rows(x))


def test_kid_by_hand():
    """Two images a side with d = 1: 1 and 2 against 0 and 3, in the only subset."""
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    # k(1, 2) = 27, k(0, 3) = 1; k(1, 0) = k(2, 0) = 1, k(1, 3) = 64, k(2, 3) = 343
    expected = 27 + 1 - 2 * (1 + 1 + 64 + 343) / 4
    assert kernel_distance(rows(x), rows(y), subsets=1, size=2) == pytest.approx((expected, 0))


def integers(count: int, scale: float) -> tuple[Tensor, Tensor]:
    """Images and reconstructions of whole numbers: the second are near a quarter of the first."""
    generator = np.random.RandomState(0)
    x = generator.randint(0, 100, (count, 8))
    x[:, 4:] //= 8
    nearby = generator.randint(0, count // 4, count)
    y = x[nearby] + generator.randint(-12, 13, (count, 8)) * (np.arange(8) % 3 == 0)
    y[:, 0] += 5
    return torch.tensor(x * scale).float(), torch.tensor(y * scale).float()


@pytest.mark.parametrize("block", [2048, 47])
@pytest.mark.parametrize(("count", "scale", "precision", "recall", "radii"), [
    (300, 1 / 64, 1.0, 179 / 300, (47.957764, 29.239746)),  # 178 without rounding to half precision
    (300, 100.0, 1.0, 178 / 300, (1.97295e9, 1.2037702e9)),  # too large for it
    (400, 1 / 32, 398 / 400, 274 / 400, (225.4209, 151.03711)),  # 275 without
])  # fmt: skip
def test_precision_and_recall_are_adms(monkeypatch, count, scale, precision, recall, radii, block):
    """What guided-diffusion's ``evaluator.py`` (22e0df8) gives for these features, by TensorFlow 2.21 on a CPU."""
    monkeypatch.setattr(blocks, "BLOCK", block)
    x, y = integers(count, scale)
    assert precision_recall(rows(y), rows(x)) == pytest.approx((precision, recall), abs=1e-12)
    assert [squared_radii(rows(own)).sum().item() for own in (x, y)] == pytest.approx(radii, rel=1e-6)


def test_precision_and_recall_of_too_few():
    with pytest.raises(ValueError, match="need more than 3 images"):
        precision_recall(rows(torch.randn(3, 4)), rows(torch.randn(9, 4)))


def embeddings(count: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(count, 24)
    return tuple(torch.nn.functional.normalize(own) for own in (x, x + 0.5 * torch.randn(count, 24) + 0.1))


@pytest.mark.parametrize("block", [1024, 7])
def test_cmmd_is_the_biased_estimate(monkeypatch, block):
    """The formula of google-research's and cmmd-pytorch's ``distance.mmd``, in float64."""
    monkeypatch.setattr(cmmd_module, "BLOCK", block)
    x, y = embeddings(40)
    means = [torch.exp(-(torch.cdist(a.double(), b.double()) ** 2) / 200).mean() for a, b in ((x, x), (y, y), (x, y))]
    expected = 1000 * (means[0] + means[1] - 2 * means[2]).item()
    assert expected > 0.1
    assert cmmd(rows(y), rows(x)) == pytest.approx(expected, rel=1e-5)
    assert abs(cmmd(rows(x), rows(x.flip(0)))) < 1e-5


@pytest.mark.parametrize("block", [5, 64])
def test_ranks_share_the_work(on_ranks, monkeypatch, block):
    x, y = integers(60, 1 / 64)
    sides = rows(y), rows(x)
    for module in (cmmd_module, blocks):
        monkeypatch.setattr(module, "BLOCK", block)

    def measured() -> list[float]:
        return [*kernel_distance(*sides, subsets=5, size=20), *precision_recall(*sides), cmmd(*sides)]

    alone = measured()
    assert all(own == pytest.approx(alone, rel=1e-6) for own in on_ranks([measured] * 3))
