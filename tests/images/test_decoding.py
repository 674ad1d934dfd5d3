"""Whatever a file holds becomes RGB that looks the same, or is named as unreadable."""

import io
import os
import subprocess
import tarfile

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, UnidentifiedImageError

import vistok
from vistok.data.batches import Sample, collate
from vistok.data.folder_listing import list_images
from vistok.data.image_folder import ImageFiles
from vistok.data.listings.folder_images import FolderImages
from vistok.data.streams import ShardImages
from vistok.images.crops import CenterCrop
from vistok.images.decoding import FORMATS, formats, image_extensions, open_image, read_rgb
from vistok.images.fast_jpeg import read_fast
from vistok.images.rgb import UnreadableImage
from vistok.tokens.loading import PartBatches
from vistok.tokens.sources import ShardSource, open_source

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
    with pytest.raises(UnreadableImage, match="floats of unknown range"):
        through_a_file(Image.fromarray(RAMP.astype(np.float32)), "TIFF")


def test_a_batch_leaves_out_what_has_no_image():
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    batch = collate([Sample(image, "a"), Sample(None, "b", ("b: broken",)), Sample(image, "c", ("d: cut short",))])
    assert batch.images.shape == (2, 3, 4, 4) and len(batch.names) == 2
    assert batch.names == ["a", "c"] and batch.skipped == ["b: broken", "d: cut short"]
    assert len(collate([Sample(None, "b", ("b: broken",))]).images) == 0


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A stand-in for ``gs`` on the path, which leaves a mark where it is started."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # looked for again
    return tmp_path / "ran"


def test_no_decoder_starts_a_program(tmp_path, ghostscript):
    """PostScript called ``photo.jpg``: in a folder, in a shard, for a codec, for tokens, for ``read_image``."""
    folder, photo = tmp_path / "images", tmp_path / "images" / "photo.jpg"
    folder.mkdir()
    photo.write_bytes(POSTSCRIPT)
    (folder / "photo.eps").write_bytes(POSTSCRIPT)
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        archive.add(photo, "photo.jpg")
    for read in (read_rgb, read_fast, lambda path: vistok.read_image(path, 8), open_image):
        with pytest.raises((UnreadableImage, UnidentifiedImageError), match="cannot identify image file"):
            read(photo)
    assert list_images(folder) == ["photo.jpg"]
    files = [ImageFiles(FolderImages(folder, ["photo.jpg", "photo.eps"]), [])[0, i] for i in (0, 1)]
    files += ShardImages([str(tmp_path / "s.tar")], [])
    for source in (open_source([str(folder)], 5), ShardSource([str(tmp_path / "s.tar")])):
        (batch,) = PartBatches(source, [0], 2, [], "none", 8)
        assert len(batch.skipped) == 1 and not batch.names
    assert [sample.image for sample in files] == [None] * 3 and not ghostscript.exists()
    with pytest.raises(subprocess.CalledProcessError):
        Image.open(photo).load()
    assert ghostscript.exists()  # so it would have been seen


def test_formats_are_those_that_photos_come_in():
    assert set(formats()) <= set(FORMATS) and {"JPEG", "PNG", "WEBP", "TIFF"} <= set(formats())
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".gif", ".ppm", ".jp2"} <= image_extensions()
    assert not {".eps", ".ps", ".pdf", ".psd", ".wmf", ".fpx", ".mic", ".ico", ".tga"} & image_extensions()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read(name):
    if name not in formats():
        pytest.skip(f"this Pillow was built without {name}")
    file = io.BytesIO()
    Image.fromarray(RAMP).convert("RGB").save(file, name)
    assert read_rgb(file).size == (16, 16)


def test_the_limit_of_pixels(monkeypatch, recwarn):
    file = io.BytesIO()
    Image.new("L", (40, 30)).save(file, "PNG")
    for read in (read_rgb, read_fast, open_image):
        assert read(file, 1200).size == (40, 30)
        file.seek(0)
        with pytest.raises(UnreadableImage, match="it has 1,200 pixels, more than data.max_pixels=1199$"):
            read(file, 1199, "data.max_pixels")
        file.seek(0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow would warn above it, and refuse twice as many
    assert read_rgb(file).size == (40, 30) and Image.MAX_IMAGE_PIXELS == 500
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)
    assert read_rgb(file).size == (40, 30) and not recwarn.list


def test_the_limit_of_pixels_is_a_key(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        archive.add(tmp_path / "a.png", "a.png")
    message = "it has 1,200 pixels, more than data.max_pixels=1000"
    data = vistok.data.folder(str(tmp_path), 8, 2, max_pixels=1000)
    assert [part[0, 0].skipped[0] for part in (data.val, data.test)] == [f"{tmp_path}/a.png: {message}"] * 2
    urls = str(tmp_path / "s.tar")
    data = vistok.data.shards(urls, urls, 8, 2, max_pixels=1000)
    assert next(iter(data.val)).skipped == (f"{urls}:a.png: {message}",)
    with pytest.raises(UnreadableImage, match=message):
        next(iter(data.train))
    (batch,) = PartBatches(open_source([str(tmp_path)], 5), [0], 2, [], "none", 8, max_pixels=1000)
    assert batch.skipped == [f"a.png: {message.replace('data.max_pixels', '--max-pixels')}"]
    with pytest.raises(UnreadableImage, match=r"a.png cannot be read: it has 1,200 pixels, more than max_pixels=1000"):
        vistok.read_image(tmp_path / "a.png", 8, max_pixels=1000)
    for make in (vistok.data.folder, lambda root, *words, **key: vistok.data.shards(urls, urls, *words, **key)):
        with pytest.raises(ValueError, match="data.max_pixels must be at least 1, not 0"):
            make(str(tmp_path), 8, 2, max_pixels=0)


@pytest.mark.parametrize("where", ["decoder", "transform"])
def test_where_memory_ends_the_file_is_named(tmp_path, monkeypatch, where):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")

    def full(*arguments):
        raise MemoryError

    monkeypatch.setattr(
        *(("PIL.ImageFile.ImageFile.load", full) if where == "decoder" else (CenterCrop, "__call__", full))
    )
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        archive.add(tmp_path / "a.png", "a.png")
    files, stream = (
        ImageFiles(FolderImages(tmp_path, ["a.png"]), [CenterCrop(8)]),
        ShardImages([str(tmp_path / "s.tar")], [CenterCrop(8)]),
    )
    for sample, name in ((files[0, 0], "/a.png"), (next(iter(stream)), "s.tar:a.png")):
        assert sample.image is None and f"{name}: " in sample.skipped[0] and "emory" in sample.skipped[0]
    monkeypatch.setattr("vistok.images.crops.ADMCrop.__call__", full)
    with pytest.raises(UnreadableImage, match=r"a.png cannot be read: .*emory"):
        vistok.read_image(tmp_path / "a.png", 8)


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (40, 30)).save(tmp_path / name)
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"no image")
    data = vistok.data.folder(str(tmp_path), 8, 2, val_count=1, max_unreadable=1)
    assert sorted(data.test.names()) == [r"\udcff.png", r"caf\udce9.png"]
    samples = {sample.name: sample for sample in (data.test[0, i] for i in (0, 1))}
    assert samples[r"caf\udce9.png"].image is not None
    assert samples[r"\udcff.png"].skipped[0].startswith(rf"{tmp_path}/\udcff.png: UnidentifiedImageError")
    source = open_source([str(tmp_path)], 5)
    assert sorted(member.name for member in source.members(0)) == sorted(data.test.names())
    assert len(source.identity()["sha256_of_names"]) == 64
    (tmp_path / os.fsdecode(b"\xe9")).mkdir()
    os.rename(tmp_path / name, tmp_path / os.fsdecode(b"\xe9") / name)
    (tmp_path / os.fsdecode(b"\xff.png")).unlink()
    assert open_source([str(tmp_path)], 5).classes == (r"\udce9",)


def test_a_corrupt_file_where_sizes_are_left_alone(photos):
    """It counts as any other that cannot be read: too many are refused at once, by one of their names."""
    (photos / "broken.jpg").write_bytes(b"no image")
    data = vistok.data.folder(str(photos), 32, 4, resize=0, max_unreadable=0.5)
    (skipped,) = [reason for i in range(len(data.test)) for reason in data.test[0, i].skipped]
    assert skipped.startswith(f"{photos}/broken.jpg: UnidentifiedImageError")
    message = "^1 of 13 images cannot be read, more than data.max_unreadable=0.01 of them, such as .*/broken.jpg: Unid"
    with pytest.raises(UnreadableImage, match=message):
        vistok.data.folder(str(photos), 32, 4, resize=0)
    with pytest.raises(ValueError, match="smaller than the crop of 64"):
        vistok.data.folder(str(photos), 64, 4, resize=0)
