"""Public metrics on the framework's images: every accepted form gives one number, all others an error."""

import pytest
import torch

from vistok import metrics
from vistok.images.ranges import to_float
from vistok.metrics import FeatureStatistics, ReconstructionMetrics, TorchvisionFeatures, distances
from vistok.metrics.reconstruction import Means


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images and their copies, uint8 (2, 3, 24, 24)."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, 24, 24), generator=random, dtype=torch.uint8)
    return (images // 2 + 60).to(torch.uint8), images


@pytest.mark.parametrize("name, of_levels", [("psnr", distances.psnr), ("ssim", distances.ssim_gauss11)])
def test_floats_and_levels_give_one_number(pair, name, of_levels):
    metric, expected = getattr(metrics, name), of_levels(*pair)
    copies, images = pair
    floats = to_float(copies), to_float(images)
    for given in (pair, floats, (floats[0], images), (copies, floats[1].double())):
        torch.testing.assert_close(metric(*given), expected, rtol=0, atol=0)
    assert not torch.allclose(expected.float(), of_levels(*floats).float())  # the number that was given in silence


def test_ms_ssim():
    images = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12), (180, 180)) * 2 - 1
    noisy = images + 0.1 * torch.randn_like(images)
    levels = [((side.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8) for side in (noisy, images)]
    assert metrics.ms_ssim(noisy, images).item() == pytest.approx(distances.ms_ssim(*levels).item(), abs=1e-3)
    with pytest.raises(ValueError, match="100x180 pixels are smaller than MS-SSIM's smallest size of 176"):
        metrics.ms_ssim(noisy[..., :100, :], images[..., :100, :])


def test_reconstructions_are_clamped(pair):
    far = to_float(pair[0]).clone()
    far[0, 0, 0, 0] = 7.0
    levels = pair[0].clone()
    levels[0, 0, 0, 0] = 255
    assert torch.equal(metrics.psnr(far, pair[1]), distances.psnr(levels, pair[1]))


def refused(metric, reconstruction, images) -> str:
    with pytest.raises(ValueError) as error:
        metric(reconstruction, images)
    return str(error.value)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_other_ranges_types_and_shapes(pair, metric):
    copies, images = pair
    floats = to_float(copies)
    assert "images must be uint8, or float in [-1, 1], not from 0 to 255" in refused(metric, floats, images.float())
    assert "reconstruction must be uint8, or float in [-16, 16]" in refused(metric, copies.float(), images)
    assert "not from nan to nan" in refused(metric, floats, floats * torch.nan)
    assert "images of int64 must be uint8, or float in [-1, 1]" in refused(metric, floats, images.long())
    assert "reconstruction of the shape (3, 24, 24) must be (b, c, H, W)" in refused(metric, floats[0], images)
    assert "reconstruction (1, 3, 24, 24) and images (2, 3, 24, 24) differ" in refused(metric, floats[:1], images)
    assert "8x24 pixels are smaller than" in refused(metrics.ssim, floats[..., :8, :], images[..., :8, :])


def test_levels_wait_for_no_device(pair):
    """The progress line of a training run compares levels: no pixel is read to check them."""
    copies, images = (side.to("meta") for side in pair)
    assert metrics.psnr(copies, images).shape == (2,)


def test_validation_metrics(pair):
    copies, images = pair
    codes = torch.zeros(2, 1, 6, 6, dtype=torch.int64)

    def of(reconstruction, images) -> dict[str, torch.Tensor]:
        own = ReconstructionMetrics((8,), factor=4, terms=())
        own.update(images, reconstruction, codes)
        return own.compute()

    assert of(*pair) == of(to_float(copies), to_float(images))
    assert "images must be uint8, or float in [-1, 1]" in refused(of, to_float(copies), images.float())
    of(torch.full(images.shape, 1e6), to_float(images))  # a run that diverges goes on
    with pytest.raises(ValueError, match="the sum of l1 must be a scalar, and is missing"):
        ReconstructionMetrics((8,), factor=4, terms=("l1",)).update(images, copies, codes)
    with pytest.raises(ValueError, match=r"the sum of l1 must be a scalar, and is of the shape \(2,\)"):
        Means(["l1"]).update({"l1": torch.zeros(2)}, 2)


def test_the_baseline_is_of_levels(pair):
    with pytest.raises(ValueError, match="the bicubic baseline is of uint8 images, not of float32"):
        metrics.bicubic_baseline(to_float(pair[1]), 4)


def test_features():
    statistics = FeatureStatistics(4)
    with pytest.raises(ValueError, match=r"must be float of the shape \(b, 4\), not float32 of the shape \(2, 5\)"):
        statistics.update(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="not int64 of the shape"):
        statistics.update(torch.zeros(2, 4, dtype=torch.int64))


def test_feature_networks_refuse_the_frameworks_floats(pair):
    network = TorchvisionFeatures("squeezenet1_1", "random")
    levels = network(pair[1])
    torch.testing.assert_close(network(pair[1].float()), levels)
    with pytest.raises(ValueError, match=r"images must be uint8, or float in \[0, 255\], not from -1 to 1"):
        network(to_float(pair[1]))
