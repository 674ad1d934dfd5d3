"""``vistok.show``: which pictures are where, and the colours of codes."""

import colorsys

import numpy as np
import pytest
import torch

from vistok import show
from vistok.plots.token_maps import colours, frequent
from vistok.quantizers import Layout

GAP, CAPTION = 6, 28


def colour_of(code):
    """By the formula of the report's ``token_map.js``."""
    lightness = (0.50, 0.66, 0.36)[code // 97 % 3]
    return tuple(round(255 * part) for part in colorsys.hls_to_rgb(code * 137.50776 % 360 / 360, lightness, 0.75))


@pytest.mark.parametrize("code", [0, 1, 96, 97, 200, 4095, 262_143, 2**32 + 5])
def test_colours_are_those_of_reports(code):
    difference = colours(np.array([code])).astype(int) - np.array(colour_of(code % 2**32))
    assert np.abs(difference).max() <= 1


def test_a_row_for_each_argument():
    images = torch.stack([torch.full((3, 40, 20), level) for level in (-1.0, 1.0)])  # enlarged by 8
    codes = torch.tensor([5, 7, 9, 9]).reshape(1, 1, 2, 2).expand(2, -1, -1, -1)
    picture = show(images, images.abs(), codes)
    assert picture.mode == "RGB" and picture.height == 3 * (320 + GAP) + 2 * GAP + CAPTION
    middle, right = GAP + 80, GAP + 160 + GAP + 80
    assert [picture.getpixel((x, GAP + 160)) for x in (middle, right)] == [(0, 0, 0), (255, 255, 255)]
    assert picture.getpixel((middle, GAP + 320 + 2 * GAP + 160)) == (255, 255, 255)  # the second row
    top, found = 2 * (GAP + 320 + GAP) + CAPTION, []
    for x, y in ((1, 1), (159, 1), (1, 319), (159, 319)):
        found.append(picture.getpixel((GAP + x, top + y)))
    expected = [tuple(colours(np.array([code]))[0].tolist()) for code in (5, 7, 9, 9)]
    assert found == expected


def test_what_notebooks_and_files_need(tmp_path):
    picture = show(torch.zeros(1, 3, 8, 8))
    assert picture._repr_png_()[1:4] == b"PNG"
    picture.save(tmp_path / "grid.png")


def test_images_of_any_kind():
    sizes = [torch.zeros(1, 8, 8), torch.zeros(1, 4, 160, 320), torch.zeros(5, 600, 1200, dtype=torch.uint8)]
    picture = show(sizes, labels=["grey", "RGBA", "five bands of 8 bits, reduced"])
    assert picture.size == (4 * GAP + 160 + 320 + 512, CAPTION + 256 + GAP)
    assert picture.getpixel((GAP + 80, CAPTION + 80)) == (128, 128, 128)
    assert picture.getpixel((GAP + 80, CAPTION + 200)) == (255, 255, 255)  # below the smaller one
    assert picture.getpixel((3 * GAP + 480 + 256, CAPTION + 128)) == (0, 0, 0)
    assert show(np.zeros((1, 3, 8, 8), np.uint8)).getpixel((GAP, GAP)) == (0, 0, 0)


def test_many_images_continue_below():
    levels = torch.linspace(-1, 1, 5).reshape(5, 1, 1, 1).expand(5, 3, 8, 8)
    picture = show(levels, columns=3, labels=list("abcde"))
    assert picture.size == (4 * GAP + 3 * 160, 2 * (CAPTION + 160 + GAP))
    cells = [(GAP + 80 + 166 * (n % 3), CAPTION + 80 + (n // 3) * (CAPTION + 160 + GAP)) for n in range(6)]
    assert [picture.getpixel(cell)[0] for cell in cells] == [0, 64, 128, 191, 255, 255]


def test_every_scale_and_codebook_has_a_row():
    layout = Layout(((1, 1), (2, 2)))
    codes = torch.arange(10).reshape(1, 2, 1, 5)
    picture = show(codes, layout=layout)
    row = CAPTION + 160 + GAP
    assert picture.height == 4 * row
    centres = [picture.getpixel((GAP + 20, n * row + CAPTION + 20)) for n in range(4)]
    assert centres == [tuple(own) for own in colours(np.array([0, 5, 1, 6])).tolist()]  # scale by scale


def test_a_sequence_is_in_lines():
    picture = show(torch.arange(40).reshape(1, 1, 1, 40))
    assert picture.height == CAPTION + 2 * 5 + GAP  # 32 and 8 squares of 5 pixels
    at = [picture.getpixel((GAP + x, CAPTION + y)) for x, y in ((2, 2), (157, 2), (2, 7), (37, 7), (42, 7))]
    assert at[:4] == [tuple(own) for own in colours(np.array([0, 31, 32, 39])).tolist()] and at[4] == (255, 255, 255)


def test_the_legend_has_the_most_frequent_codes():
    different, legend = frequent([np.array([[3, 3], [8, 1]]), np.array([[3, 8]])], most=2)
    assert different == 3 and [text for _, text in legend] == ["3 (3)", "8 (2)"]
    assert [colour for colour, _ in legend] == [tuple(own) for own in colours(np.array([3, 8])).tolist()]
    picture = show(torch.full((1, 1, 2, 2), 3))
    line = {picture.getpixel((x, CAPTION // 2)) for x in range(picture.width)}
    assert picture.width > 160 + 2 * GAP and tuple(colours(np.array([3]))[0].tolist()) in line


def test_the_same_code_in_files_has_the_same_colour():
    codes = torch.arange(4).reshape(1, 1, 2, 2)
    assert show(codes).tobytes() == show(codes.numpy().astype(np.uint16)).tobytes() == show(codes[0]).tobytes()


@pytest.mark.parametrize("rows, options, message", [
    ((), {}, "show takes one or more arguments of as many images each, not of none"),
    ((torch.zeros(2, 3, 4, 4), torch.zeros(3, 3, 4, 4)), {}, r"as many images each, not of \[2, 3\]"),
    ((torch.zeros(4, 4),), {}, r"argument 0 has the shape \(4, 4\) of float32: show takes images \(b, c, H, W\) and"),
    ((torch.zeros(1, 3, 4, 4) > 0,), {}, "argument 0 has the shape .* of bool"),
    ((torch.zeros(1, 3, 4, 4), 255 * torch.ones(1, 3, 4, 4)), {}, "argument 1 has floats up to 255: images are in"),
    (([torch.zeros(3, 4, 4), torch.zeros(1, 4, 4).long()],), {}, "argument 0 has images and codes"),
    ((torch.zeros(2, 3, 4, 4),), {"labels": ["a", "b", "c"]}, "labels are 3, but there are 1 arguments and 2 images"),
    ((torch.zeros(1, 3, 4, 4),), {"columns": 0}, "columns must be at least 1, not 0"),
])  # fmt: skip
def test_refusals(rows, options, message):
    with pytest.raises(ValueError, match=message):
        show(*rows, **options)
