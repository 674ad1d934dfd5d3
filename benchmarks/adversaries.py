"""Every discriminator, and every perceptual loss, on the same small tokenizer with as many updates or as much time.

    python benchmarks/adversaries.py [--updates U | --minutes M] [--data DIR] [--weights NAME=FILE] [--set OVERRIDE]
        [NAME ...]

The discriminator takes part from a fifth of the updates on. With ``--minutes`` each run first makes a few updates to
learn how many it has time for. Runs go one after the other into ``runs/adversaries/NAME``; finished ones are not
repeated, so that the whole can be done in parts. Without DIR the images are the photos that need no download. What
cannot be had (weights, without a network) is left out with its reason. Writes ``runs/adversaries/table.md`` and
``adversaries.jpg`` of all that are finished.
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from compared import ROOT, cpu_minutes, finished, folder_of, launch, picture, table

from vistok import configuration

FOLDER = ROOT / "runs" / "adversaries"
GROUP = "discriminator@loss.adversary.discriminator"
NARROW = "+loss.adversary.discriminator.channels=[32,64,128,128,128]"  # at 64, 32, ..., 4 pixels
RUNS = {
    "L2 alone": ["loss=l2_gan", "optim.adversarial_start=1000000000"],
    "PatchGAN, hinge": ["loss=l2_gan"],
    "PatchGAN, non-saturating": ["loss=l2_gan", "loss.adversary.loss=vanilla",
                                 "loss.adversary.generator_loss=non_saturating"],
    "PatchGAN, least squares": ["loss=l2_gan", "loss.adversary.loss=least_squares",
                                "loss.adversary.generator_loss=least_squares"],
    "PatchGAN, group norms": ["loss=l2_gan", "+loss.adversary.discriminator.norm=group"],
    "PatchGAN, R1, LeCam, DiffAug": ["loss=small_data"],
    "StyleGAN2, R1": ["loss=stylegan2", NARROW],
    "LlamaGen's StyleGAN": ["loss=l2_gan", f"{GROUP}=stylegan_llamagen", NARROW],
    "DINO heads, DiffAug": ["loss=l2_gan", f"{GROUP}=dino",
                            "+loss.adversary.augmentation._target_=vistok.losses.DiffAug"],
    "LPIPS-VGG": ["loss=lpips_vgg"],
    "LPIPS-AlexNet": ["loss=lpips_alex"],
    "LPIPS-SqueezeNet": ["loss=lpips_squeeze"],
    "ST-LPIPS": ["loss=stlpips"],
    "ConvNeXt-S logits": ["loss=convnext"],
    "ResNet-50 stages": ["loss=resnet"],
    "EfficientNet-Lite0 logits": ["loss=efficientnet"],
    "MobileNetV2 layers": ["loss=mobilenet"],
}  # fmt: skip
TRIAL = 40  # updates that are timed
NETWORKS = ("lpips", "stlpips", "features")  # image losses that have weights


def train(name: str, words: Sequence[str], minutes: float, updates: int | None, folder: Path) -> None:
    """One run of so many updates, or of as many as a trial says there is time for."""
    run = folder_of(name, folder)
    if updates is None:
        trial = [f"optim.updates={TRIAL}", f"log.val_every={TRIAL}", "optim.adversarial_start=0", "schedule=constant"]
        report = launch(folder / "trials" / run.name, [*words, *trial])
        if report is None:
            run.mkdir(parents=True, exist_ok=True)
            (run / "log.txt").write_text((folder / "trials" / run.name / "log.txt").read_text())
            return
        updates = max(TRIAL, round(TRIAL * 60 * minutes / report["seconds"]))
    budget = [f"optim.updates={updates}", f"log.val_every={updates}", f"optim.adversarial_start={updates // 5}"]
    if name == "L2 alone":
        budget.pop()
    launch(run, [*words, *budget])


def row(name: str, folder: Path) -> str:
    """A run's line of the table."""
    run = folder_of(name, folder)
    if not (run / "metrics.json").is_file():
        lines = [line for line in (run / "log.txt").read_text().splitlines() if line.startswith("error: ")]
        return f"| {name} | not run: {lines[-1].removeprefix('error: ') if lines else 'see its log.txt'} |" + " |" * 5
    report = json.loads((run / "metrics.json").read_text())
    metrics = report["metrics"]
    with (run / "metrics.csv").open() as file:
        judged = [line for line in csv.DictReader(file) if line.get("train/accuracy_real")][-20:]
    sides = [sum(float(line[f"train/accuracy_{side}"]) for line in judged) for side in ("real", "fake")]
    accuracy = " / ".join(f"{side / len(judged):.0%}" for side in sides) if judged else "–"
    return (
        f"| {name} | {report['updates']:,} | {cpu_minutes(name, folder):.1f} | {metrics['psnr']:.2f} | "
        f"{metrics['ssim']:.3f} | {accuracy} | {metrics['perplexity']:.0f} |"
    )


def held_out(words: Sequence[str], columns: int) -> torch.Tensor:
    """Test images (columns, 3, 64, 64) in uint8, spread evenly over the set."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = hydra.compose("train", overrides=[word for word in words if word.startswith("data")])
    data = configuration.instantiate(config.data)
    total = len(data.test)
    return torch.stack([data.test[0, i * total // columns].image for i in range(columns)])


def weights(name: str, file: str) -> str:
    """The override that has a run's perceptual network take its weights from a file."""
    loss = next(word for word in RUNS[name] if word.startswith("loss=")).removeprefix("loss=")
    config = (ROOT / "configs" / "loss" / f"{loss}.yaml").read_text()
    network = next((network for network in NETWORKS if f"  {network}:" in config), None)
    if network is None:
        raise ValueError(f"--weights {name}={file}: this run has no perceptual network")
    return f"loss.image_losses.{network}.weights={file}"


def main(arguments: argparse.Namespace, words: Sequence[str] = (), folder: Path = FOLDER) -> None:
    """All of it; ``words`` are further overrides of every run."""
    words = ["backbone=cnn_f8_small", *arguments.set, *words]
    if arguments.data:
        words = ["data=folder", f"data.root={arguments.data}", *words]
    files = dict(pair.split("=", 1) for pair in arguments.weights)
    for name in arguments.names or RUNS:
        own = [*RUNS[name], *([weights(name, files[name])] if name in files else []), *words]
        if not finished(name, folder):
            train(name, own, arguments.minutes, arguments.updates, folder)
    tried = [name for name in RUNS if (folder_of(name, folder) / "log.txt").is_file()]
    columns = ["loss", "updates", "CPU minutes", "PSNR", "SSIM", "accuracy real / reconstructed", "perplexity"]
    (folder / "table.md").write_text(table(columns, (row(name, folder) for name in tried)))
    done = [name for name in tried if finished(name, folder)]
    picture(done, held_out(words, columns=6), folder).save(folder / "adversaries.jpg", quality=92)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare discriminators and perceptual losses on a small tokenizer.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {'; '.join(RUNS)}")
    parser.add_argument("--minutes", type=float, default=5, help="of each run, about (default: %(default)s)")
    parser.add_argument("--updates", type=int, help="of each run, in place of --minutes")
    parser.add_argument("--data", help="a folder of images")
    parser.add_argument("--weights", action="append", default=[], metavar="NAME=FILE", help="of a perceptual network")
    parser.add_argument("--set", action="append", default=[], metavar="OVERRIDE", help="of the config of every run")
    return parser


if __name__ == "__main__":
    parsed = parser().parse_args()
    names = {*parsed.names, *(pair.split("=", 1)[0] for pair in parsed.weights)}
    if unknown := names - set(RUNS):
        sys.exit(f"no such run: {', '.join(sorted(unknown))}; there are: {'; '.join(RUNS)}")
    main(parsed)
