"""The pictures a run draws: reconstructions under their originals, and how often each codeword is chosen."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CELL, GAP, CAPTION = 160, 6, 28  # pixels: least width of an image, space between two, height of a caption


def reconstruction_grid(images: Tensor, reconstructions: Tensor, caption: str) -> Image.Image:
    """Originals over reconstructions, each row under its caption; small images are enlarged by a whole factor.

    Args:
        images: (n, 3, H, W) uint8.
        reconstructions: The same shape.
        caption: What to say of the reconstructions.
    """
    n, _, height, width = images.shape
    factor = max(1, CELL // width)
    cell_width, cell_height = width * factor, height * factor
    canvas = Image.new("RGB", (n * (cell_width + GAP) + GAP, 2 * (CAPTION + cell_height + GAP)), color=(255, 255, 255))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=16)
    for row, (text, pictures) in enumerate((("originals", images), (caption, reconstructions))):
        top = row * (CAPTION + cell_height + GAP)
        draw.text((GAP, top + CAPTION // 2), text, fill=(40, 40, 40), font=font, anchor="lm")
        for column, picture in enumerate(pictures):
            tile = Image.fromarray(picture.permute(1, 2, 0).cpu().numpy())
            tile = tile.resize((cell_width, cell_height), Image.Resampling.NEAREST)
            canvas.paste(tile, (GAP + column * (cell_width + GAP), top + CAPTION))
    return canvas


def codebook_plot(counts: Sequence[Tensor]) -> Image.Image:
    """Share of positions that chose each codeword, most frequent first, beside an even use of all.

    Args:
        counts: For each codebook, how often each codeword was chosen (n,).
    """
    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, of_codebook in enumerate(counts):
        frequency = np.sort(of_codebook.cpu().numpy().astype(np.float64))[::-1]
        total = max(frequency.sum(), 1.0)
        used = int((frequency > 0).sum())
        label = f"codebook {i}: " if len(counts) > 1 else ""
        label += f"{used:,} of {len(frequency):,} codewords used ({used / len(frequency):.0%})"
        axes.plot(np.arange(1, used + 1), 100 * frequency[:used] / total, label=f"{label}, {int(total):,} tokens")
        color = axes.lines[-1].get_color()
        axes.axhline(100 / len(frequency), color=color, linestyle=":", linewidth=1)
        axes.axvline(used, color=color, linestyle="--", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_xlim(1, max(len(c) for c in counts))
    axes.set_xlabel("codewords, most frequent first")
    axes.set_ylabel("% of tokens (dotted: even use)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))  # above the axes, clear of every line
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
