import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure

from vistok.metrics import distances


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """Two pictures with their copies, uint8 (2, 3, 40, 33), the second copy much worse."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 6, 5, generator=random)
    images = torch.nn.functional.interpolate(coarse, (40, 33), mode="bilinear") * 255
    noise = torch.randn(images.shape, generator=random) * torch.tensor([4.0, 40.0]).view(2, 1, 1, 1)
    return (images + noise).clamp(0, 255).to(torch.uint8), images.to(torch.uint8)


def by_skimage(pair: tuple[Tensor, Tensor], scale: float = 1.0, **settings) -> list[float]:
    """skimage's SSIM of each image, of values ``scale`` times theirs."""
    sides = [[image.permute(1, 2, 0).numpy() * scale for image in side.double()] for side in pair]
    return [structural_similarity(x, y, channel_axis=2, **settings) for x, y in zip(*sides, strict=True)]


def test_ssim_of_scikit_image(pair):
    expected = by_skimage(pair, data_range=255)
    assert distances.ssim_skimage7(*pair).tolist() == pytest.approx(expected, abs=1e-6)
    assert expected[0] > 0.8 > 0.5 > expected[1]  # a value that a wrong window would miss


def test_ssim_with_twice_the_range(pair):
    expected = by_skimage(pair, 1 / 255, data_range=2.0)
    assert distances.ssim_skimage7_range2(*pair).tolist() == pytest.approx(expected, abs=1e-6)
    assert expected[1] > by_skimage(pair, data_range=255)[1] + 0.03


def test_gaussian_windows_without_borders(pair):
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = by_skimage(pair, data_range=255, **settings)
    assert distances.ssim_gauss11_inner(*pair).tolist() == pytest.approx(expected, abs=1e-6)
    expected = by_skimage(pair, 1 / 255, data_range=2.0, **settings)
    assert distances.ssim_gauss11_range2(*pair).tolist() == pytest.approx(expected, abs=1e-6)
    luma = tuple(distances.luma(side).round() for side in pair)
    assert distances.ssim_y(*pair).tolist() == pytest.approx(by_skimage(luma, data_range=255, **settings), abs=1e-6)


def test_piq_shrinks_large_images_first():
    image = torch.randint(256, (1, 3, 512, 520), dtype=torch.uint8)
    blurred = torch.nn.functional.avg_pool2d(image.float(), 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert distances.ssim_gauss11_range2(blurred.round().to(torch.uint8), image).item() > 0.99  # block means are alike
    assert distances.ssim_skimage7_range2(blurred.round().to(torch.uint8), image).item() < 0.9


def test_psnr_of_luma_by_hand():
    grey = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    off = grey + 10  # Y moves by 10 · 219/255
    assert distances.psnr_y(off, grey).item() == pytest.approx(20 * math.log10(255 / (10 * 219 / 255)), abs=1e-4)
    blue = grey.clone()
    blue[:, 2] += 10  # by 10 · 24.966/255 only
    assert distances.psnr_y(blue, grey).item() == pytest.approx(20 * math.log10(255 / (10 * 24.966 / 255)), abs=1e-3)
    white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    assert distances.luma(white).item() == pytest.approx(235) and distances.luma(white * 0).item() == 16


def test_l1_by_hand():
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    off = images.clone()
    off[0] = 51
    off[1, 0] = 255
    assert distances.l1(off, images).tolist() == pytest.approx([0.2, 1 / 3])


def test_ms_ssim_is_torchmetrics():
    images = torch.randint(256, (2, 3, 192, 176), dtype=torch.uint8)
    copies = (images // 2 + 60).to(torch.uint8)
    theirs = [MultiScaleStructuralSimilarityIndexMeasure(data_range=255.0) for _ in images]
    pairs = zip(theirs, copies.double(), images.double(), strict=True)
    expected = [own(x[None], y[None]).item() for own, x, y in pairs]
    assert distances.ms_ssim(copies, images).tolist() == pytest.approx(expected, abs=1e-6)


def test_a_single_image_keeps_its_dimension():
    image = torch.randint(256, (1, 3, 176, 176), dtype=torch.uint8)
    for name, compare in distances.DISTANCES.items():
        if compare:
            perfect = {"l1": 0.0, "psnr": 100.0, "psnr_y": 100.0}.get(name, 1.0)
            assert compare(image, image).tolist() == pytest.approx([perfect], abs=1e-5), name


def test_gaussian_window():
    window = distances.gaussian(11, 1.5)
    assert window.sum().item() == pytest.approx(1) and window.argmax() == 5
    assert (window[5] / window[4]).item() == pytest.approx(np.exp(1 / 4.5))
