"""Figures of heads that contain other heads: fq, residual, multiscale and dqvae."""

import base64
import io

import numpy as np
import torch
from figures.drawing import CODEWORD, GREY, LATENT, WIDTH, Figure, Panel
from figures.tables import LEGEND, cells, choices, latents, spread, vectors, with_codewords
from PIL import Image
from skimage import data
from torch import Tensor

from vistok.quantizers import (
    Context,
    DynamicQuantizer,
    EntropyRouter,
    FactorizedQuantizer,
    MultiScaleQuantizer,
    Quantizer,
    ResidualQuantizer,
    VectorQuantizer,
)


def fq() -> Figure:
    title = "Two sub-codebooks side by side: each quantizes its two channels of four latents"
    figure = Figure(350, title)
    heads = [with_codewords(VectorQuantizer(7, 2), spread(7, (1.2, 1.2), seed=seed)) for seed in (0, 6)]
    head = FactorizedQuantizer(heads)
    z = torch.cat([spread(4, (1.2, 1.2), seed=seed) for seed in (13, 21)], 1).T[None, :, None]
    for i in range(2):
        panel = Panel(figure, (1 + 286 * i, 28, 272, 272), reach=1.5)
        choices(panel, z, head, slice(2 * i, 2 * i + 2), i=i)
        panel.frame(f"channels {2 * i + 1} and {2 * i + 2}")
    figure.legend(*LEGEND)
    return figure


def learned(head: Quantizer, z: Tensor, updates: int) -> Quantizer:
    """A head with codebooks of moving averages after updates on one latent."""
    for _ in range(updates):
        stats = head(z).stats
        assert stats is not None
        head.update(stats)
    return head.eval()


def residual() -> Figure:
    title = "Four codewords are added: each depth takes the one nearest to what the sum so far leaves of the latent"
    figure = Figure(340, title)
    torch.manual_seed(4)
    depths = [VectorQuantizer(8, 2, ema_decay=0.8, kmeans_updates=10) for _ in range(4)]
    head = learned(ResidualQuantizer(depths), torch.randn(1, 2, 1, 512), 25)
    panel = Panel(figure, (1, 1, WIDTH - 2, 298), centre=(1.3, -0.25), reach=2.7)
    z = latents((3.41, -0.61))
    codes = head.encode(z).codes
    sums = [np.zeros(2), *(vectors(head.lookup(codes[:, : depth + 1]))[0] for depth in range(4))]
    cells(panel, depths[0], 0, {int(codes[0, 0])})
    for codeword in depths[0].codebook().numpy():
        if (np.abs(codeword - panel.centre) < panel.reach).all():
            panel.dot(codeword, CODEWORD, filled=False)
    for depth in range(4):
        panel.arrow(sums[depth], sums[depth + 1], CODEWORD, width=2.5)
        panel.text((sums[depth] + sums[depth + 1]) / 2, str(depth + 1), CODEWORD, dy=16, bold=True)
    panel.dot(sums[0], GREY, radius=4)
    panel.text(sums[0], "0", dx=-14)
    panel.dot(vectors(z)[0], LATENT)
    panel.frame()
    figure.legend(LEGEND[0], ("ring", CODEWORD, "codeword of depth 1"), ("arrow", CODEWORD, "codeword added"))
    return figure


def coffee(side: int) -> np.ndarray:
    """scikit-image's coffee (CC0), a square of ``side`` pixels."""
    picture = Image.fromarray(data.coffee()).crop((100, 0, 500, 400))
    return np.array(picture.resize((side, side), Image.Resampling.BOX))


def pixels(figure: Figure, image: np.ndarray, left: float, top: float, size: float, **options: int) -> None:
    """An image (h, w, 3) uint8 in the figure: JPEG of a ``quality``, or PNG, whose pixels become squares."""
    file, kind = io.BytesIO(), "jpeg" if options else "png"
    Image.fromarray(image).save(file, kind, **options)
    source = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
    style = {} if options else {"style": "image-rendering:pixelated"}
    figure.add("image", x=left, y=top, width=size, height=size, href=source, **style)


def levels(latent: Tensor) -> np.ndarray:
    """Colours (h, w, 3) of a latent (1, 3, h, w) whose channels are red, green and blue from -1 to 1."""
    return ((latent[0].movedim(0, -1).detach().numpy() + 1) * 127.5).round().clip(0, 255).astype(np.uint8)


def multiscale() -> Figure:
    title = "A picture of 16 × 16 pixels as the sum of maps of 1 × 1, 2 × 2, 4 × 4, 8 × 8 and 16 × 16 codewords"
    figure = Figure(278, title)
    torch.manual_seed(0)
    z = torch.from_numpy(coffee(16)).permute(2, 0, 1)[None] / 127.5 - 1
    scales = (1, 2, 4, 8, 16)
    own = VectorQuantizer(64, 3, ema_decay=0.8, kmeans_updates=10)
    head = learned(MultiScaleQuantizer(own, scales, phi=0), z, 25)
    codes, layout = head.encode(z).codes, head.layout(16, 16)
    maps = layout.split(codes)
    size, step = 100, 114
    for i, (side, own_codes) in enumerate(zip(scales, maps, strict=True)):
        left = 1 + i * step
        count = sum(other**2 for other in scales[: i + 1])
        pixels(figure, levels(own.lookup(own_codes)), left, 28, size)
        pixels(figure, levels(head.lookup(codes[..., :count], layout)), left, 158, size)
        figure.text(left + size / 2, 20, f"{side} × {side}", bold=True)
        figure.text(left + size / 2, 149, "+" if i else "=", bold=True)
        figure.text(left + size / 2, 276, f"{count} code{'s' * (count > 1)}")
    return figure


def dqvae() -> Figure:
    title = (
        "A photo, and the square of the image that each of its tokens stands for: small squares where there is detail"
    )
    figure = Figure(330, title)
    image = coffee(256)
    images = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    head = DynamicQuantizer(VectorQuantizer(16, 4), EntropyRouter([2.35], patch=32)).eval()
    keep = head.encode(torch.zeros(1, 4, 16, 16), Context(images=images)).keep
    assert keep is not None
    for left in (1, 287):
        pixels(figure, image, left, 28, 272, quality=80)
    figure.add("rect", x=287, y=28, width=272, height=272, fill="#ffffff", fill_opacity=0.35)
    cell = 272 / 16
    for y, x in np.argwhere(keep[0].numpy()):
        coarse = not (y % 2 or x % 2) and keep[0, y : y + 2, x : x + 2].sum() == 1
        side = cell * (2 if coarse else 1)
        colour = LATENT if coarse else CODEWORD
        figure.add(
            "rect",
            x=287 + x * cell + 1,
            y=28 + y * cell + 1,
            width=side - 2,
            height=side - 2,
            fill="none",
            stroke=colour,
            stroke_width=1.5,
        )
    figure.text(137, 19, "256 positions", bold=True)
    figure.text(423, 19, f"{int(keep.sum())} tokens", bold=True)
    figure.legend(("line", LATENT, "one token for 2 × 2 positions"), ("line", CODEWORD, "one token for each"))
    return figure
