"""Published evaluators, written anew from their descriptions with the functions of the packages that they use.

Each function takes a folder of images, a model and files of weights, and returns the numbers that its evaluator prints.
SSIM of piq is computed in float64, since its float32 loses up to 1.2e-5 of the value.
Nothing of vistok is imported here. A model maps images (b, 3, H, W) in [-1, 1] to reconstructions.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import networks
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from reading import adm_crop, albumentations_crop, batches, files, upright_on_white
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

Model = Callable[[Tensor], Tensor]
Weights = Mapping[str, Path]
NORMALIZE = transforms.Normalize([0.5] * 3, [0.5] * 3)


def canonical(folder: Path, model: Model, weights: Weights, size: int) -> dict[str, float]:
    """vistok's own, by scikit-image, torchmetrics, lpips and torch-fidelity on 8-bit images."""
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure,
        structural_similarity_index_measure,
    )

    def prepare(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(adm_crop(image, size))).permute(2, 0, 1)

    alex, vgg = (networks.lpips(net, weights[net]) for net in ("alex", "vgg"))
    values: dict[str, list[float]] = {}
    sides: tuple[list, list] = ([], [])
    for images in batches(folder, prepare, convert=upright_on_white):
        levels = (model(images.float() / 127.5 - 1).clamp(-1, 1).add(1) * 127.5).round().to(torch.uint8)
        for held, own in zip(sides, (images, levels), strict=True):
            held.append(own.permute(0, 2, 3, 1).numpy())
        doubles = levels.double(), images.double()
        floats = [own.float() / 127.5 - 1 for own in (levels, images)]
        ms_ssim = multiscale_structural_similarity_index_measure
        found = {
            "psnr": [peak_signal_noise_ratio(true, own) for own, true in zip(sides[1][-1], sides[0][-1], strict=True)],
            "ssim_skimage7": [
                structural_similarity(own, true, channel_axis=-1)
                for own, true in zip(sides[1][-1], sides[0][-1], strict=True)
            ],
            "ssim_gauss11": structural_similarity_index_measure(*doubles, data_range=255.0, reduction="none").tolist(),
            "ms_ssim": [
                ms_ssim(*(own[i : i + 1] for own in doubles), data_range=255.0).item() for i in range(len(images))
            ],
            "l1": (doubles[0] - doubles[1]).abs().mean((1, 2, 3)).div(255).tolist(),
            "lpips_alex": alex(*floats).flatten().tolist(),
            "lpips_vgg": vgg(*floats).flatten().tolist(),
        }
        for name, own in found.items():
            values.setdefault(name, []).extend(own)
    own, own_spatial, logits = networks.adm(weights["inception"], np.concatenate(sides[1]))
    reference, spatial, _ = networks.adm(weights["inception"], np.concatenate(sides[0]))
    return {name: float(np.mean(held)) for name, held in values.items()} | {
        "rfid": networks.frechet(reference, own),
        "sfid": networks.frechet(spatial, own_spatial),
        "inception_score": isc_features_to_metric(logits)["inception_score_mean"],
    }


def llamagen(folder: Path, model: Model, weights: Weights, size: int, size_eval: int | None = None) -> dict[str, float]:
    """LlamaGen: PSNR and SSIM of 8-bit reconstructions and float images; ADM's evaluator on arrays of 8 bits."""
    size_eval = size_eval or size
    prepare = transforms.Compose([lambda image: adm_crop(image, size), transforms.ToTensor(), NORMALIZE])
    psnr, ssim, samples = [], [], []
    for images in batches(folder, prepare):
        reconstruction, truth = model(images), images
        if size_eval != size:
            truth = F.interpolate(images, (size_eval, size_eval), mode="bicubic")
            reconstruction = F.interpolate(reconstruction, (size_eval, size_eval), mode="bicubic")
        truth = (truth.permute(0, 2, 3, 1).numpy() + 1) / 2
        levels = (127.5 * reconstruction + 128).clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8).numpy()
        samples.append(levels)
        for restored, true in zip(levels, truth, strict=True):
            restored = restored.astype(np.float32) / 255
            psnr.append(peak_signal_noise_ratio(restored, true))
            ssim.append(structural_similarity(restored, true, data_range=2.0, channel_axis=-1))
    reference = np.stack([np.array(adm_crop(Image.open(path).convert("RGB"), size_eval)) for path in files(folder)])
    features, spatial, logits = networks.adm(weights["inception"], np.concatenate(samples))
    own, own_spatial, _ = networks.adm(weights["inception"], reference)
    probabilities = logits.softmax(1).numpy()
    scores = []
    for first in range(0, len(probabilities), 5000):
        part = probabilities[first : first + 5000]
        scores.append(np.exp((part * (np.log(part) - np.log(part.mean(0)[None]))).sum(1).mean()))
    return {
        "psnr": float(np.mean(psnr)),
        "ssim_skimage7_range2": float(np.mean(ssim)),
        "rfid": networks.frechet(own, features),
        "sfid": networks.frechet(own_spatial, spatial),
        "inception_score": float(np.mean(scores)),
    }


def seed_voken(folder: Path, model: Model, weights: Weights, prepare: Callable) -> dict[str, float]:
    """SEED-Voken's evaluation_image.py, by the way in which a data set makes its squares."""

    def as_floats(image: Image.Image) -> Tensor:
        return torch.from_numpy((np.array(prepare(image)) / 127.5 - 1.0).astype(np.float32)).permute(2, 0, 1)

    alex, vgg = (networks.lpips(net, weights[net]) for net in ("alex", "vgg"))
    inception = networks.pytorch_fid(weights["inception"])
    values: dict[str, list[float]] = {name: [] for name in ("psnr", "ssim_skimage7", "lpips_alex", "lpips_vgg")}
    features: tuple[list, list] = ([], [])
    for images in batches(folder, as_floats):
        reconstruction = model(images).clamp(-1, 1)
        values["lpips_alex"] += alex(images, reconstruction).flatten().tolist()
        values["lpips_vgg"] += vgg(images, reconstruction).flatten().tolist()
        images, reconstruction = (images + 1) / 2, (reconstruction + 1) / 2
        for held, side in zip(features, (images, reconstruction), strict=True):
            held.append(inception(side)[0].flatten(1).numpy())
        sides = ((side * 255.0).permute(0, 2, 3, 1).to(torch.uint8).numpy() for side in (images, reconstruction))
        for true, restored in zip(*(side.astype(np.float32) / 255.0 for side in sides), strict=True):
            values["psnr"].append(peak_signal_noise_ratio(true, restored))
            values["ssim_skimage7"].append(structural_similarity(restored, true, data_range=1.0, channel_axis=-1))
    means = {name: float(np.mean(own)) for name, own in values.items()}
    return means | {"rfid": networks.frechet(*map(np.concatenate, features))}


def openmagvit2(folder: Path, model: Model, weights: Weights, size: int) -> dict[str, float]:
    crop = transforms.Compose([transforms.Resize(size), transforms.CenterCrop((size, size))])
    return seed_voken(folder, model, weights, crop)


def ibq(folder: Path, model: Model, weights: Weights, size: int) -> dict[str, float]:
    return seed_voken(folder, model, weights, albumentations_crop(size))


def titok(folder: Path, model: Model, weights: Weights, size: int) -> dict[str, float]:
    """1d-tokenizer: models of images in [0, 1], one split for the Inception score, Inception in double precision."""
    prepare = transforms.Compose(
        [
            transforms.Resize(size, InterpolationMode.BICUBIC, antialias=True),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
        ]
    )
    network = networks.fidelity(weights["inception"], double=True)
    features: tuple[list, list] = ([], [])
    logits = []
    for images in batches(folder, prepare):
        reconstruction = ((model(images * 2 - 1) + 1) / 2).clamp(0, 1)
        reconstruction = torch.round(reconstruction * 255.0) / 255.0
        for held, side in zip(features, (images.clamp(0, 1), reconstruction), strict=True):
            pool, own = network((side * 255).to(torch.uint8))
            held.append(pool.numpy())
        logits.append(own)
    p = torch.cat(logits).softmax(1)
    divergence = (p * (p + 1e-16).log()).sum(1).mean() - (p.mean(0) * (p.mean(0) + 1e-16).log()).sum()
    return {
        "rfid": networks.frechet(*map(np.concatenate, features)),
        "inception_score": divergence.exp().item(),
    }


def fvq(folder: Path, model: Model, weights: Weights, size: int, size_eval: int | None = None) -> dict[str, float]:
    """FVQ: files named .JPEG, made by Pillow from reconstructions and, by crop_image.py, from images."""
    import piq
    from torch_fidelity import calculate_metrics

    crop = transforms.CenterCrop((size, size))
    prepare = transforms.Compose([crop, transforms.ToTensor(), NORMALIZE])
    psnr, lpips = networks.pyiqa_psnr_y(), networks.pyiqa_lpips(weights["alex"])
    values: dict[str, list[float]] = {name: [] for name in ("psnr_y", "ssim_gauss11_range2", "lpips_alex")}
    names = iter(path.with_suffix(".JPEG").name for path in files(folder))
    with tempfile.TemporaryDirectory() as made:
        for part in ("raw", "reconstructed"):
            (Path(made) / part).mkdir()
        for images in batches(folder, prepare):
            reconstruction = model(images)
            if size_eval in (None, size):  # the script with these distances has one size only
                sides = (
                    side.add(1).mul(0.5 * 255).round().clamp(0, 255).div(255.0) for side in (images, reconstruction)
                )
                true, restored = sides
                values["psnr_y"] += psnr(true, restored).flatten().tolist()
                values["ssim_gauss11_range2"] += piq.ssim(
                    true.double(), restored.double(), data_range=2.0, reduction="none"
                ).tolist()
                values["lpips_alex"] += lpips(true, restored).flatten().tolist()
            else:
                reconstruction = F.interpolate(reconstruction, (size_eval, size_eval), mode="bicubic")
            levels = reconstruction.add(1).mul(0.5 * 255).round().clamp(0, 255).to(torch.uint8)
            for image in levels.permute(0, 2, 3, 1).numpy():
                Image.fromarray(image).save(Path(made, "reconstructed", next(names)))
        for path in files(folder):
            image = crop(Image.open(path).convert("RGB"))
            if size_eval not in (None, size):
                image = transforms.Resize(size_eval)(image)
            image.save(Path(made, "raw", path.with_suffix(".JPEG").name))
        scores = calculate_metrics(
            input1=str(Path(made, "reconstructed")),
            input2=str(Path(made, "raw")),
            isc=True,
            fid=True,
            rng_seed=0,
            samples_shuffle=True,
            samples_find_ext="png,jpg,jpeg",
            samples_ext_lossy="jpg,jpeg",
            cuda=False,
            batch_size=16,
            save_cpu_ram=True,
            cache=False,
            verbose=False,
            feature_extractor_weights_path=str(weights["inception"]),
        )
    return {name: float(np.mean(own)) for name, own in values.items() if own} | {
        "rfid": scores["frechet_inception_distance"],
        "inception_score": scores["inception_score_mean"],
    }


def vqgan_lc(folder: Path, model: Model, weights: Weights, size: int) -> dict[str, float]:
    """VQGAN-LC: distances of unrounded images, LPIPS of a wrong range, clean-fid of truncated files.

    ``rfid`` compares with the cropped images, as vistok does; ``rfid_of_uncropped_images`` is the evaluator's own.
    """
    import piq

    crop = albumentations_crop(size)

    def prepare(image: Image.Image) -> Tensor:
        return torch.from_numpy((crop(image) / 127.5 - 1.0).astype(np.float32)).permute(2, 0, 1)

    psnr, lpips = networks.pyiqa_psnr_y(), networks.pyiqa_lpips(weights["alex"])
    features = networks.clean_fid(weights["inception"])
    values: dict[str, list[float]] = {name: [] for name in ("psnr_y", "ssim_gauss11_inner", "lpips_alex")}
    saved, cropped = [], []
    for images in batches(folder, prepare):
        reconstruction = model(images)
        values["lpips_alex"] += lpips(images, reconstruction).flatten().tolist()
        reconstruction = reconstruction.clamp(-1, 1)
        true, restored = ((side + 1) * 127.5 / 255.0 for side in (images, reconstruction))
        values["psnr_y"] += psnr(true, restored).flatten().tolist()
        values["ssim_gauss11_inner"] += piq.ssim(
            true.double(), restored.double(), data_range=1.0, reduction="none"
        ).tolist()
        saved += [np.uint8(image.numpy().transpose(1, 2, 0) * 255) for image in restored]
    opened = [Image.open(path).convert("RGB") for path in files(folder)]
    cropped = [crop(image) for image in opened]
    own = features(saved)
    return {name: float(np.mean(held)) for name, held in values.items()} | {
        "rfid": networks.frechet(features(cropped), own),
        "rfid_of_uncropped_images": networks.frechet(features([np.array(image) for image in opened]), own),
    }
