"""Comparison of tokenizers from the files of any number of evaluations."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vistok.evaluation.intervals import METHOD, Evidence, with_intervals
from vistok.evaluation.protocols import differences
from vistok.evaluation.report.labels import short
from vistok.images.evaluation_crops import NATIVE
from vistok.metrics.jackknife import GROUPS, group_sizes
from vistok.untrusted.bounded_json import one_line, read_object
from vistok.untrusted.bounded_json import short as shortened
from vistok.untrusted.zipped_arrays import read_arrays, read_texts

LEAVE_ONE_OUT = "leave_one_out"  # end of the names of arrays without one group of images each
MAX_JSON = 2**26  # largest file of an evaluation in bytes; it lists the images that could not be read


class Evaluation(NamedTuple):
    """JSON of one evaluation."""

    path: Path
    report: dict[str, Any]

    def named(self, hash: str) -> str | None:
        """Name of the protocol with this hash; None if there is none."""
        return next((name for name, own in self.report["protocols"].items() if own["hash"] == hash), None)

    def images(self, hash: str) -> dict[str, Any]:
        """Everything that identifies the images of a protocol: their number, their hashes, and the size of crops."""
        data, name = self.report["data"], self.named(hash)
        size = None if name and self.report["protocols"][name].get("crop") == NATIVE else data.get("image_size")
        hashes = {key: value for key, value in data.items() if key.startswith("sha256_of") and type(value) is str}
        return {"images": data["images"], "image_size": size, **hashes}


class Entry(NamedTuple):
    """One tokenizer of an evaluation under the compared protocol."""

    evaluation: Evaluation
    images: dict[str, Any]  # what identifies them
    tokenizer: dict[str, Any]  # its description in the JSON
    metrics: dict[str, float]
    names: list[str]  # of the images, sorted; empty if their values are not beside the JSON
    evidence: Evidence  # of the images in the order of their names

    @property
    def rate(self) -> float | None:
        return self.evaluation.report.get("rate")


def compare(paths: Sequence[str | Path], protocol: str | None = None) -> dict[str, Any]:
    """Scores of all tokenizers in the files of evaluations, with intervals, and differences from the first tokenizer.

    A difference is given where protocol and images are those of the first tokenizer, and the values of single images
    lie beside the JSON. A tokenizer that is in several files counts once.

    Args:
        paths: JSON files of evaluations. All are compared with the first tokenizer of the first file.
        protocol: Name of the protocol in the first file; None takes the first one that all files have.

    Returns:
        Content like that of an evaluation's JSON, of one protocol: ``protocols``, ``tokenizers``, ``scores`` with
        ``metrics`` and ``intervals``, ``differences``. ``not_compared`` has the reason for each tokenizer without
        differences.

    Raises:
        ValueError: A file is not an evaluation, or lacks the protocol; the message names the file and the difference.
    """
    if not paths:
        raise ValueError("a comparison needs at least one file of an evaluation")
    evaluations = [read_evaluation(Path(path)) for path in paths]
    hash = common_protocol(evaluations, protocol)
    entries: list[Entry] = []
    for evaluation in evaluations:
        entries += [own for own in entries_of(evaluation, hash) if not any(_same(own, other) for other in entries)]
    if not entries:
        raise ValueError(f"{', '.join(map(str, paths))}: no score is of the protocol {hash}")
    name, labels = evaluations[0].named(hash), labels_of(entries)
    plain = [
        {"tokenizer": label, "protocol": name, "hash": hash, "metrics": own.metrics}
        for label, own in zip(labels, entries, strict=True)
    ]
    reasons = {label: other_images(entries[0], own) for label, own in zip(labels, entries, strict=True)}
    paired = [i for i, label in enumerate(labels) if not reasons[label]]
    scores, apart = with_intervals([plain[i] for i in paired], [entries[i].evidence for i in paired])
    complete = dict(zip(paired, scores, strict=True))
    for i in set(range(len(entries))) - complete.keys():
        complete[i] = with_intervals([plain[i]], [entries[i].evidence])[0][0]
    return {
        "protocols": {name: evaluations[0].report["protocols"][name]},
        "tokenizers": [
            {
                **own.tokenizer,
                "tokenizer": label,
                "path": own.tokenizer["tokenizer"],
                "rate": own.rate,
                "file": str(own.evaluation.path),
                **own.images,
            }
            for label, own in zip(labels, entries, strict=True)
        ],
        "scores": [complete[i] for i in range(len(entries))],
        "differences": apart,
        "intervals": METHOD,
        "not_compared": {label: reason for label, reason in reasons.items() if reason},
        "unavailable": {},
    }


def read_evaluation(path: Path) -> Evaluation:
    """Reads and checks the JSON of an evaluation.

    Raises:
        ValueError: The file is not one; the message names it.
    """
    report = read_object(path, MAX_JSON)
    protocols, tokenizers, scores, data = (report.get(key) for key in ("protocols", "tokenizers", "scores", "data"))
    good = {
        "protocols": isinstance(protocols, dict)
        and protocols
        and _texts(protocols.values(), "hash")
        and all(type(own.get("distances")) is list for own in protocols.values())
        and all(type(distance) is str for own in protocols.values() for distance in own["distances"]),
        "tokenizers": isinstance(tokenizers, list) and tokenizers and _texts(tokenizers, "tokenizer", "sha256"),
        "scores": isinstance(scores, list)
        and _texts(scores, "tokenizer", "protocol")
        and all(isinstance(score.get("metrics"), dict) for score in scores),
        "data": isinstance(data, dict) and type(data.get("images")) is int,
        "rate": report.get("rate") is None or _finite(report["rate"]),
    }
    for key in good:
        if not good[key]:
            raise ValueError(f"{path} is not the JSON of an evaluation: its {key} are {shortened(report.get(key))}")
    return Evaluation(path, report)


def common_protocol(evaluations: Sequence[Evaluation], protocol: str | None) -> str:
    """Hash of the protocol that is compared."""
    first = evaluations[0]
    own = first.report["protocols"]
    if protocol is not None and protocol not in own:
        raise ValueError(f"{first.path} has no protocol {protocol}; it has {', '.join(own)}")
    candidates = {name: own[name] for name in ([protocol] if protocol else own)}
    for description in candidates.values():
        if all(other.named(description["hash"]) for other in evaluations):
            return description["hash"]
    wanted, description = next(iter(candidates.items()))
    lacking = next(other for other in evaluations if not other.named(description["hash"]))
    others = lacking.report["protocols"]
    name = wanted if wanted in others else next(iter(others))
    fields = {key: value for key, value in description.items() if key != "hash"}
    apart = differences(others[name], fields) or "by its hash alone"
    raise ValueError(
        f"{lacking.path} was not scored by the protocol {wanted} {description['hash']} of {first.path}; its {name} "
        f"{others[name]['hash']} differs: {one_line(apart)}"
    )


def entries_of(evaluation: Evaluation, hash: str) -> list[Entry]:
    """The tokenizers of an evaluation under a protocol, with the values of the images where they exist."""
    report, name = evaluation.report, evaluation.named(hash)
    scores = [
        next((s for s in report["scores"] if (s["tokenizer"], s["protocol"]) == (own["tokenizer"], name)), None)
        for own in report["tokenizers"]
    ]
    beside = evaluation.path.with_suffix(".npz")
    names, arrays = [], {}
    if beside.is_file():
        names = read_texts(beside, "names")
        keys = [f"{i}/{name}/{metric}" for i, score in enumerate(scores) if score for metric in score["metrics"]]
        arrays = read_arrays(beside, [*keys, *(f"{key}/{LEAVE_ONE_OUT}" for key in keys)])
        if len(set(names)) != evaluation.report["data"]["images"]:
            raise ValueError(f"{beside} has {len(set(names)):,} images, but {evaluation.path} has another number")
    order = np.array(sorted(range(len(names)), key=names.__getitem__), np.int64)
    entries = []
    for i, (own, score) in enumerate(zip(report["tokenizers"], scores, strict=True)):
        if score:
            metrics = {key: value for key, value in score["metrics"].items() if _finite(value)}
            values, leave_one_out = (
                {key: arrays[f"{i}/{name}/{key}{suffix}"] for key in metrics if f"{i}/{name}/{key}{suffix}" in arrays}
                for suffix in ("", f"/{LEAVE_ONE_OUT}")
            )
            for found, size, what in ((values, len(names), "image"), (leave_one_out, GROUPS, "group")):
                for key, numbers in found.items():
                    if numbers.shape != (size,) or np.isinf(numbers).any():  # NaN: an image too small for a metric
                        raise ValueError(f"{beside} has not one number for each {what} in {i}/{name}/{key}")
            with np.errstate(invalid="ignore"):  # kinds of NaN
                values = {key: of_images[order].astype(np.float64) for key, of_images in values.items()}
            sizes = group_sizes(names).numpy()
            if leave_one_out and not sizes.all():
                raise ValueError(f"{beside} has {LEAVE_ONE_OUT}, though its images do not fill {GROUPS} groups")
            evidence = Evidence(metrics, values, leave_one_out, sizes)
            entries.append(Entry(evaluation, evaluation.images(hash), own, metrics, sorted(names), evidence))
    return entries


def other_images(first: Entry, other: Entry) -> str:
    """Reason why two tokenizers have no differences: other images, or no values of single images; else empty."""
    for entry in (first, other):
        if not entry.names:
            path = entry.evaluation.path
            return f"the values of single images, {path.with_suffix('.npz').name}, are not beside {path}"
    if first.names != other.names:
        parts = []
        for one, another in ((first, other), (other, first)):
            only = sorted(set(one.names) - set(another.names))
            more = f" and {len(only) - 1:,} more" if len(only) > 1 else ""
            parts += [f"{shortened(only[0])}{more} only in {one.evaluation.path}"] if only else []
        return f"other images: {', '.join(parts)}"
    known, own = first.images, other.images
    shared = known.keys() & own.keys()
    if not any(key.startswith("sha256_of") for key in shared):
        return f"{first.evaluation.path} and {other.evaluation.path} identify images by other hashes"
    apart = differences({key: own[key] for key in shared}, {key: known[key] for key in sorted(shared)})
    return f"other images of the same names: {apart}" if apart else ""


def labels_of(entries: Sequence[Entry]) -> list[str]:
    """Distinct names of tokenizers: the last part of their paths, with rate and file where it is needed."""
    names = [short(own.tokenizer["tokenizer"]) for own in entries]
    rates = ["" if own.rate is None else f" (rate {own.rate:g})" for own in entries]
    files = [f" ({own.evaluation.path.stem})" for own in entries]
    for parts in ((names,), (names, rates), (names, rates, files)):
        labels = ["".join(own) for own in zip(*parts, strict=True)]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{i + 1}: {label}" for i, label in enumerate(labels)]


def _same(one: Entry, other: Entry) -> bool:
    own, others = ([e.tokenizer.get(name) for name in ("sha256", "tile", "overlap")] for e in (one, other))
    return (own, one.rate, one.images) == (others, other.rate, other.images)


def _texts(objects: Iterable[Any], *names: str) -> bool:
    """True if every object has texts of these names."""
    return all(isinstance(own, dict) and all(type(own.get(name)) is str for name in names) for own in objects)


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
