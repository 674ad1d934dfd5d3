"""Values of files of any depth and number of bands, and the channels that they become."""

import io
import sys

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import vistok
from vistok.images.bands import Bands, bands_of, read_bands, with_channels
from vistok.images.crops import ADMCrop, CenterCrop, ResizeShortSide, to_tensor
from vistok.images.decoding import read_rgb
from vistok.images.large import Decoded
from vistok.images.rgb import UnreadableImage
from vistok.images.rgb_view import RGBView, rgb_view
from vistok.images.values import FileValues, read_values

from ..conftest import dicom

RAMP = np.arange(6 * 8).reshape(6, 8)


def tiff(levels, **options) -> io.BytesIO:
    file = io.BytesIO()
    tifffile.imwrite(file, levels, **options)
    file.seek(0)
    return file


def saved(image, kind="PNG", **options) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_values_of_every_type_survive(dtype):
    levels = (RAMP * 5 - (20 if dtype.startswith(("i", "f")) else 0)).astype(dtype)
    for file in (tiff(levels), io.BytesIO()):
        if not file.getvalue():
            np.save(file, levels)
            file.seek(0)
        found = read_values(file)
        assert found.levels.dtype == levels.dtype and np.array_equal(found.levels[..., 0], levels)


@pytest.mark.parametrize("options", [
    {"photometric": "minisblack", "planarconfig": "contig"}, {"photometric": "minisblack", "planarconfig": "separate"},
])  # fmt: skip
def test_bands_and_pages(options):
    levels = np.stack([RAMP + 100 * i for i in range(8)], 2).astype(np.uint16)
    stored = levels if options["planarconfig"] == "contig" else levels.transpose(2, 0, 1)
    assert np.array_equal(read_values(tiff(stored, **options)).levels, levels)
    pages = tiff(levels.transpose(2, 0, 1), photometric="minisblack", planarconfig=None)
    assert np.array_equal(read_values(pages).levels, levels)


def test_sixteen_bits_in_several_bands_of_a_png():
    levels = torch.arange(3 * 6 * 8, dtype=torch.int32).view(3, 6, 8) * 400
    data = png16(levels.permute(1, 2, 0).numpy().astype(np.uint16))
    found = read_values(io.BytesIO(data))
    assert found.levels.dtype == np.uint16 and not found.has_opacity
    assert np.array_equal(found.levels, levels.permute(1, 2, 0).numpy())


def png16(levels: np.ndarray) -> bytes:
    """A 16-bit RGB PNG, which Pillow cannot write."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_white_is_zero_is_inverted_at_every_depth():
    """8 bits by Pillow, 16 bits here: the same picture, with the first pixel white."""
    eight = read_rgb(tiff((RAMP * 5).astype(np.uint8), photometric="miniswhite"))
    sixteen = read_rgb(tiff((RAMP * 5 * 257).astype(np.uint16), photometric="miniswhite"))
    assert np.array_equal(np.asarray(eight), np.asarray(sixteen)) and np.asarray(eight)[0, 0, 0] == 255
    values = read_values(tiff((RAMP * 5).astype(np.uint16), photometric="miniswhite")).levels
    assert np.array_equal(values[..., 0], 65535 - RAMP * 5)


@pytest.mark.parametrize("levels, options, message", [
    (RAMP.astype(np.int16), {}, "16-bit signed integers of unknown range; data.range="),
    (RAMP.astype(np.uint32), {}, "32-bit unsigned integers of unknown range"),
    (RAMP.astype(np.float32), {}, "32-bit floats of unknown range"),
    (np.zeros((6, 8, 4), np.uint8), {"photometric": "rgb", "extrasamples": ["unspecified"]},
     "it has 4 bands; data.channels=4 reads all of them"),
    (np.zeros((5, 6, 8), np.uint16), {"photometric": "minisblack"}, "it has 5 pages; data.channels=5 reads them"),
    (np.zeros((6, 8, 9), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}, "it has 9 bands"),
])  # fmt: skip
def test_what_rgb_would_lose_is_refused(levels, options, message):
    for stored in (False, True):
        with pytest.raises(UnreadableImage, match=message):
            read_rgb(tiff(levels, **options), stored=stored)


def test_thumbnails_are_no_pages():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(np.full((6, 8, 3), 7, np.uint8), photometric="rgb")
        writer.write(np.zeros((3, 4, 3), np.uint8), photometric="rgb", subfiletype=1)
    file.seek(0)
    assert np.asarray(read_rgb(file))[0, 0].tolist() == [7, 7, 7]
    file.seek(0)
    assert read_values(file).levels.shape == (6, 8, 3)


def test_twelve_bits_keep_their_levels():
    levels = (np.arange(4096).reshape(64, 64)).astype(np.uint16)
    file = saved(Image.fromarray(levels))
    bands = read_bands(file, channels=1, low_high=(0, 4095))
    pixels = to_tensor(bands)
    assert pixels.shape == (1, 64, 64) and pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[0], torch.from_numpy(levels.astype(np.float32)) / 4095 * 2 - 1)
    assert len(pixels.unique()) == 4096 and pixels.min() == -1 and pixels.max() == 1


def test_values_beyond_the_range_are_clipped_and_others_refused():
    pixels = to_tensor(bands_of(FileValues(np.float32([[[-5], [0], [5], [20]]])), 1, (0, 10)))
    assert pixels.flatten().tolist() == [-1, -1, 0, 1]
    with pytest.raises(UnreadableImage, match="not finite"):
        bands_of(FileValues(np.float32([[[np.nan]]])), 1, (0, 1))
    with pytest.raises(UnreadableImage, match="float32 of unknown range"):
        bands_of(FileValues(np.float32([[[1]]])), 1)


@pytest.mark.parametrize("k, opacity, channels, expected", [
    (1, False, 3, [0.5] * 3),
    (1, False, 2, [0.5, 1]),
    (1, False, 4, [0.5, 0.5, 0.5, 1]),
    (3, False, 4, [0.5] * 3 + [1]),
    (3, False, 1, [0.5]),
    (4, True, 3, [0.75] * 3),  # half opaque, on white
    (4, True, 1, [0.75]),
    (2, True, 4, [0.5] * 4),
    (2, True, 1, [0.75]),
    (8, False, 8, [0.5] * 8),
])  # fmt: skip
def test_channels(k, opacity, channels, expected):
    made = with_channels(np.full((1, 1, k), 0.5, np.float32), opacity, channels)
    assert made[0, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("k, opacity, channels", [(8, False, 3), (3, False, 8), (4, False, 3), (3, False, 2)])
def test_channels_that_do_not_determine_each_other(k, opacity, channels):
    with pytest.raises(UnreadableImage, match=f"it has {k} channels, not data.channels={channels}"):
        with_channels(np.zeros((1, 1, k), np.float32), opacity, channels)


def test_luma_and_crops_are_those_of_pillow():
    """To a level, since Pillow rounds to 8 bits after each step."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8))
    bands = read_bands(saved(image), channels=1)
    assert isinstance(bands, Bands) and bands.size == (70, 50)
    for crop in (ADMCrop(20), CenterCrop(20)):
        ours = (to_tensor(crop(bands, rng)) + 1) * 127.5
        theirs = to_tensor(crop(image.convert("L").convert("RGB"), rng))[:1].float()
        assert (ours - theirs).abs().max() < 1.6


def test_exif_turns_bands():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = saved(Image.fromarray(RAMP.astype(np.uint8)), "PNG", exif=exif)
    assert np.array_equal(read_values(file).levels[..., 0], np.rot90(RAMP, -1))


def test_views():
    images = torch.arange(6.0).view(1, 6, 1, 1)
    assert RGBView()(images[:, :3]).flatten().tolist() == [0, 1, 2]
    assert RGBView(1)(images[:, 1:2]).flatten().tolist() == [1, 1, 1]
    assert rgb_view(6, [4, 2, 0])(images).flatten().tolist() == [4, 2, 0]
    assert not rgb_view(6, None).exists and rgb_view(6, None).picture(images.byte()).flatten().tolist() == [0, 1, 2]
    sprite = torch.tensor([10, 20, 30, 0], dtype=torch.uint8).view(1, 4, 1, 1)
    assert rgb_view(4, None).picture(sprite).flatten().tolist() == [255] * 3
    sprite = torch.tensor([0, 200, 255, 51], dtype=torch.uint8).view(1, 4, 1, 1).expand(2, 4, 16, 24)
    picture = rgb_view(4, None).picture(sprite)  # a fifth of (0, 200, 255), and four of white or of 204
    assert picture.shape == (2, 3, 16, 24)
    assert picture[1, :, 0, :5].T.tolist() == [[204, 244, 255]] * 2 + [[163, 203, 214]] * 2 + [[204, 244, 255]]
    assert torch.equal(picture[:, :, 2:, 2:], picture[:, :, :-2, :-2])
    assert not torch.equal(picture[:, :, 2:], picture[:, :, :-2])
    for bands in ([0, 1], [0, 1, 6], [0, 1, True]):
        with pytest.raises(ValueError, match="data.rgb_bands must be three channels of data.channels=6"):
            rgb_view(6, bands)


@pytest.mark.parametrize("channels, name, value_range, dtype", [
    (1, "a.png", None, np.uint8), (4, "a.png", None, np.uint8), (1, "a.png", (0, 4095), np.uint16),
    (1, "a.tif", (-1024, 3071), np.int16), (8, "a.tif", (0, 10000), np.uint16), (8, "a.tif", None, np.uint8),
    (3, "a.tif", (0, 65535), np.uint16),
])  # fmt: skip
def test_an_image_is_written_in_the_depth_it_was_given(tmp_path, channels, name, value_range, dtype):
    images = torch.linspace(-1, 1, channels * 64).view(1, channels, 8, 8)
    vistok.write_image(images, tmp_path / name, value_range)
    assert read_values(tmp_path / name).levels.dtype == dtype
    again = vistok.read_image(tmp_path / name, 8, channels=channels, value_range=value_range)
    step = 2 / 255 if value_range is None else 2 / (value_range[1] - value_range[0])
    assert again.shape == images.shape and (again - images).abs().max() < 0.51 * step + 1e-6


def test_images_that_no_file_can_hold(tmp_path):
    with pytest.raises(ValueError, match=r"a.png cannot hold 8 channels of uint8; a .tif file can"):
        vistok.write_image(torch.zeros(1, 8, 4, 4), tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"value_range=\[0, 100000\] does not fit 16-bit integers"):
        vistok.write_image(torch.zeros(1, 1, 4, 4), tmp_path / "a.tif", (0, 100000))


def test_dicom(tmp_path):
    """Hounsfield units in the window of the file; MONOCHROME1 is the same picture as its negative."""
    levels = (RAMP * 50).astype(np.uint16)
    tags = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40.5, "WindowWidth": 401}
    found = read_values(dicom(tmp_path, levels, **tags))
    assert np.array_equal(found.levels[..., 0], levels * 2.0 - 1024) and found.window == (-160, 240)
    pixels = to_tensor(read_bands(tmp_path / "a.dcm", 1))
    expected = ((levels * 2.0 - 1024 + 160) / 400).clip(0, 1) * 2 - 1
    torch.testing.assert_close(pixels[0].double(), torch.from_numpy(expected), rtol=0, atol=1e-6)
    plain = to_tensor(read_bands(dicom(tmp_path, levels), 1))
    torch.testing.assert_close(plain[0].double(), torch.from_numpy(levels / 4095 * 2 - 1), rtol=0, atol=1e-6)
    negative = dicom(tmp_path, (4095 - levels).astype(np.uint16), PhotometricInterpretation="MONOCHROME1")
    torch.testing.assert_close(to_tensor(read_bands(negative, 1)), plain)
    frames = read_values(dicom(tmp_path, np.stack([levels, levels + 1])))
    assert frames.levels.shape == (6, 8, 2)


def test_dicom_without_its_reader(tmp_path, monkeypatch):
    path = dicom(tmp_path, RAMP.astype(np.uint16))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImportError, match=r"DICOM files need pydicom: pip install 'vistok\[dicom\]'"):
        read_values(path)


@pytest.mark.parametrize("data", [b"", b"II*\0garbage", b"\x93NUMPY\1\0", bytes(128) + b"DICM" + bytes(40)])
def test_damaged_files(data):
    if data[128:132] == b"DICM":
        pytest.importorskip("pydicom")
    with pytest.raises(UnreadableImage):
        read_values(io.BytesIO(data))


def test_too_many_pixels():
    for file in (tiff(RAMP.astype(np.uint16)), saved(Image.fromarray(RAMP.astype(np.uint8)))):
        with pytest.raises(UnreadableImage, match="more than data.max_pixels=10"):
            read_values(file, 10, "data.max_pixels")


@pytest.mark.parametrize("crop", [ADMCrop(4, nearest=True), ResizeShortSide(4, nearest=True)])
@pytest.mark.parametrize("kind", ["pillow", "bands", "view"])
def test_pixel_art_keeps_its_levels(crop, kind):
    """Every pixel of a sprite that was enlarged eight times comes back; bicubic would mix them."""
    sprite = np.random.default_rng(0).integers(0, 256, (4, 4), dtype=np.uint8)
    large = Image.fromarray(sprite.repeat(8, 0).repeat(8, 1))
    image = {"pillow": large.convert("RGB"), "bands": read_bands(saved(large), 1), "view": Decoded(large)}[kind]
    made = to_tensor(crop(image, np.random.default_rng(0)))[0]
    levels = made if made.dtype == torch.uint8 else ((made + 1) * 127.5).round()
    assert np.array_equal(levels.numpy(), sprite)
