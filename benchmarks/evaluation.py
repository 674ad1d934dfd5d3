"""Cost of an evaluation besides the tokenizer, compared with the evaluators of the field. CPU time, one thread.

    PYTHONPATH=tokenizers python benchmarks/evaluation.py [frechet] [statistics] [inception] [ssim] [--gate]

* ``frechet``: the distance of two sets of 2,048 features, 10,000 images and 1,500, against ``scipy.linalg.sqrtm``
  (pytorch-fid, ADM's evaluator, SEED-Voken) and the unsymmetric ``eigvals`` (torch-fidelity).
* ``statistics``: mean and covariance of 50,000 × 2,048 features that come in batches, against ``numpy.cov`` of all.
* ``inception``: pool features of 16 images of 256 pixels against pytorch-fid, on the same random weights.
* ``ssim``: SSIM (Gauss 11) and MS-SSIM of 8 images of 256 pixels in float64, against torchmetrics; and all similarities
  of ``canonical`` (these two and SSIM, flat 7) against their plain forms and Inception.

Ratios are of medians of rounds that go by all rows. With ``--gate`` the exit status is 1 if a target is not reached.
"""

import argparse
import statistics as middle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import scipy.linalg
import torch
from pytorch_fid import inception as pytorch_fid
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as fidelity
from torchmetrics.functional import image as torchmetrics

from vistok.metrics import FeatureStatistics, Inception, frechet_distance
from vistok.metrics.distances import (
    MS_SSIM_EXPONENTS,
    gauss11_means,
    gaussian,
    ms_ssim,
    ssim_gauss11,
    ssim_skimage7,
)
from vistok.metrics.similarity import terms_by_convolution
from vistok.speed import keep_freed_pages

DIM = 2048
GOALS = {  # of what is printed: how large or how small it has to be
    "sqrtm / ours": (">=", 6.0),
    "relative difference from sqrtm": ("<=", 1e-6),
    "sqrtm / ours, fewer images than features": (">=", 6.0),
    "relative difference from the root by eigh, fewer images than features": ("<=", 1e-5),
    "MiB at most": ("<=", 100.0),
    "largest difference of covariances": ("<=", 1e-9),
    "images/s: ours / pytorch-fid's": (">=", 1.4),
    "largest difference of features": ("<=", 1e-4),
    "ssim: torchmetrics / ours": (">=", 1.5),
    "ms_ssim: torchmetrics / ours": (">=", 1.5),
    "ssim: largest difference": ("<=", 1e-12),
    "ms_ssim: largest difference": ("<=", 1e-9),  # torchmetrics' exponents are float32
    "canonical's similarities: CPU s for an image": ("<=", 0.1),
    "canonical's similarities: plain / ours": (">=", 3.0),
    "canonical's similarities: Inception / ours": (">=", 2.0),
    "canonical's similarities: largest difference from the plain form": ("<=", 1e-6),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts: dict[str, Callable[[int], Mapping[str, float]]] = {
        "frechet": frechet,
        "statistics": statistics,
        "inception": inception,
        "ssim": ssim,
    }
    parser.add_argument("parts", nargs="*", default=list(parts), help=", ".join(parts))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gate", action="store_true", help="exit with 1 if a target is not reached")
    options = parser.parse_args()
    torch.set_num_threads(1)
    unreached = []
    for part in options.parts:
        for name, value in parts[part](options.rounds).items():
            sign, bound = GOALS[name]
            met = value >= bound if sign == ">=" else value <= bound
            unreached += [] if met else [name]
            print(f"{part}: {name}: {value:.3g} ({sign} {bound:g}: {'' if met else 'not '}reached)", flush=True)
    sys.exit(1 if options.gate and unreached else 0)


def rounds_of(rows: Mapping[str, Callable[[], object]], rounds: int) -> tuple[dict[str, float], dict[str, object]]:
    """Median CPU seconds of each row, all rows in each round, and what they returned."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    values = {}
    for _ in range(rounds):
        for name, row in rows.items():
            began = time.process_time()
            values[name] = row()
            seconds[name].append(time.process_time() - began)
    medians = {name: middle.median(own) for name, own in seconds.items()}
    for name, own in medians.items():
        print(f"    {name}: {own:.2f} CPU s", flush=True)
    return medians, values


def batches(count: int, seed: int, scale: float = 1.0, size: int = 250) -> Iterator[Tensor]:
    """Rectified features with a spectrum that falls as a power, as Inception's: (size, 2048) float32."""
    random = torch.Generator().manual_seed(seed)
    spread = torch.arange(1, DIM + 1, dtype=torch.float32) ** -0.6
    turn = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(0)))[0] * spread.unsqueeze(1)
    for _ in range(count // size):
        yield 10 * torch.relu(scale * torch.randn(size, DIM, generator=random) @ turn + 0.02)


def by_sqrtm(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """As pytorch-fid computes it."""
    root = scipy.linalg.sqrtm((cov1 @ cov2).numpy())
    trace = float(np.trace(root.real))
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace()) - 2 * trace


def by_eigvals(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """As torch-fidelity computes it."""
    trace = float(torch.linalg.eigvals(cov1 @ cov2).sqrt().real.sum())
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace()) - 2 * trace


def by_eigh(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """The symmetric root of one covariance around the other."""
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt()
    trace = float(torch.linalg.eigvalsh(root.T @ cov2 @ root).clamp(min=0).sqrt().sum())
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace()) - 2 * trace


def frechet(rounds: int) -> Mapping[str, float]:
    results = {}
    for count in (10_000, 1_500):
        sides = []
        for seed, scale in ((1, 1.0), (2, 1.15)):
            sides.append(FeatureStatistics(DIM))
            for batch in batches(count, seed, scale):
                sides[-1].update(batch)
        gaussians = (*sides[0].gaussian(), *sides[1].gaussian())
        few = count < DIM
        print(f"  {count:,} images, {DIM:,} features")
        rows = {
            "ours": lambda: sides[0].distance(sides[1]) if few else frechet_distance(*gaussians),  # noqa: B023
            "scipy.linalg.sqrtm": lambda: by_sqrtm(*gaussians),  # noqa: B023
            "eigvals": lambda: by_eigvals(*gaussians),  # noqa: B023
            "eigh": lambda: by_eigh(*gaussians),  # noqa: B023
        }
        seconds, values = rounds_of(rows, rounds)
        print("   ", ", ".join(f"{name} {float(value):.9g}" for name, value in values.items()))
        ours, ratio = float(values["ours"]), seconds["scipy.linalg.sqrtm"] / seconds["ours"]
        if few:
            results["sqrtm / ours, fewer images than features"] = ratio
            name = "relative difference from the root by eigh, fewer images than features"
            results[name] = abs(ours - values["eigh"]) / values["eigh"]
        else:
            results["sqrtm / ours"] = ratio
            expected = values["scipy.linalg.sqrtm"]
            results["relative difference from sqrtm"] = abs(ours - expected) / expected
    return results


def statistics(rounds: int) -> Mapping[str, float]:
    count, held = 50_000, FeatureStatistics(DIM)
    everything = np.empty((count, DIM), np.float32)
    seconds, at = 0.0, 0
    for batch in batches(count, 1):
        everything[at : at + len(batch)] = batch
        at += len(batch)
        began = time.process_time()
        held.update(batch)
        seconds += time.process_time() - began
    began = time.process_time()
    expected = np.cov(everything, rowvar=False)  # converts all of them to float64
    theirs = time.process_time() - began
    print(f"    ours: {seconds:.2f} CPU s, numpy.cov: {theirs:.2f} CPU s with {count:,} rows in memory")
    del everything
    difference = np.abs(held.gaussian()[1].numpy() - expected).max()
    source = list(batches(5_000, 1))
    return {"MiB at most": allocated(source) / 2**20, "largest difference of covariances": float(difference)}


def allocated(source: list[Tensor]) -> int:
    """The most bytes that torch has handed out at once for the statistics of these batches and their Gaussian."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        held = FeatureStatistics(DIM)
        for batch in source:
            held.update(batch)
        held.gaussian()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


def inception(rounds: int) -> Mapping[str, float]:
    count = 16
    images = torch.rand(count, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    images = (nn.functional.interpolate(images, (256, 256), mode="bicubic").clamp(0, 1) * 255).round()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "inception.pt"
        torch.save(random_inception(), weights)
        ours = Inception(weights)
        state = torch.load(weights, weights_only=True)
        with mock.patch.object(pytorch_fid, "load_state_dict_from_url", lambda *_, **__: state):
            theirs = pytorch_fid.InceptionV3().eval()
    rows = {
        f"pytorch-fid, {count} images": lambda: theirs(images / 255)[0].flatten(1),
        f"ours, {count} images": lambda: ours.features(images, "float").pool,
    }
    with torch.inference_mode():
        seconds, values = rounds_of(rows, rounds)
        keep_freed_pages()  # for the rest of the process, as eval.py does
        print("    with kept pages:")
        kept, _ = rounds_of(rows, rounds)
    (their_seconds, _), (expected, actual) = seconds.values(), values.values()
    (_, our_seconds) = kept.values()
    print(f"    {count / their_seconds:.2f} images/s as pytorch-fid runs, {count / our_seconds:.2f} as eval.py does")
    return {
        "images/s: ours / pytorch-fid's": their_seconds / our_seconds,
        "largest difference of features": float((actual - expected).abs().max()),
    }


def ssim(rounds: int) -> Mapping[str, float]:
    random = torch.Generator().manual_seed(0)
    images = nn.functional.interpolate(torch.rand(8, 3, 32, 32, generator=random), (256, 256), mode="bicubic")
    again = images + 0.05 * torch.randn(images.shape, generator=random)
    again, images = ((255 * side).clamp(0, 255).to(torch.uint8) for side in (again, images))
    x, y = again.double(), images.double()
    settings = {"data_range": 255.0, "reduction": "none"}
    network = inception_of_ours()
    canonical = {
        "plain forms": lambda: plain_similarities(x, y),
        "ours, canonical's three": lambda: similarities(again, images),
    }
    rounds_of(canonical, rounds)
    print("    with kept pages:")
    keep_freed_pages()  # as eval.py does, for all
    with torch.inference_mode():
        seconds, values = rounds_of(
            {
                "torchmetrics, ssim": lambda: torchmetrics.structural_similarity_index_measure(x, y, **settings),
                "ours, ssim": lambda: ssim_gauss11(again, images),
                "torchmetrics, ms_ssim": lambda: torchmetrics.multiscale_structural_similarity_index_measure(
                    x, y, **settings
                ),
                "ours, ms_ssim": lambda: ms_ssim(again, images),
                **canonical,
                "Inception": lambda: network.features(images, "uint8").pool,
            },
            rounds,
        )
    found = {}
    for name in ("ssim", "ms_ssim"):
        ours, theirs = f"ours, {name}", f"torchmetrics, {name}"
        found[f"{name}: torchmetrics / ours"] = seconds[theirs] / seconds[ours]
        found[f"{name}: largest difference"] = float((values[theirs] - values[ours]).abs().max())
    plain, ours = canonical
    found["canonical's similarities: CPU s for an image"] = seconds[ours] / len(images)
    found["canonical's similarities: plain / ours"] = seconds[plain] / seconds[ours]
    found["canonical's similarities: Inception / ours"] = seconds["Inception"] / seconds[ours]
    difference = (values[plain] - values[ours]).abs().max()
    found["canonical's similarities: largest difference from the plain form"] = float(difference)
    return found


def similarities(x: Tensor, y: Tensor) -> Tensor:
    """All similarities of ``canonical`` as an evaluation computes them."""
    means = gauss11_means(x, y)
    return torch.stack([ssim_gauss11(x, y, means), ms_ssim(x, y, means), ssim_skimage7(x, y)])


def plain_similarities(x: Tensor, y: Tensor) -> Tensor:
    """The same by convolutions in float64, one metric after the other."""

    def reflected(x: Tensor, y: Tensor) -> Tensor:
        padded = (nn.functional.pad(side, [5] * 4, mode="reflect") for side in (x, y))
        luminance, contrast = terms_by_convolution(*padded, window, 255.0)
        return (luminance * contrast).mean((1, 2, 3))

    window, flat = gaussian(11, 1.5), torch.full((7,), 1 / 7, dtype=torch.float64)
    luminance, contrast = terms_by_convolution(x, y, flat, 255.0, 49 / 48)
    gauss, skimage, scales = reflected(x, y), (luminance * contrast).mean((1, 2, 3)), torch.ones(len(x))
    for exponent in MS_SSIM_EXPONENTS[:-1]:
        scales = scales * terms_by_convolution(x, y, window, 255.0)[1].mean((1, 2, 3)).relu() ** exponent
        x, y = (nn.functional.avg_pool2d(side, 2) for side in (x, y))
    return torch.stack([gauss, scales * reflected(x, y).relu() ** MS_SSIM_EXPONENTS[-1], skimage])


def inception_of_ours() -> Inception:
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "inception.pt"
        torch.save(random_inception(), weights)
        return Inception(weights)


def random_inception() -> dict[str, Tensor]:
    """Weights of torch-fidelity's Inception, initialised after He, so that a signal passes through all layers."""
    with (
        mock.patch.object(fidelity, "load_state_dict_from_url"),
        mock.patch.object(fidelity.FeatureExtractorInceptionV3, "load_state_dict"),
    ):
        torch.manual_seed(0)
        network = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return network.state_dict()


if __name__ == "__main__":
    main()
