"""Images of other than three channels or 8 bits through ``train.py`` and ``eval.py``, and weights adapted to them."""

import json

import numpy as np
import pytest
import tifffile
import torch
from hydra.errors import InstantiationException
from PIL import Image

import vistok
from vistok.evaluation.evaluate import evaluate
from vistok.images.rgb_view import RGBView, rgb_view
from vistok.images.values import read_values
from vistok.losses import LPIPS
from vistok.training import run as training_run
from vistok.training.channel_adaptation import adapted

from ..conftest import own_images

DATA = ("data=folder", "data.num_workers=0", "loss=l1", "data.batch_size=4", "data.val_count=2")
EVAL = (
    "feature_network=none",
    "metrics.lpips=null",
    "run.held_out=false",
    "data.num_workers=0",
    "data.image_size=32",
    "data=folder",
)


@pytest.mark.parametrize("kind, overrides, channels, value_range", [
    ("grey 12-bit", ["data.channels=1", "data.range=[0,4095]"], 1, (0, 4095)),
    ("rgba", ["data.channels=4"], 4, None),
    ("8 bands", ["data.channels=8", "data.range=[0,7650]", "data.rgb_bands=[3,2,1]"], 8, (0, 7650)),
])  # fmt: skip
def test_a_run_and_its_evaluation(tmp_path, train, compose, kind, overrides, channels, value_range):
    """Channels and range follow from the run: ``eval.py`` is told neither."""
    images = own_images(tmp_path / "images", kind)
    run = train(tmp_path / "run", *DATA, f"data.root={images}", *overrides)
    tokenizer = vistok.load(run)
    assert tokenizer.encoder.in_channels == tokenizer.decoder.out_channels == channels
    assert tokenizer.value_range == value_range
    if value_range:
        assert f"[{value_range[0]:.1f}, {value_range[1]:.1f}]" in (run / "tokenizer" / "README.md").read_text()
    with Image.open(run / "reconstructions.png") as grid:
        assert grid.mode == "RGB" and np.asarray(grid).std() > 5
    bands = [word for word in overrides if "rgb_bands" in word]
    config = compose(
        "eval", *EVAL, *bands, f"tokenizer={run}", f"data.root={images}", f"run.out={tmp_path / 'out.json'}"
    )
    report = evaluate(config)
    metrics = report["scores"][0]["metrics"]
    assert report["data"]["images"] == 8 and report["config"]["data"]["channels"] == channels
    assert ("psnr_y" in report["unavailable"]) == (channels == 4)
    ours = [
        vistok.read_image(path, 32, channels=channels, value_range=value_range) for path in sorted(images.iterdir())
    ]
    again = [tokenizer.reconstruct(image)[0].clamp(-1, 1) for image in ours]
    errors = [(a - b).square().mean() for a, b in zip(ours, again, strict=True)]
    psnr = np.mean([10 * np.log10(4 / error) for error in errors])
    assert metrics["psnr"] == pytest.approx(psnr, abs=0.05)  # eval.py compares 256 levels of the range


def test_the_range_is_measured_on_training_images_and_said(tmp_path, train, capsys):
    images = own_images(tmp_path / "images", "grey 12-bit")
    run = train(tmp_path / "run", *DATA, f"data.root={images}", "data.channels=1", "data.range=auto")
    held_in = [read_values(path).levels for path in sorted(images.iterdir())]
    low, high = vistok.load(run).value_range
    assert min(v.min() for v in held_in) <= low < high <= max(v.max() for v in held_in) and high > 3000
    assert f"data.range=auto is [{low:g}, {high:g}]" in capsys.readouterr().out


def test_sixteen_bits_that_are_mostly_unused_are_warned_of(tmp_path, train, capsys):
    images = own_images(tmp_path / "images", "grey 12-bit")
    train(tmp_path / "run", *DATA, f"data.root={images}")
    text = capsys.readouterr().out
    assert "warning: the first images are 16-bit and use" in text and "data.range=auto or data.range=[0, " in text


def test_sizes_of_files_that_pillow_cannot_open(tmp_path, caplog):
    """Full-resolution crops of eight bands, and their buckets, need the size in the header; nothing is logged."""
    bands = np.zeros((40, 60, 8), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", bands, photometric="minisblack", planarconfig="contig")
    settings = {"channels": 8, "range": [0, 100], "resize": 0}
    assert vistok.data.folder(str(tmp_path), 32, 4, **settings).test.sizes() == [(40, 60)]
    with pytest.raises(ValueError, match="a.tif has 60x40 pixels, smaller than the crop of 64"):
        vistok.data.folder(str(tmp_path), 64, 4, **settings)
    assert not caplog.records


@pytest.mark.parametrize("kind, overrides, message", [
    ("rgba", ["backbone.encoder.in_channels=1"], "data.channels=3, but the encoder takes images of 1 channels"),
    ("rgba", ["data.channels=0"], "data.channels must be at least 1, not 0"),
    ("rgba", ["data.channels=4", "data.range=[5,5]"], "the first number must be smaller"),
    ("rgba", ["data.channels=4", "data.range=[0,a]"], r"data.range must be dtype, auto or \[LOW, HIGH\]"),
    ("rgba", ["data.channels=4", "data.decoder=fast"], "data.decoder=fast reads 8-bit RGB only"),
    ("8 bands", ["data.channels=8", "loss=vqgan"], r"data.rgb_bands=\[R, G, B\] chooses them from data.channels=8"),
    ("8 bands", [], "it has 8 bands; data.channels=8 reads all of them"),
])  # fmt: skip
def test_refusals(tmp_path, train, kind, overrides, message):
    images = own_images(tmp_path / "images", kind)
    with pytest.raises((ValueError, InstantiationException), match=message):
        train(tmp_path / "run", *DATA, f"data.root={images}", *overrides)


def test_a_perceptual_loss_sees_grey_three_times_and_chosen_bands(compose, shrink_losses):
    config = compose("train", "trainer=debug", "loss=vqgan", "data.channels=1", "backbone=cnn_f8_small",
                     "backbone.encoder.channels=8", "data.image_size=32", "model.codebook_size=16",
                     "model.latent_dim=4")  # fmt: skip
    shrink_losses(config.loss, 32)
    lit = training_run.build_module(config)
    grey = torch.rand(2, 1, 32, 32) * 2 - 1
    (perceptual,) = (loss for loss in lit.image_losses.values() if isinstance(loss, LPIPS))
    colour = perceptual.distance(grey.expand(-1, 3, -1, -1), -grey.expand(-1, 3, -1, -1)).mean()
    torch.testing.assert_close(perceptual(grey, -grey), colour)
    perceptual.view = rgb_view(5, [4, 0, 2])
    bands = torch.rand(2, 5, 32, 32)
    torch.testing.assert_close(
        perceptual(bands, -bands), perceptual.distance(bands[:, [4, 0, 2]], -bands[:, [4, 0, 2]]).mean()
    )


@pytest.mark.parametrize("patch", [1, 2])
def test_weights_of_rgb_start_other_channels(make_tokenizer, patch):
    """Grey gives the latent that equal colours gave, and the mean of the colours that came out; RGBA keeps RGB."""
    torch.manual_seed(0)
    rgb, grey, rgba, bands = (
        make_cnn(make_tokenizer, channels, patch) for channels in (3, 1, 4, 6)
    )  # fmt: skip
    for tokenizer, view in ((grey, RGBView(1)), (rgba, RGBView(4)), (bands, rgb_view(6, [5, 3, 1]))):
        tokenizer.load_state_dict(adapted(rgb.state_dict(), tokenizer.state_dict(), view))
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    z = torch.randn(2, 4, 8 // patch, 8 // patch)
    torch.testing.assert_close(grey.encode(x[:, :1]), rgb.encode(x[:, :1].expand(-1, 3, -1, -1)))
    torch.testing.assert_close(grey.decode(z), rgb.decode(z).mean(1, keepdim=True))
    torch.testing.assert_close(rgba.encode(torch.cat([x, x[:, :1]], 1)), rgb.encode(x))
    torch.testing.assert_close(rgba.decode(z)[:, :3], rgb.decode(z))
    six = torch.randn(2, 6, 16, 16)
    six[:, [5, 3, 1]] = x
    torch.testing.assert_close(bands.encode(six), rgb.encode(x))
    torch.testing.assert_close(bands.decode(z)[:, [5, 3, 1]], rgb.decode(z))


def make_cnn(make_tokenizer, channels: int, patch: int):
    from vistok.backbones import CNNDecoder, CNNEncoder
    from vistok.quantizers import VectorQuantizer

    sizes = {"channels": 32, "multipliers": [1, 1], "num_blocks": 1, "attention": [], "dim": 4, "patch": patch}
    encoder, decoder = CNNEncoder(**sizes, in_channels=channels), CNNDecoder(**sizes, out_channels=channels)
    return vistok.Tokenizer(encoder, VectorQuantizer(8, 4), decoder).eval()


def test_init_from_an_rgb_run(tmp_path, train, trained):
    images = own_images(tmp_path / "images", "rgba")
    start = ["optim.updates=1", "optimizer.lr=0", "model.init=" + str(trained)]
    run = train(tmp_path / "run", *DATA, f"data.root={images}", "data.channels=4", *start)
    x = torch.rand(1, 4, 32, 32) * 2 - 1
    torch.testing.assert_close(vistok.load(run).encode(x), vistok.load(trained).encode(x[:, :3]))


def test_grey_crops_of_the_sample(tmp_path, train):
    tokenizer = vistok.load(train(tmp_path / "run", "data.channels=1", "loss=l1"))
    assert tokenizer.reconstruct(torch.zeros(1, 1, 32, 32))[0].shape == (1, 1, 32, 32)


def test_tokens_of_values(tmp_path, train):
    """Token extraction reads images as the tokenizer was trained on them."""
    from vistok.commands import tokenize
    from vistok.tokens import TokenStore

    images = own_images(tmp_path / "images", "grey 12-bit")
    run = train(tmp_path / "run", *DATA, f"data.root={images}", "data.channels=1", "data.range=[0,4095]")
    words = ["--images", str(images), "--out", str(tmp_path / "tokens"), "--image-size", "32", "--num-workers", "0"]
    tokenize.main([str(run), *words])
    tokenizer, store = vistok.load(run), TokenStore(tmp_path / "tokens")
    first = vistok.read_image(images / "0.png", 32, channels=1, value_range=(0, 4095))
    assert np.array_equal(store.codes(0).reshape(-1), tokenizer.tokenize(first).flatten().numpy())


def test_the_report_says_what_was_compared(tmp_path, train, compose):
    images = own_images(tmp_path / "images", "rgba")
    run = train(tmp_path / "run", *DATA, f"data.root={images}", "data.channels=4")
    out = tmp_path / "out.json"
    evaluate(compose("eval", *EVAL, f"tokenizer={run}", f"data.root={images}", f"run.out={out}"))
    assert json.loads(out.read_text())["unavailable"]["lpips_alex"].startswith("it looks at red, green and blue")
