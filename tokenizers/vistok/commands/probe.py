"""Measures how learnable tokens are, with a small generator that is trained on them.

Prints and writes the bits of held-out images, beside those by frequency. With a tokenizer and images, samples are
decoded and scored as generated images, by the protocols of ``eval``; a picture of samples is written beside the JSON.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console

from vistok import configuration
from vistok.commands import overrides
from vistok.commands.arguments import TOKENIZER, Parser, at_least, number
from vistok.commands.failures import guard
from vistok.data.shards import Data
from vistok.distributed.process_group import processes
from vistok.evaluation.learnability.autoregressive import NextIdModel
from vistok.evaluation.learnability.generation import generation_scores, refuse_native, samples_of
from vistok.evaluation.learnability.next_scale import NextScaleModel
from vistok.evaluation.learnability.probe_report import Probed, bits_table, probe, split_tokens
from vistok.evaluation.learnability.probe_training import SIZES, ProbeSettings
from vistok.evaluation.networks import ScoringNetworks, networks_of
from vistok.evaluation.protocols import Protocol
from vistok.evaluation.set_metrics import SetMetrics
from vistok.files import write_json
from vistok.formats.load import load
from vistok.images.ranges import to_uint8
from vistok.plots.picture_rows import labelled_tiles
from vistok.speed import keep_freed_pages
from vistok.terminal import say
from vistok.tokenizer import Tokenizer
from vistok.tokens.store import TokenStore
from vistok.versions import versions

CONFIGS = Path(__file__).parent.parent / "configs"
PICTURES = 64
WIDTH = 120  # characters of a line in a file or a pipe


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments), again="nothing was written; the same command starts again")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = Parser("probe", __doc__)
    parser.add_argument("tokens", metavar="TOKENS", help="folder that python -m vistok tokenize wrote")
    parser.flag("--out", help="JSON file of the report")
    parser.flag(
        "--held-out",
        metavar="TOKENS",
        help="tokens of held-out images (default: a tenth of the images, by the hash of their names)",
    )
    parser.flag(
        "--size",
        default="tiny",
        choices=SIZES,
        help="size of the generator: tiny (2 layers, 128 channels), small (6, 384) or base (12, 768)",
    )
    parser.flag("--updates", type=at_least(1), metavar="N", default=500, help="training steps of the generator")
    parser.flag("--batch-size", default=32, help="images in a training step")
    parser.flag("--seed", help="first seed; it determines the weights, the order and the samples")
    parser.flag("--seeds", type=at_least(1), metavar="N", default=3, help="number of seeds, whose spread is reported")
    parser.flag("--tokenizer", metavar="PATH", help=f"tokenizer of the tokens, to decode samples: {TOKENIZER}")
    parser.flag(
        "--images", required=False, help="folder or tar shards of images to compare samples with; needs --tokenizer"
    )
    parser.flag("--num-images", help="largest number of samples, and of images drawn to compare them with")
    parser.flag(
        "--eval",
        nargs="+",
        metavar="KEY=VALUE",
        default=["protocol=[canonical]"],
        help="keys of eval for the comparison, such as protocol=titok or feature_network=torchvision",
    )
    parser.flag("--temperature", type=number(above=0), metavar="T", default=1.0, help="divisor of a sample's logits")
    parser.flag("--top-k", type=at_least(1), metavar="N", help="number of ids a sample can draw from (default: all)")
    parser.flag(
        "--guidance",
        type=number(),
        metavar="SCALE",
        default=1.0,
        help="scale of classifier-free guidance for images with labels; 1 is without",
    )
    parser.flag("--device")
    return parser


def run(asked: argparse.Namespace) -> None:
    """Trains, measures, samples and reports."""
    if asked.images and not asked.tokenizer:
        raise ValueError("--images, which samples are compared with, needs --tokenizer, which decodes them")
    out, console = Path(asked.out), Console()
    if not console.is_terminal:
        console.width = WIDTH
    if out.exists():
        raise ValueError(f"--out={out} exists already and is not overwritten")
    with processes(asked.device) as device:
        if device.type == "cpu":
            keep_freed_pages()
        tokenizer = load(asked.tokenizer).to(device).eval() if asked.tokenizer else None
        split = split_tokens(asked.tokens, asked.held_out)
        store = split.train.dataset.store
        if tokenizer:
            store.header.check_tokenizer(tokenizer)
        reference = reference_of(asked, store.header.image_size) if asked.images else None
        settings = ProbeSettings(asked.size, asked.updates, asked.batch_size)
        seeds = range(asked.seed, asked.seed + asked.seeds)
        probed = probe(split, settings, seeds, device, console, tokenizer.quantizer if tokenizer else None)
        report = {"tokens": asked.tokens, **probed.report, "settings": asdict(settings), "versions": versions()}
        console.print(bits_table(report))
        out.parent.mkdir(parents=True, exist_ok=True)
        if tokenizer:
            report |= generated(asked, probed, tokenizer, store, reference, device, out.with_suffix(".png"))
            for kind, own in {"": report, "of the next-scale model ": report.get("next_scale", {})}.items():
                for name, scores in own.get("generation", {}).items():
                    values = ", ".join(f"{score} {value:,.2f}" for score, value in scores.items() if score != "images")
                    values = values or "no feature network"
                    say(f"{scores['images']:,} samples {kind}".rstrip() + f", {name}: {values}", console=console)
            for name, reason in report.get("unavailable", {}).items():
                say(f"{name} is unavailable: {reason}", "yellow", console=console)
        write_json(report, out)
        say(f"written to {out}", console=console)


class SampleReference(NamedTuple):
    """The images and the networks that samples are compared with, and the reasons why others are unavailable."""

    data: Data
    protocols: dict[str, Protocol]
    networks: ScoringNetworks
    asked: SetMetrics
    unavailable: dict[str, str]


def reference_of(asked: argparse.Namespace, image_size: int) -> SampleReference:
    """Builds what ``--images`` and ``--eval`` name, before the training begins."""
    folder = Path(asked.images).is_dir()
    source = [f"data.root={asked.images}"] if folder else ["data=shards", f"data.val_urls={asked.images}"]
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        keys = [*asked.eval, *source, f"data.image_size={image_size}", "tokenizer=none"]
        config = compose("eval", overrides=overrides.readable(keys))
    protocols = configuration.instantiate(config.protocol)
    refuse_native(protocols)
    networks, unavailable = networks_of(config, [])
    return SampleReference(
        configuration.instantiate(config.data),
        protocols,
        networks,
        SetMetrics(kid=config.metrics.kid, precision_recall=config.metrics.precision_recall),
        {"gfid" if name == "rfid" else name: reason for name, reason in unavailable.items()},
    )


def generated(
    asked: argparse.Namespace,
    probed: Probed,
    tokenizer: Tokenizer,
    store: TokenStore,
    reference: SampleReference | None,
    device: torch.device,
    picture: Path,
) -> dict[str, Any]:
    """Draws samples, writes a picture of some, and scores them against images where there are any.

    Those of the next-scale model, where there is one, are in ``next_scale`` and in a picture of their own.
    """
    sampling = {"temperature": asked.temperature, "top_k": asked.top_k, "guidance": asked.guidance}
    report: dict[str, Any] = {"sampling": sampling} | ({"eval": asked.eval} if reference else {})
    kinds = {name.partition(",")[0]: model for name, model in probed.models.items()}  # with classes, if there are any
    for kind, model in kinds.items():
        own = picture if kind == "probe" else picture.with_stem(f"{picture.stem}-{kind.replace(' ', '-')}")
        found = scored_samples(asked, model, sampling, tokenizer, store, reference, device, own)
        report |= found if kind == "probe" else {kind.replace(" ", "_"): found}
    return report


def scored_samples(
    asked: argparse.Namespace,
    model: NextIdModel | NextScaleModel,
    sampling: dict[str, Any],
    tokenizer: Tokenizer,
    store: TokenStore,
    reference: SampleReference | None,
    device: torch.device,
    picture: Path,
) -> dict[str, Any]:
    """Samples of one model: their picture and, where there are images, their scores."""
    count = min(asked.num_images, reference.data.num_test or asked.num_images) if reference else PICTURES
    drawn = list(samples_of(model, store, count, asked.seed, **sampling))
    codes, labels = [codes for codes, _ in drawn], torch.cat([labels for _, labels in drawn])
    chosen = labels.argsort(stable=True)[torch.linspace(0, count - 1, min(PICTURES, count)).round().long()]
    images = to_uint8(store.decode(tokenizer, torch.cat(codes)[chosen].to(device)))
    names = store.header.classes or [f"class {i}" for i in range(model.classes)]
    captions = [names[label] if label < len(names) else "" for label in labels[chosen].tolist()]
    labelled_tiles(images.cpu(), captions, 8).save(picture)
    if reference is None:
        return {}
    data, protocols, networks, metrics, unavailable = reference
    networks = networks.to(device)
    scores = generation_scores(codes, tokenizer, store, data, protocols, networks, device, asked.seed, metrics)
    return {"generation": scores, "unavailable": unavailable}
