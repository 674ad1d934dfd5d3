"""Fast decoding: Pillow's pixels within one level, whatever the file, and Pillow's own where it has to step in."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photos_of_skimage

from vistok.data import folder
from vistok.data.transforms import Flip
from vistok.images.crops import ADMCrop, RandomCrop, ResizeShortSide, to_tensor
from vistok.images.decoding import read_rgb
from vistok.images.fast_jpeg import Pixels, halve, read_fast
from vistok.images.rgb import UnreadableImage

simplejpeg = pytest.importorskip("simplejpeg")
PHOTO = Image.fromarray(photos_of_skimage.astronaut())


def jpeg(size, mode="RGB", **arguments):
    file = io.BytesIO()
    PHOTO.resize(size, Image.Resampling.BICUBIC).convert(mode).save(file, "JPEG", **arguments)
    return file.getvalue()


def crops(data, *transforms):
    """The crop by Pillow and the fast one, with the same random choices; int16."""
    results = []
    for read in (read_rgb, read_fast):
        image, rng = read(io.BytesIO(data)), np.random.default_rng(3)
        for transform in transforms:
            image = transform(image, rng)
        results.append(to_tensor(image).short())
    return results


@pytest.mark.parametrize("size", [(500, 375), (375, 501), (64, 64), (40, 90), (511, 130), (643, 517), (1100, 700)])
@pytest.mark.parametrize("transform", [
    ADMCrop(64), ADMCrop(96, 0.5, random=True), ResizeShortSide(80), ADMCrop(64, 0.8, random=True)
])  # fmt: skip
def test_within_one_level_of_pillow(size, transform):
    pillow, fast = crops(jpeg(size, quality=90), transform, Flip())
    assert pillow.shape == fast.shape and fast.dtype == torch.int16
    assert (pillow - fast).abs().max() <= 1 and (pillow != fast).float().mean() < 0.1


@pytest.mark.parametrize(
    "height, width", [(2, 2), (3, 3), (5, 4), (13, 13), (67, 48), (49, 101), (375, 500), (333, 999)]
)
def test_halving_is_pillows_box_filter_exactly(height, width):
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    half = (width // 2, height // 2)
    expected = Image.fromarray(np.ascontiguousarray(levels[..., :3])).resize(half, Image.Resampling.BOX)
    assert np.array_equal(halve(levels)[..., :3], np.asarray(expected))
    assert np.array_equal(np.asarray(Pixels(levels).resize(half, Image.Resampling.BOX)), np.asarray(expected))


@pytest.mark.parametrize("arguments", [
    {"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"optimize": True}, {"mode": "L"}
])  # fmt: skip
def test_kinds_of_jpeg_that_are_decoded_fast(arguments):
    data = jpeg((120, 90), **arguments)
    assert isinstance(read_fast(io.BytesIO(data)), Pixels)
    pillow, fast = crops(data, RandomCrop(64))
    assert torch.equal(pillow, fast)  # no resizing: the decoders are the same


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_turned_images_are_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg((120, 90), exif=exif)
    assert isinstance(read_fast(io.BytesIO(data)), Pixels) == (orientation == 1)
    assert torch.equal(*crops(data))


@pytest.mark.parametrize(
    "kind, mode", [("PNG", "RGB"), ("PNG", "RGBA"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("BMP", "L")]
)
def test_what_is_no_ordinary_jpeg_is_read_by_pillow(kind, mode):
    file = io.BytesIO()
    PHOTO.resize((60, 50)).convert(mode).save(file, kind)
    assert isinstance(read_fast(io.BytesIO(file.getvalue())), Image.Image)
    assert torch.equal(*crops(file.getvalue()))


@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: d[:30], lambda d: b"", lambda d: b"text"])
def test_damaged_files_are_named_as_pillow_names_them(damage):
    data = damage(jpeg((120, 90)))
    messages = []
    for read in (read_rgb, read_fast):
        with pytest.raises(UnreadableImage) as error:
            read(io.BytesIO(data))
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UnreadableImage, match="FileNotFoundError"):
        read_fast(tmp_path / "none.jpg")


def test_the_option_is_for_training_images_alone(photos):
    module = folder(str(photos), image_size=32, batch_size=2, decoder="fast")
    parts = (module.train, module.val, module.test, module.test.with_transforms([]))
    assert [part.read.func for part in parts] == [read_fast, read_rgb, read_rgb, read_rgb]
    pillow = folder(str(photos), image_size=32, batch_size=2)
    for index in range(len(module.train)):
        ours, theirs = (m.train[0, index].image.short() for m in (module, pillow))
        assert (ours - theirs).abs().max() <= 1


def test_what_is_refused(photos, monkeypatch):
    with pytest.raises(ValueError, match="data.decoder must be pillow or fast, not 'turbo'"):
        folder(str(photos), image_size=32, batch_size=2, decoder="turbo")
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    monkeypatch.setattr("vistok.images.reader.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs simplejpeg: pip install 'vistok\[fast\]'"):
        folder(str(photos), image_size=32, batch_size=2, decoder="fast")
