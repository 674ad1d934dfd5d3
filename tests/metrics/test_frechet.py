import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from vistok.metrics import FeatureStatistics, frechet_distance


def pixels(images: Tensor, dim: int = 12) -> Tensor:
    """Features that are linear in the pixels: float32 (b, dim)."""
    return images.flatten(1)[:, :dim].float() / 255


def statistics(*batches: Tensor) -> FeatureStatistics:
    """Of features (b, d) that came in these batches."""
    seen = FeatureStatistics(batches[0].shape[1])
    for batch in batches:
        seen.update(batch)
    return seen


def gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    features = features.double()
    return features.mean(0), torch.cov(features.T)


def by_sqrtm(mean1, cov1, mean2, cov2) -> float:
    root = scipy.linalg.sqrtm((cov1 @ cov2).numpy()).real
    return ((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace()).item() - 2 * np.trace(root)


@pytest.fixture
def pairs():
    images = torch.randint(256, (50, 3, 4, 4), dtype=torch.uint8)
    return images, (images // 3 + torch.randint(80, images.shape)).to(torch.uint8)


def test_diagonal_gaussians_by_hand():
    # |(3, 4)|² + (√4 - √1)² + (√9 - √16)² = 25 + 1 + 1
    distance = frechet_distance(
        torch.zeros(2), torch.tensor([4.0, 9.0]).diag(), torch.tensor([3.0, 4.0]), torch.tensor([1.0, 16.0]).diag()
    )
    assert distance.dtype == torch.float64
    assert distance.item() == pytest.approx(27, rel=1e-12)


def test_correlated_gaussians_against_sqrtm():
    statistics = (*gaussian(torch.randn(200, 20) @ torch.randn(20, 20)), *gaussian(torch.randn(150, 20) + 0.5))
    assert frechet_distance(*statistics).item() == pytest.approx(by_sqrtm(*statistics), rel=1e-9)


@pytest.mark.parametrize("images, tolerance", [(24, 1e-5), (25, 1e-7), (200, 1e-9)])
def test_sums_over_images_against_sqrtm_where_there_are_as_many_as_features(images, tolerance):
    """24 features of n ≥ d images in uneven batches.

    At n = d the covariances are singular, near it badly conditioned, and the root of their product loses digits.
    """
    torch.manual_seed(0)
    mixing = torch.randn(24, 24, dtype=torch.float64)
    x = torch.randn(images, 24, dtype=torch.float64) @ mixing + 3
    y = 0.7 * torch.randn(images, 24, dtype=torch.float64) @ mixing + 2.5
    ours = statistics(x[:5], x[5:]).distance(statistics(y[:17], y[17:])).item()
    expected = by_sqrtm(*gaussian(x), *gaussian(y))
    assert expected > 1
    assert ours == pytest.approx(expected, rel=tolerance)


def test_singular_covariances_by_hand():
    # Variance 4 along (1, 0) and along (1, 1)/√2: the root's trace is 4 |cos 45°|
    cov1 = torch.tensor([[4.0, 0.0], [0.0, 0.0]])
    cov2 = torch.tensor([[2.0, 2.0], [2.0, 2.0]])
    distance = frechet_distance(torch.zeros(2), cov1, torch.zeros(2), cov2)
    assert distance.item() == pytest.approx(8 - 8 * 0.5**0.5, rel=1e-12)
    constant = torch.zeros(2, 2)
    assert frechet_distance(torch.zeros(2), constant, torch.ones(2), constant).item() == 2


def test_fewer_images_than_features_is_exact():
    x, y = torch.randn(10, 64, dtype=torch.float64), torch.randn(10, 64, dtype=torch.float64) * 1.5
    centred = [(features - features.mean(0)) / 3 for features in (x, y)]  # (n - 1)^½
    # the root's trace is the nuclear norm of the centred features' product
    expected = sum(c.square().sum() for c in centred) - 2 * torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    expected += (x.mean(0) - y.mean(0)).square().sum()
    assert frechet_distance(*gaussian(x), *gaussian(y)).item() == pytest.approx(expected.item(), rel=1e-12)


def test_streaming_equals_one_shot_and_torch_fidelity(pairs):
    features = [pixels(side) for side in pairs]
    images, reconstruction = (statistics(*side.split(7)) for side in features)
    distance = images.distance(reconstruction)
    assert distance.dtype == torch.float64
    assert distance.item() == pytest.approx(
        frechet_distance(*gaussian(features[0]), *gaussian(features[1])).item(), rel=1e-10
    )
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(f.double()) for f in features), verbose=False)
    assert distance.item() == pytest.approx(theirs["frechet_inception_distance"], rel=1e-8)


@pytest.mark.parametrize("images, moments", [(8, False), (9, True), (200, True)])
def test_features_are_kept_up_to_their_number_then_moments(images, moments):
    """8 features in batches of 3: of up to 8 images themselves, of more the mean and the scatter, exactly."""
    x = torch.randn(images, 8) * torch.logspace(-3, 3, 8) + torch.linspace(-1e4, 1e4, 8)
    seen = statistics(*x.split(3))
    assert (seen.scatter is not None, seen.features() is None) == (moments, moments)
    mean, covariance = gaussian(x)
    torch.testing.assert_close(seen.gaussian()[0], mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(seen.gaussian()[1], covariance, rtol=1e-9, atol=1e-9)
    restored = FeatureStatistics.restored(seen.save().tensors)
    assert restored.count == images
    assert all(torch.equal(own, seen.save().tensors[name]) for name, own in restored.save().tensors.items())


@pytest.mark.parametrize("shares", [(3, 4, 0), (10, 2, 0), (5, 5, 5), (40, 0, 30)])
def test_ranks_add_up(shares, gathered):
    """Ranks that hold features of 8, some that hold moments, and some that hold nothing: as all images at once."""
    x = torch.randn(sum(shares), 8, dtype=torch.float64) + 100
    parts = [statistics(part) if len(part) else FeatureStatistics(8) for part in x.split(shares)]
    expected = statistics(x)
    for seen in gathered(parts):
        assert seen.count == len(x) and (seen.scatter is None) == (len(x) <= 8)
        for own, other in zip(seen.gaussian(), expected.gaussian(), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)


def test_large_means_lose_no_digits():
    """Means of ten thousand deviations."""
    x, y = (torch.randn(60, 12) + 1e4 for _ in range(2))
    expected = frechet_distance(*gaussian(x), *gaussian(y))
    assert statistics(*x.split(7)).distance(statistics(*y.split(9))).item() == pytest.approx(expected.item(), rel=1e-10)


def test_memory_does_not_grow_with_images():
    """Inception's 2,048 features: at most 100 MiB at any time, while features are folded into moments and after."""
    seen = FeatureStatistics(2048)
    batch = torch.randn(300, 2048)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in range(8):
            seen.update(batch)
        seen.gaussian()
    changes = [own for own in profiler.profiler.kineto_results.events() if own.name() == "[memory]"]
    held, peak = 0, 0
    for change in sorted(changes, key=lambda own: own.start_ns()):
        held += change.nbytes()
        peak = max(peak, held)
    assert seen.scatter is not None and 32 * 2**20 < peak <= 100 * 2**20


def test_a_set_is_at_no_distance_from_itself(pairs):
    for dim in (12, 48):  # regular, and nearly as many features as images
        features = pixels(pairs[0], dim)
        assert abs(statistics(features).distance(statistics(features.flip(0))).item()) < 1e-10


def test_one_image_is_too_few(pairs):
    with pytest.raises(ValueError, match="at least 2 images, not 1"):
        statistics(pixels(pairs[0][:1])).gaussian()
