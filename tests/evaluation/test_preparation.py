"""From image files to what a tokenizer is given and to what its reconstructions are compared with."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as tv
from PIL import Image

from vistok.data import folder
from vistok.evaluation import Protocol, TokenizerReconstructions, score
from vistok.evaluation.accumulator import Scores
from vistok.evaluation.pairs import Pairs
from vistok.evaluation.preparation import Preparation
from vistok.images.evaluation_crops import CROPS
from vistok.images.ranges import to_nearest_float


@pytest.fixture
def files(tmp_path):
    """A turned JPEG, a PNG with transparency over colours, a palette, grey, and CMYK."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((72, 48), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "0.jpg", exif=exif)
    transparent = photo.copy()
    transparent.putalpha(Image.linear_gradient("L").resize(photo.size))
    transparent.save(tmp_path / "1.png")
    photo.quantize(16).save(tmp_path / "2.png", transparency=3)
    photo.convert("L").save(tmp_path / "3.png")
    photo.convert("CMYK").save(tmp_path / "4.jpg")
    return tmp_path


def test_files_as_they_are_stored(files):
    """As ``Image.open(file).convert("RGB")``, which is what all published evaluators do."""
    preparation = Preparation("none", "stored")
    data = folder(str(files), 40, 5, num_workers=0)
    (batch,) = data.scored_batches(preparation.transforms(40), stored=preparation.stored)
    for name, image in zip(batch.names, batch.images, strict=True):
        expected = tv.center_crop(Image.open(files / name).convert("RGB"), [40, 40])
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.array(expected)), name
    (upright,) = data.scored_batches(preparation.transforms(40))
    differ = (upright.images != batch.images).flatten(1).any(1).tolist()
    assert differ == [True, True, True, False, False]


def test_protocols_that_prepare_alike_share_reconstructions():
    names = [
        Protocol(crop=crop, decoding=decoding, size=size).preparation.name
        for crop, decoding, size in (("adm", "upright", None), ("adm", "stored", None), ("none", "stored", 256))
    ]
    assert names == ["adm", "adm_stored", "none_stored_256"]
    assert Protocol().preparation == Protocol(rounding="truncate", distances=["psnr"]).preparation


@pytest.mark.parametrize("crop", ["adm", "none"])
def test_images_at_the_size_of_the_comparison(files, crop):
    """ADM's crop is made anew at the smaller size; the middle without resizing is resized by torchvision."""
    preparation = Preparation(crop, "stored", 32)
    data = folder(str(files), 48, 5, num_workers=0)
    (batch,) = data.scored_batches(preparation.transforms(48), stored=True)
    images, compared = preparation.split(batch.images, 48)
    assert images.shape == (5, 3, 48, 48) and compared.shape == (5, 3, 32, 32)
    for name, image, smaller in zip(batch.names, images, compared, strict=True):
        photo = Image.open(files / name).convert("RGB")
        crops = [photo, photo]
        for i, side in enumerate((48, 32)):
            for transform in CROPS[crop](side):
                crops[i] = transform(crops[i], np.random.default_rng(0))
        expected = crops[1] if crop == "adm" else tv.resize(crops[0], [32])
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(crops[0]))
        assert np.array_equal(smaller.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_reconstructions_and_targets_are_resized_as_in_llamagen():
    """Bicubically, without antialiasing, before rounding and clamping; PSNR compares 8 bits with floats."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, 24, 24), generator=rng, dtype=torch.uint8)
    reconstruction = torch.randn(2, 3, 24, 24, generator=rng)
    preparation = Preparation("adm", "stored", 16)
    small, targets = preparation.resized(reconstruction), preparation.targets(images)
    assert torch.equal(small, F.interpolate(reconstruction, (16, 16), mode="bicubic"))
    assert torch.equal(targets, F.interpolate(to_nearest_float(images), (16, 16), mode="bicubic"))
    assert targets.abs().max() > 1  # overshoots stay
    compared = torch.randint(256, (2, 3, 16, 16), generator=rng, dtype=torch.uint8)
    levels, truth = Pairs(compared, small, targets).compared(Protocol(size=16))
    assert torch.equal(levels, (127.5 * small + 128).clamp(0, 255).to(torch.uint8))
    assert torch.equal(truth, (targets + 1) * 127.5)


def test_scores_at_another_size(files, trained):
    import vistok

    tokenizer = vistok.load(trained)
    protocols = {"p": Protocol(size=24, decoding="stored", distances=["psnr", "l1"])}
    data = folder(str(files), 32, 2, num_workers=0)
    (result,) = score([TokenizerReconstructions(tokenizer)], data, protocols)
    scores = result.scores["adm_stored_24"]
    assert isinstance(scores, Scores) and scores.names == ["0.jpg", "1.png", "2.png", "3.png", "4.jpg"]
    (batch,) = folder(str(files), 32, 5, num_workers=0).scored_batches(CROPS["adm"](32), stored=True)
    x = to_nearest_float(batch.images)
    made, truth = (F.interpolate(side, (24, 24), mode="bicubic") for side in (tokenizer.reconstruct(x)[0], x))
    error = (127.5 * made + 128).clamp(0, 255).floor() - (truth + 1) * 127.5
    expected = (20 * np.log10(255) - 10 * error.square().mean((1, 2, 3)).log10()).tolist()
    assert scores.values("p")["psnr"].tolist() == pytest.approx(expected, rel=1e-4)
    assert "psnr_bicubic" not in result.metrics(protocols)["p"]
    for size in (0, 33):
        with pytest.raises(ValueError, match=f"protocol: size={size} must be at "):
            score([TokenizerReconstructions(tokenizer)], data, {"p": Protocol(size=size)})


def test_ready_crops_have_no_other_size(trained):
    import vistok
    from vistok.data import sample

    with pytest.raises(ValueError, match="protocol: size=16 needs image files"):
        score([TokenizerReconstructions(vistok.load(trained))], sample(32, 8), {"p": Protocol(size=16)})
