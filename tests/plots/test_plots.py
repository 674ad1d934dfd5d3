"""The pictures of a run, and the numbers beside its progress bar."""

import torch

from vistok.plots.figures import Curve, codebook_plot, figure_bytes, rate_distortion_plot
from vistok.plots.picture_rows import reconstruction_grid
from vistok.training.callbacks.progress import numbers


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


def test_plot_of_several_codebooks():
    counts = [torch.tensor([5, 0, 1]), torch.tensor([0, 0, 0, 0])]
    picture = codebook_plot(counts)
    assert picture.mode == "RGB" and len(picture.getcolors(100_000)) > 10


def test_numbers_with_their_units():
    metrics = {"train/l1": 0.123456, "val/psnr": 20.0, "train/psnr": 19.876, "train/entropy": 0.5, "val/images": 70.0}
    metrics |= {"codebook/usage": 0.8, "codebook/usage_ceiling": 0.99, "codebook/perplexity": 512.0}
    metrics |= {"codebook/tokens": 10240.0, "codebook/dead": 3.0, "codebook/collapsed": 0.0, "val/entropy_bits": 9.0}
    metrics |= {"val/usage_0": 0.8, "val/usage_ceiling_0": 0.99, "val/perplexity_0": 100.0, "val/tokens": 4480.0}
    metrics |= {"val/usage_1": 0.1, "val/usage_ceiling_1": 0.99, "val/perplexity_1": 7.25}
    metrics = {name: torch.tensor(value) for name, value in metrics.items()}
    use = "usage 80% of at most 99% (10,240 tokens) · perplexity 512"
    assert numbers("train", metrics) == f"train: l1 0.1235 · psnr 19.88 dB · entropy 0.5 · {use}"
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
