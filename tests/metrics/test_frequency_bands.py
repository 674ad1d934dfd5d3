"""Powers of frequency bands: of sine waves by hand, and that the bands together have all of an error."""

import math

import pytest
import torch

from vistok.metrics.frequency_bands import BANDS, band_powers


def wave(size: int, down: int, across: int, height: float) -> torch.Tensor:
    """Integer levels near a sine of so many periods along each side: (1, 1, size, size) float."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (height * torch.sin(2 * math.pi * (down * rows + across * columns) / size))[None, None]


@pytest.mark.parametrize("down, across, band", [
    (0, 1, 0),  # 1/64
    (1, 1, 0),  # √2/64 = 0.0221 < 1/32
    (2, 0, 1),  # 1/32 itself
    (0, 4, 2),
    (5, 7, 3),  # √74/64 = 0.134
    (0, 16, 4),  # 1/4
    (32, 31, 4),  # the corner, √1985/64 = 0.696
])  # fmt: skip
def test_a_sine_is_in_one_band(down, across, band):
    images = torch.full((1, 3, 64, 64), 100.0)
    error = wave(64, down, across, 20.0).expand(1, 3, -1, -1)
    powers = band_powers(images + error, images)
    expected = torch.zeros(len(BANDS), dtype=torch.float64)
    expected[band] = error.double().square().mean()
    torch.testing.assert_close(powers.error[0], expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(powers.reconstruction, powers.error, rtol=1e-6, atol=1e-6)  # without the mean level
    torch.testing.assert_close(powers.image[0], torch.zeros_like(expected), rtol=0, atol=1e-9)


def test_a_shift_of_all_levels_is_an_error_of_the_lowest_band():
    images = torch.full((1, 3, 16, 24), 100, dtype=torch.uint8)
    powers = band_powers(images + 5, images)
    torch.testing.assert_close(powers.error, torch.tensor([[25.0, 0, 0, 0, 0]], dtype=torch.float64))
    assert powers.reconstruction.abs().max() < 1e-9


@pytest.mark.parametrize("height, width", [(16, 24), (17, 23), (11, 12)])
def test_all_bands_together(height, width):
    images, other = torch.randint(256, (2, 2, 3, height, width), dtype=torch.uint8)
    powers = band_powers(other, images)
    error = (other.double() - images.double()).square().mean((1, 2, 3))
    torch.testing.assert_close(powers.error.sum(1), error)
    centred = images.double() - images.double().mean((2, 3), keepdim=True)
    torch.testing.assert_close(powers.image.sum(1), centred.square().mean((1, 2, 3)))
