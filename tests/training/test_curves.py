"""The numbers behind ``curves.png``, and that there is a picture."""

import numpy as np

from vistok.training.curves import curves_plot, label_of, points_of, running_mean

ROWS = [
    {"step": "9", "updates": "10.0", "train/l2": "2", "train/lr": "0.1", "codebook/usage": "0.5", "val/psnr": ""},
    {"step": "9", "updates": "", "train/l2": "", "train/lr": "", "codebook/usage": "", "val/psnr": "20.5"},
    {"step": "19", "updates": "20.0", "train/l2": "nan", "train/lr": "0.2", "codebook/usage": "1", "val/psnr": ""},
]


def test_points_by_update():
    """A validation belongs to the update before it; what is not finite is no point."""
    points = {name: [values.tolist() for values in own] for name, own in points_of(ROWS).items()}
    assert points == {
        "train/l2": [[10], [2]],
        "train/lr": [[10, 20], [0.1, 0.2]],
        "codebook/usage": [[10, 20], [0.5, 1]],
        "val/psnr": [[10], [20.5]],
    }


def test_running_mean_by_hand():
    assert running_mean(np.array([2.0, 4, 6, 8]), 2).tolist() == [2, 3, 5, 7]
    assert running_mean(np.array([2.0, 4, 6, 8]), 1).tolist() == [2, 4, 6, 8]


def test_labels():
    names = ("train/l2", "val/psnr", "val/psnr_bicubic", "codebook/usage_1", "train/gradient_penalty")
    assert list(map(label_of, names)) == [
        "l2", "held-out images", "bicubic baseline", "training images, codebook 1", "gradient penalty",
    ]  # fmt: skip


def test_no_label_is_cut_off():
    """Not even those of losses within one power of ten; nothing but the margin is in the outermost pixels."""
    rows = [{"updates": f"{i}", "train/l2": f"{0.000311 + 1e-6 * i}", "train/lr": f"{1e-9 * i}"} for i in range(1, 9)]
    for range_of in (1, 1e4):
        scaled = [row | {"train/l1": f"{0.0005 * range_of}"} for row in rows]
        picture = np.asarray(curves_plot(scaled))
        assert (picture[:, :3] == 255).all() and (picture[:, -3:] == 255).all()
        assert (picture[:3] == 255).all() and (picture[-3:] == 255).all()


def test_the_start_of_the_discriminator_is_a_line_within_the_run():
    pictures = [np.asarray(curves_plot(ROWS, start)) for start in (None, 15, 10_000)]
    assert np.array_equal(pictures[0], pictures[2]) and not np.array_equal(pictures[0], pictures[1])
    assert pictures[0].shape[2] == 3 and pictures[0].std() > 5
    assert np.asarray(curves_plot([])).shape == pictures[0].shape
