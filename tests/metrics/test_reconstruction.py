import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import skimage.metrics
import torch
from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

import vistok
from vistok.images.ranges import to_uint8
from vistok.metrics import ReconstructionMetrics, bicubic_baseline, psnr


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Five images, their reconstructions (some pixels outside [-1, 1]) and codes."""
    images = torch.randint(256, (5, 3, 16, 24)) / 127.5 - 1
    noise = torch.randn_like(images) * torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]).view(5, 1, 1, 1)
    return images, images + noise, torch.randint(8, (5, 1, 4, 6))


def test_all_256_levels_survive():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(levels.float() / 127.5 - 1), levels)
    assert torch.equal(to_uint8(levels.double() / 127.5 - 1), levels)


def test_rounds_to_the_nearest_level_and_clamps():
    values = torch.tensor([-7.0, -1.0, 0.0, 1.0, 3.0, 100.4 / 127.5 - 1, 100.6 / 127.5 - 1])
    assert to_uint8(values).tolist() == [0, 0, 128, 255, 255, 100, 101]


def test_psnr_by_hand():
    images = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    off = images.clone()
    off[0] += 5  # squared error 25
    off[1, 0] -= 30  # 900 in one of three channels
    torch.testing.assert_close(psnr(off, images), 10 * (255**2 / torch.tensor([25.0, 300.0])).log10())
    assert psnr(images, images).tolist() == [100, 100]


def test_image_metrics_against_scikit_image_and_torchmetrics(batch):
    metrics = ReconstructionMetrics((8,), factor=4)
    metrics.update(*(part[:2] for part in batch))
    metrics.update(*(part[2:] for part in batch))
    values = metrics.compute()
    images, reconstruction = (to_uint8(part) for part in batch[:2])
    pairs = [
        (x.permute(1, 2, 0).numpy(), y.permute(1, 2, 0).numpy()) for x, y in zip(images, reconstruction, strict=True)
    ]

    expected = np.mean([skimage.metrics.peak_signal_noise_ratio(x, y, data_range=255) for x, y in pairs])
    assert values["psnr"].item() == pytest.approx(expected, abs=1e-4)
    theirs = PeakSignalNoiseRatio(data_range=255.0, dim=(1, 2, 3))
    theirs.update(reconstruction, images)
    assert values["psnr"].item() == pytest.approx(theirs.compute().item(), abs=1e-4)

    def ssim(x: np.ndarray, y: np.ndarray) -> float:
        # torchmetrics averages over reflected borders too, which scikit-image leaves out of its mean.
        x, y = (np.pad(side, ((5, 5), (5, 5), (0, 0)), mode="reflect") for side in (x, y))
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        return skimage.metrics.structural_similarity(x, y, data_range=255, channel_axis=2, **settings)

    assert values["ssim"].item() == pytest.approx(np.mean([ssim(x, y) for x, y in pairs]), abs=1e-5)
    theirs = StructuralSimilarityIndexMeasure(data_range=255.0)
    theirs.update(reconstruction.float(), images.float())
    assert values["ssim"].item() == pytest.approx(theirs.compute().item(), abs=1e-6)


def test_every_metric_under_its_name(batch):
    metrics = ReconstructionMetrics((8,), factor=4)
    metrics.update(*batch)
    values = metrics.compute()
    assert values.keys() == {
        *("psnr", "ssim", "psnr_bicubic", "images"),
        *("usage", "usage_ceiling", "perplexity", "entropy_bits", "tokens"),
    }
    assert all(value.shape == () and value.is_floating_point() for value in values.values())
    assert (values["images"], values["tokens"]) == (5, 5 * 24)
    without = ReconstructionMetrics((8, 4), factor=4)
    without.update(batch[0], batch[1], torch.zeros(5, 2, 4, 6, dtype=torch.int64))
    assert without.compute().keys() == {
        *("psnr", "ssim", "psnr_bicubic", "tokens", "images"),
        *(f"{name}_{i}" for name in ("usage", "usage_ceiling", "perplexity", "entropy_bits") for i in (0, 1)),
    }


def test_identical_images(batch):
    images, _, codes = batch
    metrics = ReconstructionMetrics((8,), factor=4)
    metrics.update(images, images, codes)
    values = metrics.compute()
    assert values["psnr"] == 100
    assert values["ssim"].item() == pytest.approx(1, abs=1e-6)


def test_bicubic_baseline_keeps_what_is_constant_in_blocks():
    flat = torch.full((1, 3, 16, 16), 77, dtype=torch.uint8)
    assert torch.equal(bicubic_baseline(flat, 4), flat)
    noise = torch.randint(256, (1, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(bicubic_baseline(noise, 1), noise)


def test_bicubic_baseline_by_hand():
    columns = torch.tensor([10, 30, 200, 100, 50, 50, 90, 150], dtype=torch.uint8)
    image = columns.expand(1, 1, 8, 8)
    # Column 4 lies at 1.75 among the means 20, 150, 50, 120; Keys' kernel with a = -0.75 at 1.75, 0.75, 0.25, 1.25
    weights = [-0.03515625, 0.26171875, 0.87890625, -0.10546875]
    expected = np.dot(weights, [20, 150, 50, 120])
    assert (bicubic_baseline(image, 2)[0, 0, :, 4] == int(expected + 0.5)).all()
    with pytest.raises(ValueError, match="8x8 is not a multiple of factor=3"):
        bicubic_baseline(image, 3)


def test_psnr_of_the_bicubic_baseline(batch):
    metrics = ReconstructionMetrics((8,), factor=8)
    metrics.update(*batch)
    images = to_uint8(batch[0])
    assert metrics.compute()["psnr_bicubic"].item() == pytest.approx(
        psnr(bicubic_baseline(images, 8), images).mean().item(), rel=1e-6
    )


def test_autocast_and_inference_mode_change_nothing(batch):
    def evaluate() -> dict[str, Tensor]:
        metrics = ReconstructionMetrics((8,), factor=4)
        metrics.update(*batch)
        return metrics.compute()

    plain = evaluate()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert evaluate() == plain


def test_means_of_loss_terms(batch):
    metrics = ReconstructionMetrics((8,), factor=4, terms=("l1",))
    for part, value in ((slice(0, 3), 2.0), (slice(3, 5), 7.0)):
        metrics.update(*(own[part] for own in batch), terms={"l1": torch.tensor(value)})
    assert metrics.compute()["l1"] == 4  # of 3 images and of 2


def test_images_smaller_than_the_window_of_ssim():
    images = torch.zeros(1, 3, 8, 16)
    with pytest.raises(ValueError, match="8x16 pixels are smaller than SSIM's window of 11"):
        ReconstructionMetrics((8,), factor=4).update(images, images, torch.zeros(1, 1, 2, 4, dtype=torch.int64))


RANK = """
import sys
import torch
from torch import distributed
from vistok.metrics import ReconstructionMetrics

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)

metrics = ReconstructionMetrics((8,), factor=4)
batch = torch.load(f"{folder}/batch.pt")
part = slice(0, 3) if rank == 0 else slice(3, 5)
metrics.update(*(values[part] for values in batch))
torch.save(metrics.gather().compute(), f"{folder}/{rank}.pt")
distributed.destroy_process_group()
"""


def test_two_ranks_report_what_one_does(python, batch, tmp_path):
    torch.save(batch, tmp_path / "batch.pt")
    environment = os.environ | {"PYTHONPATH": str(Path(vistok.__file__).parents[1])}
    ranks = [subprocess.Popen([python, "-c", RANK, str(rank), str(tmp_path)], env=environment) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    metrics = ReconstructionMetrics((8,), factor=4)
    metrics.update(*batch)
    for rank in range(2):
        values = torch.load(tmp_path / f"{rank}.pt")
        assert values.keys() == metrics.compute().keys()
        for name, value in metrics.compute().items():
            assert values[name].item() == pytest.approx(value.item(), rel=1e-6), name
