"""Pictures in docs/images that scripts of docs/assets draw: they are the ones that the scripts draw now."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

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
