"""Large images: Pillow's pixels to the last bit, in little memory."""

import io
import multiprocessing
import resource

import numpy as np
import pytest
from PIL import Image, ImageOps

from vistok.images import large
from vistok.images.crops import ADMCrop, CenterCrop, RandomCrop, ResizeShortSide, read_crop
from vistok.images.decoding import read_rgb, upright
from vistok.images.evaluation_crops import CROPS
from vistok.images.large import BICUBIC, BILINEAR, BOX, Decoded, Resized, View, resized
from vistok.images.rgb import UnreadableImage, to_rgb

SIZES = [(64, 48), (101, 67), (67, 101), (200, 31), (31, 200), (40, 81), (41, 82), (333, 90), (2, 57), (57, 2)]


def noise(width, height, mode="RGB"):
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,), "CMYK": (4,)}[mode]
    levels = np.random.default_rng(width * height).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(levels, mode)


@pytest.fixture
def in_parts(monkeypatch):
    """As if every image were large, and few pixels many."""
    monkeypatch.setattr(large, "PLAIN", 0)
    monkeypatch.setattr(large, "STRIP", 500)


@pytest.mark.parametrize("size", SIZES)
def test_halving(in_parts, size):
    image = noise(*size)
    half = (size[0] // 2, size[1] // 2)
    expected = image.resize(half, BOX)
    view = resized(image, half, BOX)
    assert isinstance(view, View) and np.array_equal(np.asarray(view), np.asarray(expected))
    for left, top, right, bottom in ((0, 0, *half), (half[0] // 3, half[1] // 4, half[0], half[1] // 2 + 1)):
        box = (left, top, max(left + 1, right), max(top + 1, bottom))
        assert np.array_equal(np.asarray(view.crop(box)), np.asarray(expected.crop(box)))


@pytest.mark.parametrize("resample", [BICUBIC, BILINEAR])
@pytest.mark.parametrize("size", SIZES)
def test_resizing(in_parts, size, resample):
    """Smaller and larger, all of it and a corner: by Pillow's own passes, and by those of which little is wanted."""
    image = noise(*size)
    for width, height in ((33, 20), (20, 33), (size[0], 150), (150, size[1]), (7, 400), (400, 7), (5 * size[0], 91)):
        expected = image.resize((width, height), resample)
        view = resized(image, (width, height), resample)
        assert view.size == (width, height)
        for box in ((0, 0, width, height), (0, 0, 3, 2), (width - 2, height - 3, width, height), (1, 2, 6, 7)):
            ours, theirs = np.asarray(view.crop(box)), np.asarray(expected.crop(box))
            assert np.array_equal(ours, theirs), (width, height, box)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(in_parts, orientation):
    image = noise(31, 20)
    image.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    view = upright(image, orientation)
    assert np.array_equal(np.asarray(view), expected)
    assert np.array_equal(np.asarray(view.crop((3, 5, 11, 17))), expected[5:17, 3:11])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "CMYK", "P", "1", "I;16", "transparent P"])
def test_modes_through_a_file(in_parts, monkeypatch, mode):
    file, colours = io.BytesIO(), noise(50, 40, mode if mode in ("RGB", "RGBA", "LA", "CMYK") else "L")
    if mode in ("1", "P", "transparent P"):
        colours = colours.convert(mode[-1])
    if mode == "I;16":
        colours = Image.fromarray(np.asarray(colours).astype(np.uint16) * 250)
    colours.save(file, "TIFF" if mode == "CMYK" else "PNG", **({"transparency": 7} if "t" in mode else {}))
    view = read_rgb(file)
    assert isinstance(view, Decoded)
    monkeypatch.setattr(large, "PLAIN", 2**22)
    assert np.array_equal(np.asarray(view), np.asarray(read_rgb(file)))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "I;16"])
def test_files_that_pillow_maps_into_memory(in_parts, tmp_path, mode):
    """Views outlive the file that they were opened from."""
    image = (
        Image.fromarray(np.arange(2000, dtype=np.uint16).reshape(40, 50) * 32)
        if mode == "I;16"
        else noise(50, 40, mode)
    )
    image.save(tmp_path / "a.tif")
    view = read_rgb(tmp_path / "a.tif")
    (tmp_path / "a.tif").unlink()
    assert np.array_equal(np.asarray(view), np.asarray(to_rgb(image)))


def test_floats_are_refused_before_a_view_is_made(in_parts):
    file = io.BytesIO()
    Image.fromarray(np.zeros((9, 9), np.float32)).save(file, "TIFF")
    with pytest.raises(UnreadableImage, match="floats of unknown range"):
        read_rgb(file)


@pytest.mark.parametrize("size", [(64, 48), (101, 267), (467, 101), (200, 31), (31, 200)])
def test_transforms_draw_and_cut_the_same(monkeypatch, size):
    """Every crop of training and evaluation, of an ordinary image and of the same as a large one."""
    chains = [CROPS[name](32) for name in CROPS] + [
        [ADMCrop(24, 0.5, random=True)], [ResizeShortSide(40), RandomCrop(32)], [ResizeShortSide(64), CenterCrop(32)]
    ]  # fmt: skip
    for seed, chain in enumerate(chains):
        ordinary = read_crop(noise(*size), upright, chain, np.random.default_rng(seed))
        with monkeypatch.context() as patched:
            patched.setattr(large, "PLAIN", 0)
            patched.setattr(large, "STRIP", 300)
            parts = read_crop(noise(*size), upright, chain, np.random.default_rng(seed))
        assert ordinary.equal(parts), chain


def test_beyond_the_edges_is_black(in_parts):
    image = noise(9, 6)
    view = upright(image)
    for box in ((-3, -2, 5, 4), (4, 1, 20, 7), (-5, -5, 30, 30), (20, 20, 25, 26)):
        assert np.array_equal(np.asarray(view.crop(box)), np.asarray(image.crop(box)))
    assert np.array_equal(np.asarray(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), np.asarray(image)[:, ::-1])
    with pytest.raises(ValueError, match="from .* to .* is not done here"):
        view.resize((3, 3), Image.Resampling.LANCZOS)


def test_an_ordinary_image_is_resized_by_pillow():
    image = noise(300, 200)
    assert isinstance(resized(image, (150, 100)), Image.Image)
    assert isinstance(resized(image, (30_000, 20_000)), Resized) and to_rgb(image) is image


def peak(path, transforms):
    """MiB that reading needs at most, beyond what a process with all libraries has."""
    reader, writer = multiprocessing.Pipe(duplex=False)

    def measured():
        small = io.BytesIO()
        Image.new("RGB", (600, 500)).save(small, "PNG")
        read_crop(small, read_rgb, transforms, np.random.default_rng(0))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        read_crop(path, read_rgb, transforms, np.random.default_rng(0))
        writer.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)

    child = multiprocessing.get_context("fork").Process(target=measured)
    child.start()
    child.join()
    assert child.exitcode == 0
    return reader.recv()


SLACK = 24  # MiB: strips, and what allocators keep


@pytest.mark.parametrize("size", [(20_000, 2), (2, 20_000), (400_000, 11)])
def test_memory_for_scan_lines(tmp_path, size):
    """They would be enlarged to gigabytes, of which a crop is wanted."""
    path = tmp_path / "line.png"
    Image.new("RGB", size).save(path)
    for transforms in [crop(256) for crop in CROPS.values()] + [[ADMCrop(256, 0.5, random=True)]]:
        assert peak(path, transforms) < SLACK


@pytest.mark.parametrize("mode, decoded", [("RGB", 3), ("L", 1), ("RGBA", 4), ("I;16", 2)])
def test_memory_for_large_images(tmp_path, mode, decoded):
    """At most 1.5 times the decoded pixels, and the crop."""
    path, pixels = tmp_path / "large.png", 4000 * 4000 / 2**20
    Image.new(mode, (4000, 4000)).save(path, compress_level=1)
    for crop in CROPS if mode == "RGB" else ["adm"]:
        assert peak(path, CROPS[crop](256)) < 1.5 * decoded * pixels + SLACK
