"""Whatever a file holds becomes RGB that looks the same, or is named as unreadable."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from vistok.data.images import Sample, UnreadableImage, collate, read_rgb

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def through_a_file(image, kind="PNG", **arguments):
    file = io.BytesIO()
    image.save(file, kind, **arguments)
    file.seek(0)
    return np.asarray(read_rgb(file))


def test_grey_is_repeated():
    assert np.array_equal(through_a_file(Image.fromarray(RAMP)), RAMP[..., None].repeat(3, 2))


def test_one_bit():
    assert set(np.unique(through_a_file(Image.fromarray(RAMP > 99)))) == {0, 255}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(kind):
    """Pillow's own conversion would clip all but the darkest values to white."""
    pixels = through_a_file(Image.fromarray(RAMP.astype(np.uint16) * 257), kind)
    assert np.array_equal(pixels, RAMP[..., None].repeat(3, 2))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_shows_white(mode):
    image = Image.new(mode, (2, 1), (10,) * (len(mode) - 1) + (255,))
    image.putpixel((1, 0), (10,) * (len(mode) - 1) + (0,))
    assert through_a_file(image).tolist() == [[[10] * 3, [255] * 3]]
    image.putpixel((1, 0), (0,) * (len(mode) - 1) + (128,))
    assert through_a_file(image)[0, 1].tolist() == [127] * 3


def test_palettes():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert through_a_file(image).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert through_a_file(image, transparency=1).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_cmyk():
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan: red
    red, green, blue = through_a_file(image, "JPEG", quality=100)[4, 4]
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("orientation, expected", [
    (1, [[1, 2, 3], [4, 5, 6]]),
    (3, [[6, 5, 4], [3, 2, 1]]),
    (6, [[4, 1], [5, 2], [6, 3]]),
    (8, [[3, 6], [2, 5], [1, 4]]),
])  # fmt: skip
def test_exif_rotation(orientation, expected):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8))
    assert through_a_file(image, exif=exif)[..., 0].tolist() == expected


def cut(kind, share=0.5):
    file = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, kind)
    return io.BytesIO(file.getvalue()[: int(share * len(file.getvalue()))])


@pytest.mark.parametrize("file", [
    cut("JPEG"),
    cut("PNG"),
    cut("WEBP"),
    cut("GIF"),
    cut("PNG", 0.01),
    io.BytesIO(b""),
    io.BytesIO(b"\x89PNG\r\n\x1a\nbroken"),
    io.BytesIO(b"not an image at all"),
])  # fmt: skip
def test_what_cannot_be_read(file):
    with pytest.raises(UnreadableImage):
        read_rgb(file)


def test_floats_have_no_known_range():
    with pytest.raises(UnreadableImage, match="floats of no known range"):
        through_a_file(Image.fromarray(RAMP.astype(np.float32)), "TIFF")


def test_a_batch_leaves_out_what_has_no_image():
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    batch = collate([Sample(image, "a"), Sample(None, "b", ("b: broken",)), Sample(image, "c", ("d: cut short",))])
    assert batch.images.shape == (2, 3, 4, 4) and len(batch) == 2
    assert batch.names == ["a", "c"] and batch.skipped == ["b: broken", "d: cut short"]
    assert len(collate([Sample(None, "b", ("b: broken",))])) == 0
