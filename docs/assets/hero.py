"""The picture at the head of the README: photos, their tokens, and the images that are made of these tokens again.

    python docs/assets/hero.py    # writes docs/images/hero.webp; tests/test_pictures.py compares it

The photos come with scikit-image: astronaut (public domain, NASA), coffee and chelsea (CC0). The tokenizer is the one
in the package, which was not trained on them. A tile stands for one token; its colour is the place of its codeword
along the first three principal components of the codebook.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import get_data_path
from matplotlib.colors import hsv_to_rgb
from PIL import Image, ImageDraw, ImageFont
from skimage import data

import vistok
from vistok import Tokenizer

TARGET = Path(__file__).parent.parent / "images" / "hero.webp"
PHOTOS = {
    "astronaut": (40, 0, 372, 249),
    "coffee": (34, 0, 567, 400),
    "chelsea": (25, 0, 425, 300),
}  # left, top, right, bottom
SIZE = (256, 192)  # pixels of a photo
SCALE = 2  # pixels of the picture for a pixel of a photo, for displays of high density
GAP, HEAD = 56, 72  # pixels between two columns; height of the labels. Both before SCALE
GREY = (122, 130, 150)  # of labels and arrows: readable on white and on dark pages


def photo(name: str) -> Image.Image:
    crop = Image.fromarray(getattr(data, name)()).crop(PHOTOS[name])
    return crop.resize(SIZE, Image.Resampling.LANCZOS)


def palette(codebook: torch.Tensor) -> np.ndarray:
    """Colours (n, 3) uint8 of codewords (n, d): brightness by the first principal component, hue by the next two."""
    centred = (codebook - codebook.mean(0)).double()
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :3]
    axes = axes * axes.gather(0, axes.abs().argmax(0, True)).sign()  # eigenvectors have no sign of their own
    first, second, third = (centred @ axes).T
    bright = first.argsort().argsort() / (len(codebook) - 1)
    hue = torch.atan2(third / third.std(), second / second.std()) / (2 * torch.pi) % 1
    hsv = torch.stack([hue, torch.full_like(hue, 0.45), 0.45 + 0.55 * bright], 1)
    return (255 * hsv_to_rgb(hsv.numpy())).round().astype(np.uint8)


def token_map(codes: np.ndarray, colours: np.ndarray, side: int) -> Image.Image:
    """A tile of ``side`` pixels for each of the codes (h, w), with a gap at its right and lower edge."""
    tiles = Image.fromarray(colours[codes]).resize(
        (codes.shape[1] * side, codes.shape[0] * side), Image.Resampling.NEAREST
    )
    alpha = np.zeros((tiles.height, tiles.width), np.uint8)
    edge = side // 8
    inside = np.arange(tiles.width) % side < side - edge
    alpha[np.outer(np.arange(tiles.height) % side < side - edge, inside)] = 255
    tiles.putalpha(Image.fromarray(alpha))
    return tiles


def rounded(picture: Image.Image, radius: int) -> Image.Image:
    mask = Image.new("L", (picture.width * 4, picture.height * 4))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), radius * 4, fill=255)
    result = picture.convert("RGBA")
    own = np.minimum(np.asarray(result.getchannel("A")), np.asarray(mask.resize(picture.size, Image.Resampling.BOX)))
    result.putalpha(Image.fromarray(own))
    return result


@torch.inference_mode()
def stages(tokenizer: Tokenizer, picture: Image.Image) -> tuple[np.ndarray, Image.Image]:
    """Codes (h, w) of a photo, and its reconstruction from them."""
    images = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    codes = tokenizer.tokenize(images)
    again = tokenizer.detokenize(codes)[0].permute(1, 2, 0)
    return codes[0, 0].numpy(), Image.fromarray(((again + 1) * 127.5).round().byte().numpy())


def draw(names: Sequence[str] = tuple(PHOTOS)) -> Image.Image:
    """A row for each of the photos."""
    tokenizer = vistok.load("sample")
    table = tokenizer.quantizer.table(0)
    assert table is not None
    colours, bits = palette(table.values), (len(table.values) - 1).bit_length()
    width, height = (side * SCALE for side in SIZE)
    gap, head, between = GAP * SCALE, HEAD * SCALE, 10 * SCALE
    canvas = Image.new("RGBA", (3 * width + 2 * gap, head + len(names) * (height + between) - between), (*GREY, 0))
    drawing = ImageDraw.Draw(canvas)
    for row, name in enumerate(names):
        picture = photo(name)
        codes, again = stages(tokenizer, picture)
        shown = [
            picture.resize((width, height), Image.Resampling.BICUBIC),
            token_map(codes, colours, width // codes.shape[1]),
            again.resize((width, height), Image.Resampling.BICUBIC),
        ]
        top = head + row * (height + between)
        for column, tile in enumerate(shown):
            canvas.alpha_composite(rounded(tile, 6 * SCALE), (column * (width + gap), top))
            if column:
                arrow(drawing, column * (width + gap) - gap // 2, top + height // 2, 16 * SCALE)
    labels = (
        ("image", f"{SIZE[0] * SIZE[1] * 3 / 1000:.0f} kB of pixels"),
        (f"{codes.size} tokens", f"{codes.size * bits / 8000:.1f} kB"),
        ("image again", "from the tokens"),
    )
    for column, (title, text) in enumerate(labels):
        middle = column * (width + gap) + width // 2
        drawing.text((middle, 16 * SCALE), title, GREY, font("DejaVuSans-Bold", 27), anchor="mm")
        drawing.text((middle, 49 * SCALE), text, GREY, font("DejaVuSans", 23), anchor="mm")
    return canvas


def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """One of matplotlib's fonts, which are the same on every machine; ``size`` is in pixels before SCALE."""
    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size * SCALE)


def arrow(drawing: ImageDraw.ImageDraw, x: int, y: int, reach: int) -> None:
    drawing.line((x - reach, y, x + reach // 2, y), GREY, width=reach // 5)
    drawing.polygon([(x + reach, y), (x + reach // 5, y - reach // 2), (x + reach // 5, y + reach // 2)], GREY)


if __name__ == "__main__":
    draw().save(Path(sys.argv[1]) if sys.argv[1:] else TARGET, quality=82, method=6)
