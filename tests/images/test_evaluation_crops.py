"""Crops on odd sizes against references written anew."""

import hashlib

import numpy as np
import pytest
import torchvision.transforms.functional as tv
from PIL import Image

from vistok.images.evaluation_crops import CROPS

SIZES = [(57, 41), (41, 57), (133, 90), (64, 64), (200, 63), (32, 47)]  # width, height; crops of 32


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * height)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def cut(crop: str, image: Image.Image, size: int = 32) -> np.ndarray:
    for transform in CROPS[crop](size):
        image = transform(image, np.random.default_rng(0))
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("size", SIZES)
def test_adm(size):
    """Halvings, one bicubic resize and the centre, in the authors' terms."""
    image = picture(*size)
    halvings = int(np.log2(min(size) / 32))
    for _ in range(halvings):
        image = image.resize((image.size[0] >> 1, image.size[1] >> 1), resample=Image.Resampling.BOX)
    ratio = 32 / min(image.size)
    array = np.array(image.resize(tuple(round(x * ratio) for x in image.size), resample=Image.Resampling.BICUBIC))
    y, x = (array.shape[0] - 32) // 2, (array.shape[1] - 32) // 2
    assert np.array_equal(cut("adm", picture(*size)), array[y : y + 32, x : x + 32])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", ["bicubic", "bilinear"])
def test_torchvision(crop, size):
    """The long side cut down to whole pixels, the centre rounded."""
    width, height = size
    new = (32, int(32 * height / width)) if width <= height else (int(32 * width / height), 32)
    resized = np.array(picture(*size).resize(new, getattr(Image.Resampling, crop.upper())))
    top, left = round((new[1] - 32) / 2), round((new[0] - 32) / 2)
    assert np.array_equal(cut(crop, picture(*size)), resized[top : top + 32, left : left + 32])


@pytest.mark.parametrize("size", SIZES)
def test_opencv(size):
    """Two neighbours at (i + 1/2) · scale - 1/2 in each direction, whatever lies between the samples."""
    width, height = size
    scale = 32 / min(size)
    new = (round(height * scale), round(width * scale))
    pixels = np.asarray(picture(*size)).astype(float)
    for axis, length in enumerate(new):
        at = ((np.arange(length) + 0.5) * pixels.shape[axis] / length - 0.5).clip(0, pixels.shape[axis] - 1)
        low = np.floor(at).astype(int)
        high = (low + 1).clip(max=pixels.shape[axis] - 1)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
        pixels = pixels.take(low, axis) * (1 - share) + pixels.take(high, axis) * share
    top, left = (new[0] - 32) // 2, (new[1] - 32) // 2
    expected = pixels[top : top + 32, left : left + 32]
    assert np.abs(cut("opencv", picture(*size)) - expected).max() <= 1.5  # its integers lose up to a level


# SHA-256 of what OpenCV 5.0.0 (opencv-python-headless) makes of noise: cv2.resize with INTER_LINEAR, then the centre
OPENCV = {
    (57, 41): "12799c98f690",
    (41, 57): "3d5612f9c5f5",
    (133, 90): "d19560f0f757",
    (64, 64): "074d44db5d38",
    (200, 63): "0e15071e82c1",
    (32, 47): "b4dd7b091e05",
    (20, 31): "4eb72ab69a6d",
}


@pytest.mark.parametrize("size", OPENCV)
def test_opencv_to_the_bit(size):
    width, height = size
    noise = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    levels = cut("opencv", Image.fromarray(noise)).astype(np.uint8)
    assert hashlib.sha256(levels.tobytes()).hexdigest()[:12] == OPENCV[size]


def test_crop_without_resizing():
    image = picture(57, 41)
    assert np.array_equal(cut("none", image), np.array(tv.center_crop(image, [32, 32])))
    assert np.array_equal(cut("none", image), np.array(image)[4:36, 12:44])  # round(4.5) is 4, round(12.5) is 12
    small = cut("none", picture(20, 40))
    assert not small[:, :6].any() and np.array_equal(small[:, 6:26], np.array(picture(20, 40))[4:36])


def test_crops_differ_from_each_other():
    image = picture(133, 90)
    crops = [cut(crop, image) for crop in CROPS]
    for i, one in enumerate(crops):
        for other in crops[:i]:
            assert np.abs(one - other).mean() > 0.05
