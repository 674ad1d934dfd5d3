"""The hash of an image's pixels: its bytes by hand, and that it is the same however an image is held or cropped."""

import hashlib
import io

import numpy as np
import pytest
import torch
from PIL import Image

from vistok.data.image_folder import ImageFiles
from vistok.data.listings.folder_images import FolderImages
from vistok.images import large
from vistok.images.crops import ADMCrop, CenterCrop
from vistok.images.decoding import ORIENTATION, read_rgb
from vistok.images.fast_jpeg import read_fast
from vistok.images.pixel_hash import pixel_hash, set_hash

PIXELS = np.array([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]], [[13, 14, 15], [16, 17, 18]]], np.uint8)


def test_an_image_by_hand():
    expected = hashlib.sha256(b"2x3 RGB\n" + bytes(range(1, 19))).hexdigest()
    assert pixel_hash(Image.fromarray(PIXELS)) == expected
    assert pixel_hash(torch.from_numpy(PIXELS).permute(2, 0, 1)) == expected
    assert pixel_hash(Image.fromarray(PIXELS.reshape(2, 3, 3))) != expected  # the same bytes in another shape


def test_a_set_by_hand():
    lines = b"a 11\nb 00"
    assert set_hash(["b", "a"], ["00", "11"]) == hashlib.sha256(lines).hexdigest()
    assert set_hash(["b", "a"], ["11", "00"]) != set_hash(["b", "a"], ["00", "11"])


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_large_images_are_hashed_in_strips(orientation, monkeypatch):
    """A view gives the hash of the upright image, and never holds all of its pixels."""
    monkeypatch.setattr(large, "STRIP", 50)
    pixels = np.random.default_rng(0).integers(0, 256, (23, 17, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    expected = pixel_hash(read_rgb(file))
    upright = np.ascontiguousarray(np.rot90(pixels, {1: 0, 3: 2, 6: 3}[orientation]))
    assert expected == pixel_hash(Image.fromarray(upright))
    for module in ("large", "pixel_hash"):
        monkeypatch.setattr(f"vistok.images.{module}.PLAIN", 100)
    view = read_rgb(file)
    assert isinstance(view, large.View)
    boxes, crop = [], large.View.crop
    monkeypatch.setattr(large.View, "crop", lambda self, box: boxes.append(box) or crop(self, box))
    assert pixel_hash(view) == expected
    assert len(boxes) > 5 and max((right - left) * (bottom - top) for left, top, right, bottom in boxes) <= 50


def test_the_fast_decoder_gives_the_same():
    pytest.importorskip("simplejpeg")
    file = io.BytesIO()
    Image.fromarray(np.kron(PIXELS * 9, np.ones((8, 8, 1), np.uint8))).save(file, "JPEG")
    assert not isinstance(read_fast(io.BytesIO(file.getvalue())), Image.Image)
    assert pixel_hash(read_fast(io.BytesIO(file.getvalue()))) == pixel_hash(read_rgb(file))


def test_crops_change_nothing_and_training_pays_nothing(photos, monkeypatch):
    images = ImageFiles(FolderImages(photos, ["01.png", "more/00.jpg"]), [CenterCrop(16)])
    cropped = [images.with_transforms([crop])[0, i].sha256 for crop in (CenterCrop(16), ADMCrop(32)) for i in (0, 1)]
    assert cropped[:2] == cropped[2:] == [pixel_hash(read_rgb(photos / name)) for name in images.listing.names]
    monkeypatch.setattr("vistok.images.crops.pixel_hash", lambda image: pytest.fail("hashed without need"))
    assert images[0, 0].sha256 == ""
