"""The pictures of a run, and the numbers beside its progress bar."""

import torch

from vistok.callbacks import numbers
from vistok.pictures import codebook_plot, reconstruction_grid


def test_grid_shows_originals_over_reconstructions():
    images = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    images[1] = 200
    picture = reconstruction_grid(images, 255 - images, "reconstructions")
    width, height = picture.size
    assert width > 3 * 128 and height > 2 * 128
    above, below = picture.getpixel((width // 2, height // 3)), picture.getpixel((width // 2, height - 20))
    assert above == (200, 200, 200) and below == (55, 55, 55)


def test_plot_of_several_codebooks():
    counts = [torch.tensor([5, 0, 1]), torch.tensor([0, 0, 0, 0])]
    picture = codebook_plot(counts)
    assert picture.mode == "RGB" and len(picture.getcolors(100_000)) > 10


def test_numbers_with_their_units():
    metrics = {"train/l1": 0.123456, "train/usage": 0.5, "train/tokens": 2048.0, "val/psnr": 20.0, "train/psnr": 19.876}
    metrics = {name: torch.tensor(value) for name, value in metrics.items()}
    assert numbers("train", metrics) == "train: l1 0.1235 · usage 50% · tokens 2,048 · psnr 19.88 dB"
    assert numbers("test", metrics) == ""
