"""``tokenize --crop native``: tokens of images in their own sizes, a grid for each."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vistok
from vistok import __main__ as program
from vistok.formats import native
from vistok.images.ranges import to_uint8
from vistok.tokens import TokenDataset, TokenStore

SIZES = {"a": (37, 50), "b": (9, 6), "c": (90, 61), "d": (37, 50)}  # height, width
F = 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Images of several sizes in class folders, one turned by EXIF, one with a palette."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, (height, width) in SIZES.items():
        pixels = np.kron(rng.integers(0, 4, (23, 16, 3)) * 80, np.ones((4, 4, 1)))[:height, :width]
        image, path = Image.fromarray(pixels.astype(np.uint8)), root / ("cat" if name < "c" else "dog") / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        if name == "c":
            exif = Image.Exif()
            exif[0x0112] = 6  # to be turned by a quarter
            image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
        else:
            (image.quantize(256) if name == "d" else image).save(path)
    return root


@pytest.fixture
def write(make, photos, tmp_path):
    """``write(kind, *words)``: a tokenizer with such a head, and the folder of its tokens."""

    def run(kind: str, *words: str) -> tuple[vistok.Tokenizer, Path]:
        folder = tmp_path / kind
        if not folder.exists():
            native.save(make(kind), folder)
        out = tmp_path / f"tokens-{kind}"
        given = ["--images", str(photos), "--out", str(out), "--crop", "native", "--per-shard", "3"]
        program.main(["tokenize", str(folder), *given, "--num-workers", "0", "--device", "cpu", *words])
        return vistok.load(folder).eval(), out

    return run


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.mark.parametrize("kind, tile", [("vq", None), ("fq", None), ("rq", 48)])
def test_codes_are_those_of_the_image_in_its_own_size(write, photos, kind, tile):
    words = [] if tile is None else ["--tile", str(tile), "--overlap", "8"]
    tiles = {} if tile is None else {"tile": tile, "overlap": 8}
    tokenizer, out = write(kind, "--views", "flip", *words)
    store, k = TokenStore(out), len(tokenizer.quantizer.codebook_sizes)
    assert list(store.verify()) == [3, 4] and store.labels.tolist() == [0, 0, 1, 1]
    assert store.header.native and store.header.grid is None and (store.header.tile or None) == tile
    for i, (name, (height, width)) in enumerate(SIZES.items()):
        image = vistok.read_image(photos / store.names[i])
        assert store.names[i].endswith(f"{name}.png") and store.size(i) == image.shape[2:] == (height, width)
        expected, emitted = tokenizer.reconstruct(image, **tiles)
        codes, keep = store.view(i)
        assert codes.shape == (k, -(-height // F), -(-width // F)) == (k, *keep.shape) and keep.all()
        assert np.array_equal(codes, emitted.codes[0])
        mirrored = tokenizer.reconstruct(image.flip(3), **tiles)[1].codes
        assert np.array_equal(store.codes(i), torch.cat([emitted.codes, mirrored]))
        again = store.decode(tokenizer, emitted.codes)[..., :height, :width]
        assert torch.equal(again, expected.clamp(-1, 1))
    item = TokenDataset(out, view=1)[2]
    assert item.codes.shape == (k, 23, 16) and item.label == 1 and item.ids.shape == (k * 23 * 16,)


def test_the_same_command_goes_on(write, capsys):
    _, out = write("vq")
    before = files(out)
    assert len(before) == 1 + 2 * 4 and "shard-000001.sizes.npy" in before
    (out / "shard-000001.tokens.npy").write_bytes(b"damaged")
    write("vq")
    assert files(out) == before
    with pytest.raises(SystemExit):
        write("vq", "--tile", "48")
    assert "holds other tokens: tile is None there and 48 here" in capsys.readouterr().err


def test_bits_in_parts(write):
    tokenizer, out = write("lfq", "--split-bits", "6", "12")
    parts = TokenStore(out)
    codes = torch.from_numpy(parts.codes(0))
    assert parts.header.codebook_sizes == (64, 4096) and codes.shape[1] == 2
    assert parts.decode(tokenizer, codes).shape == (1, 3, 40, 52)


def test_a_picture_of_them(write, tmp_path, capsys):
    tokenizer, out = write("vq")
    folder = tmp_path / "vq"
    program.main(["tokens", "check", str(out), "--tokenizer", str(folder), "--out", str(tmp_path / "sheet.png")])
    assert "4 images in 1 view, 4 with a label; a grid for each image, 32 codewords" in " ".join(
        capsys.readouterr().out.split()
    )
    picture = np.array(Image.open(tmp_path / "sheet.png"))
    assert picture.shape[1] >= 4 * 256
    store = TokenStore(out)
    height, width = store.size(0)
    first = to_uint8(store.decode(tokenizer, torch.from_numpy(store.codes(0))))[0, :, :height, :width]
    shown = Image.fromarray(first.permute(1, 2, 0).numpy()).resize((256, round(256 * height / width)), 2)
    rows = np.array(shown).astype(int)
    assert any(
        np.abs(picture[y : y + len(rows), x : x + 256, :3].astype(int) - rows).mean() < 3
        for y in range(picture.shape[0] - len(rows) + 1)
        for x in range(0, 12)
    )


@pytest.mark.parametrize("words, message", [
    (["tokens", "export", "TOKENS", "--to", "jsonl", "--out", "OUT"], "--to=jsonl needs images of one size, but each"),
    (["probe", "TOKENS", "--out", "OUT"], "a probe needs images of one size, but each image of these tokens"),
])  # fmt: skip
def test_what_needs_one_size_says_so(write, tmp_path, capsys, words, message):
    _, out = write("vq")
    given = [{"TOKENS": str(out), "OUT": str(tmp_path / "result")}.get(word, word) for word in words]
    with pytest.raises(SystemExit):
        program.main(given)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "result").exists()


@pytest.mark.parametrize("kind, words, message", [
    ("dq", [], "--crop=native: a DynamicQuantizer chooses granularities from the full image, so its tokens are"),
    ("ms", [], "--crop=native: a MultiScaleQuantizer has scales of the full image"),
    ("vq", ["--image-size", "32"], "--image-size=32 is not used with --crop=native"),
    ("vq", ["--views", "ten"], "crop=native takes neither views=ten nor rate"),
    ("vq", ["--batch-size", "2"], "batch_size=2 must be 1 with crop=native"),
    ("vq", ["--overlap", "4"], "overlap=4 needs a tile"),
    ("vq", ["--tile", "32", "--crop", "adm"], "--tile=32 needs --crop=native"),
    ("vq", ["--tile", "32", "--overlap", "20"], "--overlap=20 must be 0 or more, and less than half of --tile=32"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(write, tmp_path, capsys, kind, words, message):
    with pytest.raises(SystemExit):
        write(kind, *words)
    assert message in capsys.readouterr().err
    assert not (tmp_path / f"tokens-{kind}").exists()


@pytest.mark.parametrize("change, message", [
    ({"grid": [8, 8]}, r"grid=\(8, 8\) with crop=native, not null"),
    ({"batch_size": 2}, "batch_size=2 with crop=native"),
    ({"views": "ten"}, "views='ten' and batch_size=1 with crop=native"),
    ({"crop": "adm"}, "grid=None, not a list"),
    ({"tile": 0}, "has tile=0"),
    ({"overlap": 4}, "has overlap=4"),
])  # fmt: skip
def test_a_header_that_is_wrong(write, change, message):
    _, out = write("vq")
    index = json.loads((out / "index.json").read_text())
    (out / "index.json").write_text(json.dumps(index | change))
    with pytest.raises(ValueError, match=message):
        TokenStore(out)


def test_sizes_that_are_wrong(write, tmp_path):
    _, out = write("vq")
    sizes = np.load(out / "shard-000000.sizes.npy")
    assert sizes.tolist() == [[37, 50, 10, 13], [9, 6, 3, 2], [90, 61, 23, 16]]
    for row, message in (([37, 50, 11, 13], "but by index.json it is"), ([1, 1, 2**31, 2**31], "more than 1,048,576")):
        other = tmp_path / f"other{row[2]}"
        shutil.copytree(out, other)
        np.save(other / "shard-000000.sizes.npy", np.array([row, *sizes[1:].tolist()], dtype="uint32"))
        with pytest.raises(ValueError, match=message):
            TokenStore(other).view(0)
