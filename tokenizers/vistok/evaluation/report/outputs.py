"""Output files of an evaluation: the JSON, the values of each image, and the HTML page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from vistok import files, versions
from vistok.data.shards import Data
from vistok.distributed.collectives import rank_and_size
from vistok.evaluation.accumulator import Scores
from vistok.evaluation.identity import names_hash
from vistok.evaluation.intervals import METHOD, Evidence, with_intervals
from vistok.evaluation.protocols import Protocol
from vistok.evaluation.reconstructions import Reconstructions
from vistok.evaluation.report.page import page
from vistok.evaluation.scoring import FORMAT, Result
from vistok.files import atomic_write, encodable
from vistok.images.pixel_hash import set_hash
from vistok.metrics.jackknife import group_sizes


def report_of(
    config: DictConfig,
    sources: Sequence[Reconstructions],
    data: Data,
    protocols: Mapping[str, Protocol],
    results: Sequence[Result],
    unavailable: Mapping[str, str],
    device: torch.device,
) -> dict[str, Any]:
    """Content of the JSON: the scores and everything known about them."""
    scores = [
        {"tokenizer": source.path, "protocol": name, "hash": protocols[name].hash, "metrics": metrics}
        for source, result in zip(sources, results, strict=True)
        for name, metrics in result.metrics(protocols).items()
    ]
    native = [own for own in results[0].scores.values() if own.preparation.native]
    differences = []
    if config.metrics.intervals:
        measured = [result.scores[protocol.preparation.name] for result in results for protocol in protocols.values()]
        scores, differences = with_intervals(
            scores, [evidence_of(score, own) for score, own in zip(scores, measured, strict=True)]
        )
    return {
        "format": FORMAT,
        "scores": scores,
        "differences": differences,
        "intervals": METHOD if config.metrics.intervals else None,
        "strata": [
            {"tokenizer": source.path, "crop": crop}
            | own.strata.summary({name: own.values(name) for name in own.protocols})
            for source, result in zip(sources, results, strict=True)
            for crop, own in result.scores.items()
            if own.strata
        ],
        "scales": [
            {"tokenizer": source.path, "crop": preparation, "scales": scales_of(own)}
            for source, result in zip(sources, results, strict=True)
            for preparation, own in result.scores.items()
            if own.grids
        ],
        "unavailable": dict(unavailable),
        "protocols": {
            name: {
                "hash": protocol.hash,
                **asdict(protocol),
                "preparation": protocol.preparation.name,
                "distances": list(protocol.distances),
            }
            for name, protocol in protocols.items()
        },
        "partial": results[0].partial(protocols),
        "warnings": [warning for source in sources for warning in source.warnings],
        "tokenizers": [source.about() for source in sources],
        "data": {
            "source": data.about,
            "images": len(results[0].names),
            "unreadable": results[0].unreadable,
            "passed_over": results[0].passed_over,
            "image_size": None if len(native) == len(results[0].scores) else data.image_size,
            "native_sizes": range_of(native[0].sizes) if native else None,
            "sha256_of_names": names_hash(results[0].names),
            "sha256_of_images": set_hash(results[0].names, results[0].hashes),
        },
        "networks": {
            name: {"sha256": own.sha256, "official": own.official}
            for name, own in next(iter(results[0].scores.values())).networks.weight_hashes().items()
        },
        "rate": config.model.rate,
        "reference": config.metrics.reference,
        "dtype": "float32",
        "device": str(device),
        "processes": rank_and_size()[1],
        "versions": versions.versions(),
        "config": OmegaConf.to_container(config, resolve=True),
    }


def scales_of(scores: Scores) -> list[dict[str, Any]]:
    """Grid of each scale, its number of tokens, and the usage of the codebooks."""
    values = ({name: own.item() for name, own in found.items()} for found in scores.by_scale.compute())
    return [{"grid": grid, "tokens": own.pop("tokens"), **own} for grid, own in zip(scores.grids, values, strict=True)]


def evidence_of(score: Mapping[str, Any], measured: Scores) -> Evidence:
    """Everything that a score's intervals are computed from."""
    values, leave_one_out = (
        {name: own.numpy() for name, own in found.items()}
        for found in (measured.values(score["protocol"]), measured.leave_one_out(score["protocol"]))
    )
    return Evidence(score["metrics"], values, leave_one_out, group_sizes(measured.names).numpy())


def range_of(sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Smallest and largest of the sizes (height, width) by area, and the number of different ones."""
    ordered = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
    return {"smallest": list(ordered[0]), "largest": list(ordered[-1]), "different": len(ordered)}


def write(report: Mapping[str, Any], results: Sequence[Result], output: Path) -> None:
    """Writes the values and the page beside the JSON. The JSON is written last, so that its existence means success.

    ``OUTPUT.html`` is the page.

    ``OUTPUT.npz`` holds ``names`` (n,) and ``sha256`` (n,), the hash of each image's pixels. For the i-th tokenizer it
    holds ``i/PROTOCOL/DISTANCE`` (n,) float32, NaN for an image that is too small for the distance, and for each
    preparation (``adm``, ``adm_stored``) ``i/PREPARATION/tokens`` (n,) int64, the number of positions that are tokens,
    and ``i/PREPARATION/counts/j`` (size,) int64, the count of each codeword of the j-th codebook; stored
    reconstructions have neither. For images of native size there is ``i/PREPARATION/sizes`` (n, 2) int64, height and
    width.
    ``i/PROTOCOL/SCORE/leave_one_out`` (10,) float64 are Fréchet distances without the images of one of ten groups each.
    With ``metrics.strata`` it also holds the values of ``Strata.arrays``, as ``i/PREPARATION/NAME``.
    """
    arrays = {"names": np.array(results[0].names), "sha256": np.array(results[0].hashes)}
    for i, result in enumerate(results):
        for preparation, scores in result.scores.items():
            for protocol in scores.protocols:
                arrays |= {f"{i}/{protocol}/{name}": v.numpy() for name, v in scores.values(protocol).items()}
                jackknife = scores.leave_one_out(protocol)
                arrays |= {f"{i}/{protocol}/{name}/leave_one_out": v.numpy() for name, v in jackknife.items()}
            if scores.strata:
                arrays |= {f"{i}/{preparation}/{name}": own for name, own in scores.strata.arrays().items()}
            if scores.preparation.native:
                arrays[f"{i}/{preparation}/sizes"] = np.array(scores.sizes)
            if scores.usage:
                arrays[f"{i}/{preparation}/tokens"] = np.array(scores.tokens)
                counts = {f"{i}/{preparation}/counts/{j}": n.cpu().numpy() for j, n in enumerate(scores.usage.counts)}
                arrays |= counts
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output.with_suffix(".npz")) as file:
        np.savez_compressed(file, **arrays)
    with atomic_write(output.with_suffix(".html")) as file:
        file.write(encodable(page(report, [result.scores for result in results])).encode())
    files.write_json(report, output)
