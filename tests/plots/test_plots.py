"""The pictures of a run, and the numbers beside its progress bar."""

import math

import numpy as np
import pytest
import torch

from vistok.plots.figures import COLOURS, Curve, figure_bytes, rate_distortion_plot
from vistok.plots.picture_rows import reconstruction_grid
from vistok.training import codebook_plot as use
from vistok.training.callbacks.progress import history, numbers
from vistok.training.codebook_plot import codebook_plot


def test_grid_shows_originals_over_reconstructions():
    images = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    images[1] = 200
    picture = reconstruction_grid(images, 255 - images, "reconstructions")
    width, height = picture.size
    assert width > 3 * 128 and height > 2 * 128
    above, below = picture.getpixel((width // 2, height // 3)), picture.getpixel((width // 2, height - 20))
    assert above == (200, 200, 200) and below == (55, 55, 55)


def test_grid_of_several_sizes():
    images = [torch.full((3, *size), level, dtype=torch.uint8) for size, level in (((48, 24), 50), ((24, 48), 100))]
    picture = reconstruction_grid(images, [255 - image for image in images], "reconstructions")
    factor = (picture.width - 18) // 72  # widths of 24 and 48, and three gaps of 6
    assert factor > 1 and picture.width == 72 * factor + 18 and picture.height == 2 * (48 * factor + 28 + 6)
    assert picture.getpixel((6, 28 + 48 * factor - 1)) == (50, 50, 50)
    assert picture.getpixel((12 + 72 * factor - 1, 28 + 24 * factor - 1)) == (100, 100, 100)
    assert picture.getpixel((12 + 24 * factor, 28 + 24 * factor)) == (255, 255, 255)  # beneath the smaller one


def test_grid_shows_what_each_token_stands_for():
    keep = torch.zeros(4, 8, dtype=torch.bool)
    keep[0, 0] = True  # a region of 4 x 4 positions, and beside it one of 2 x 2 and 12 of 1
    keep[:, 4:] = True
    keep[:2, 4:6] = torch.tensor([[True, False], [False, False]])
    images = torch.zeros(1, 3, 80, 160, dtype=torch.uint8)
    plain = reconstruction_grid(images, images, "")
    picture = reconstruction_grid(images, images, "", [keep])
    assert picture.height == plain.height * 3 // 2
    row = picture.crop((6, plain.height + 28, 166, plain.height + 108))
    red = (200, 30, 60)
    edges = [x for x in range(160) if row.getpixel((x, 10)) == red]
    assert edges == [0, 79, 80, 119, 120, 139, 140, 159]


def columns(picture, colour, row):
    """Middles of the runs of pixels of about this colour in a row."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    found = np.flatnonzero((np.abs(np.asarray(picture)[row].astype(int) - wanted) < 80).all(1))
    return [float(part.mean()) for part in np.split(found, np.flatnonzero(np.diff(found) > 1) + 1) if len(part)]


def test_use_of_codewords_with_its_ceiling():
    """Ten codewords, 0.5 to 10.5 along the axis: seven are used, 20 uniform tokens would reach 8.65 of them."""
    picture = codebook_plot([torch.tensor([4, 2, 0, 8, 1, 0, 2, 0, 2, 1])])
    assert picture.size == (use.WIDTH, 2 * use.LINE + 8 + use.PANEL) and picture.mode == "RGB"
    step = (use.WIDTH - use.LEFT - use.RIGHT) / 10
    at = lambda rank: use.LEFT + (rank - 0.5) * step  # noqa: E731
    floor = picture.height - use.PANEL + use.FLOOR
    (ceiling,) = columns(picture, COLOURS[0], floor - 6)[-1:]
    assert abs(ceiling - at(10 * (1 - math.exp(-2)))) < 1
    dashes = [columns(picture, COLOURS[0], row) for row in range(floor - 40, floor - 20)]
    assert {abs(x - at(7)) < 2 for own in dashes for x in own} == {True}
    high, low = 1.6 * 40, 5 / 1.6  # %; the first has 8 of 20 tokens
    rows = [
        row
        for row in range(floor)
        if row > use.LINE * 3 and any(abs(x - at(1)) < 6 for x in columns(picture, COLOURS[0], row))
    ]
    heights = np.array(rows) - (picture.height - use.PANEL + use.TOP)
    share = (math.log(40) - math.log(low)) / (math.log(high) - math.log(low))
    expected = (1 - share) * (use.FLOOR - use.TOP)
    assert abs(heights.min() - expected) < 8


def test_plots_of_several_codebooks_and_of_none():
    several = codebook_plot([torch.tensor([5, 0, 1]), torch.tensor([0, 0, 0, 0])])
    assert several.height == 3 * use.LINE + 8 + use.PANEL
    many = codebook_plot([torch.tensor([i, 9 - i]) for i in range(9)])
    assert many.height == 4 * use.LINE + 8 + use.PANEL  # the least, the median and the most used
    large = torch.zeros(2**14, dtype=torch.int64)
    large[:3] = 100
    assert codebook_plot([large]).height == codebook_plot([torch.zeros_like(large)]).height


@pytest.mark.parametrize("largest, ticks", [
    (2, [1, 2]), (16, [1, 5, 10, 15]), (1024, [1, 200, 400, 600, 800, 1000]), (16384, [1, 5000, 10000, 15000]),
])  # fmt: skip
def test_ticks_of_codewords(largest, ticks):
    assert use.linear_ticks(largest) == ticks


@pytest.mark.parametrize("low, high, ticks", [
    (0.02, 2, [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2]), (0.0004, 5, [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3]),
    (1e-7, 100, [1e-6, 1e-4, 1e-2, 1, 100]),
])  # fmt: skip
def test_ticks_of_shares(low, high, ticks):
    assert use.log_ticks(low, high) == ticks


def test_numbers_with_their_units():
    metrics = {"train/l1": 0.123456, "val/psnr": 20.0, "train/psnr": 19.876, "train/entropy": 0.5, "val/images": 70.0}
    metrics |= {"codebook/usage": 0.8, "codebook/usage_ceiling": 0.99, "codebook/perplexity": 512.0}
    metrics |= {"codebook/tokens": 10240.0, "codebook/dead": 3.0, "codebook/collapsed": 0.0, "val/entropy_bits": 9.0}
    metrics |= {"val/usage_0": 0.8, "val/usage_ceiling_0": 0.99, "val/perplexity_0": 100.0, "val/tokens": 4480.0}
    metrics |= {"val/usage_1": 0.1, "val/usage_ceiling_1": 0.99, "val/perplexity_1": 7.25}
    metrics = {name: torch.tensor(value) for name, value in metrics.items()}
    use = "usage 80% of at most 99% (10,240 tokens) · perplexity 512"
    assert numbers("train", metrics) == f"train: l1 0.1235 · psnr 19.88 dB · entropy 0.5 · {use}"
    more = {"train/lr": 0.001, "train/accuracy_real": 0.9, "train/adversarial_scale": 2.0}
    more = metrics | {name: torch.tensor(value) for name, value in more.items()}
    assert history("train", more) == "psnr 19.88 dB · usage 80% of at most 99% · l1 0.1235 · entropy 0.5 · lr 0.001"
    metrics["codebook/collapsed"] += 1
    assert numbers("train", metrics).endswith(f"{use} · CODEBOOK COLLAPSED")
    use = "usage 80%/10% of at most 99% (4,480 tokens) · perplexity 100/7.25"
    assert numbers("val", metrics) == f"val: psnr 20.00 dB · {use}"
    assert numbers("test", metrics) == ""


def test_which_of_several_codebooks_collapsed():
    metrics = {f"codebook/{name}_{i}": 1.0 for name in ("usage", "perplexity") for i in (0, 1)}
    metrics |= {"codebook/usage_ceiling_0": 0.99, "codebook/usage_ceiling_1": 0.5, "codebook/tokens": 8.0}
    metrics |= {"codebook/collapsed_0": 0.0, "codebook/collapsed_1": 1.0}
    use = "usage 100%/100% of at most 99%/50% (8 tokens) · perplexity 1/1"
    metrics = {name: torch.tensor(value) for name, value in metrics.items()}
    assert numbers("train", metrics) == f"train: {use} · CODEBOOK 1 COLLAPSED"


def test_scores_are_drawn_where_they_are():
    """Each metric against each rate, with bars as long as the intervals, and a mark for each curve in the legend."""
    points = [{"bits": 0.1, "psnr": 20.0, "rfid": 5.0}, {"bits": 2.0, "psnr": 30.0}]
    intervals = [{"psnr": [19.0, 22.0]}, {}]
    curves = [Curve("_a$b", points[::-1], intervals[::-1]), Curve("x" * 200, points[:1], intervals[:1], hollow=True)]
    figure = rate_distortion_plot(curves, {"bits": "bits"}, {"psnr": "PSNR", "rfid": "rFID"})
    psnr, rfid = figure.axes
    assert psnr.get_xscale() == "log" and rfid.get_xscale() == "linear"  # twenty times, and one point
    line, bars = psnr.containers[0].lines[0], psnr.containers[0].lines[2][0].get_segments()
    assert line.get_xdata().tolist() == [0.1, 2.0] and line.get_ydata().tolist() == [20.0, 30.0]
    assert [segment[:, 1].tolist() for segment in bars if len(segment)] == [[19, 22]]  # none without an interval
    assert psnr.containers[1].lines[0].get_markerfacecolor() == "white"
    first, second = (text.get_text() for text in figure.legends[0].get_texts())
    assert first == r" _a\$b" and len(second) < 80
    assert figure_bytes(figure, "svg") == figure_bytes(figure, "svg") and figure_bytes(figure, "png")[1:4] == b"PNG"


def test_labels_of_many_scores_do_not_overlap():
    metrics = {"psnr": "psnr, dB\n(higher is better)", "rfid": "frechet mobilenet v2\n(lower is better)"}
    curves = [
        Curve(f"a tokenizer with a rather long name {i}", [{"a": 0.1 * i + 0.1, "b": 2**i, "psnr": i, "rfid": i}], [{}])
        for i in range(12)
    ]
    figure = rate_distortion_plot(curves, {"a": "bits per pixel, by entropy", "b": "tokens per image"}, metrics)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.legends[0].get_texts()]
    for axes in figure.axes:
        assert len(axes.get_xticklabels()) < 20
        labels = [axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()]
        low, high = axes.get_xlim()
        drawn = [text for text in labels if text.get_text() and text.get_window_extent().width]
        drawn = [text for text in drawn if text not in axes.get_xticklabels() or low <= text.get_position()[0] <= high]
        boxes += [text.get_window_extent() for text in drawn if text not in axes.get_yticklabels()]
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    width, height = figure.canvas.get_width_height()
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
