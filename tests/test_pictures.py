"""Pictures in docs/images that scripts of docs/assets draw: they are the ones that the scripts draw now."""

import base64
import io
import re
import runpy
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from vistok.quantizers import IBQ, VectorQuantizer

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def hero():
    return runpy.run_path(str(DOCS / "assets" / "hero.py"))


def test_the_hero_is_drawn_again(hero):
    """Its first row. Two processors may disagree on a few tokens, two versions of libwebp on a few levels."""
    drawn, path = hero["draw"](["astronaut"]), DOCS / "images" / "hero.webp"
    assert path.stat().st_size < 250_000
    with Image.open(path) as picture:
        assert picture.width == drawn.width
        stored = np.asarray(picture.convert("RGBA"), dtype=int)[: drawn.height]
    drawn = np.asarray(drawn, dtype=int)
    visible = drawn[..., 3] > 0
    assert np.abs(stored[..., 3] - drawn[..., 3]).mean() < 0.1
    assert np.abs(stored - drawn)[visible].mean() < 5


def test_the_heroes_tiles_are_codewords(hero):
    """Tiles of one colour are of one code, and near codewords have similar colours."""
    line = torch.linspace(0, 1, 64)[:, None] * torch.tensor([1.0, 0.3, 0.2])
    noise = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    colours = hero["palette"](line + 0.01 * noise).astype(int)
    assert colours.shape == (64, 3) and np.diff(colours.max(1)).min() > -12  # brightness along the first component
    tiles = np.asarray(hero["token_map"](np.array([[0, 1], [1, 0]]), colours.astype(np.uint8), 16))
    assert (tiles[:13, :13, :3] == colours[0]).all() and (tiles[:13, 16:29, :3] == colours[1]).all()
    assert (tiles[14:16, :, 3] == 0).all()


@pytest.fixture(scope="module")
def head_figures():
    """The script, and its modules forgotten again afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        yield runpy.run_path(str(DOCS / "assets" / "head_figures.py"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "figures"]:
        del sys.modules[name]


def parsed(svg):
    """Text between the numbers of a figure, its numbers, and the pixels of its images."""
    images = re.findall(r"data:image/\w+;base64,([\w+/=]+)", svg)
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(image))), dtype=int) for image in images]
    svg = re.sub(r"base64,[\w+/=]+", "", svg)
    number = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
    return re.split(number, svg), np.array(re.findall(number, svg), dtype=float), pixels


def test_the_figures_of_heads_are_drawn_again(head_figures):
    """The same elements, at places within a unit: training a head rounds differently on other processors."""
    folder = DOCS / "images" / "heads"
    assert {path.stem for path in folder.iterdir()} == set(head_figures["FIGURES"])
    for name, draw in head_figures["FIGURES"].items():
        svg = draw().svg()
        text, numbers, images = parsed(svg)
        stored_text, stored_numbers, stored_images = parsed((folder / f"{name}.svg").read_text())
        assert text == stored_text and np.abs(numbers - stored_numbers).max() < 1, name
        assert all(np.abs(a - b).mean() < 2 for a, b in zip(images, stored_images, strict=True)), name
        assert ElementTree.fromstring(svg)[0].text, name  # a title for screen readers


def test_drawn_regions_are_those_of_the_head(head_figures):
    """The middle of each region has the code of the region."""
    tables = head_figures["tables"]
    codewords = tables.spread(12, (2, 1), seed=0)
    box = np.array([(-3, -2), (3, -2), (3, 2), (-3, 2)], dtype=float)
    for head, bias in ((VectorQuantizer(12, 2), -(codewords**2).sum(1) / 2), (IBQ(12, 2), torch.zeros(12))):
        head = tables.with_codewords(head, codewords)
        polygons = tables.regions(codewords.double().numpy(), bias.double().numpy(), box)
        own = [(code, polygon.mean(0)) for code, polygon in enumerate(polygons) if len(polygon)]
        middles = torch.tensor(np.array([middle for _, middle in own]), dtype=torch.float32)
        codes = head.encode(middles.T[None, :, None]).codes.flatten()
        assert codes.tolist() == [code for code, _ in own] and len(own) > 4
