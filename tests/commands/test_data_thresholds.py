"""The command that computes an entropy router's thresholds."""

import json

import numpy as np
import pytest
import torch

from vistok.commands import data_thresholds
from vistok.data import folder
from vistok.images.ranges import to_float
from vistok.quantizers import Context, EntropyRouter
from vistok.quantizers.routers import patch_entropy


def test_what_it_writes_and_prints(photos, tmp_path, capsys):
    output = tmp_path / "thresholds.json"
    sizes = ["--image-size", "32", "--patch", "8", "--num-workers", "0"]
    data_thresholds.main(["--images", str(photos), *sizes, "--out", str(output), "--rates", "0.3", "0.3", "--low", "0"])
    report = json.loads(output.read_text())
    train = folder(str(photos), image_size=32, batch_size=1, crop="center").train
    images = to_float(torch.stack([train[0, i].image for i in range(len(train))]))
    entropies = patch_entropy(images, 8, 0.0, 1.0)
    assert report["regions"] == entropies.numel() == 11 * 16  # one of the twelve photos is held out
    assert report["percentiles"]["25"] == pytest.approx(np.percentile(entropies, 25))
    assert (report["patch"], report["low"], report["high"], report["bins"]) == (8, 0.0, 1.0, 32)
    printed = capsys.readouterr().out
    setting = json.loads(printed.split("quantizer.router.thresholds=")[1].split("'")[0])
    assert "quantizer.router.low=0 quantizer.router.high=1" in printed
    router = EntropyRouter(setting, patch=8, low=0.0)
    shares = router([torch.zeros(len(images), 1, 4, 4)], Context(images=images)).mean((0, 2, 3))
    torch.testing.assert_close(shares, torch.tensor([0.4, 0.3, 0.3]), atol=0.02, rtol=0)


@pytest.mark.parametrize("words, message", [
    (["--patch", "7"], "--image-size=32 is not a multiple of --patch=7"),
    (["--rates", "0.5", "0.5"], "must be shares above 0 whose sum is below 1"),
    (["--rates", "0"], "must be shares above 0"),
    (["--out", "."], "--out=. exists already"),
    (["--output", "."], "--output is now --out "),
])  # fmt: skip
def test_what_it_refuses(photos, words, message):
    with pytest.raises(SystemExit, match=message):
        data_thresholds.main(["--images", str(photos), "--out", "x.json", "--image-size", "32", "--patch", "8", *words])
