"""Model card of an exported tokenizer: everything known about it, and what is unknown."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import vistok
from vistok.files import atomic_write
from vistok.images.ranges import PixelMap
from vistok.structure import WeightCount
from vistok.tokenizer import Tokenizer

README = "README.md"
UNKNOWN = "unknown"
TRAINING = ("updates", "image_size", "batch_size", "seed", "seconds")


def write(
    folder: Path,
    tokenizer: Tokenizer,
    about: Mapping[str, Any] | None,
    usage: str,
    library: str = "vistok",
    parity: str | None = None,
) -> None:
    """Writes ``README.md``. Arguments as for ``text``."""
    with atomic_write(folder / README) as file:
        file.write(text(tokenizer, about, usage, library, parity).encode())


def text(
    tokenizer: Tokenizer,
    about: Mapping[str, Any] | None,
    usage: str,
    library: str = "vistok",
    parity: str | None = None,
) -> str:
    """Model card in Markdown, with the header that the Hugging Face hub reads.

    Args:
        tokenizer: The tokenizer, folded.
        about: Facts about the run (``training.summary``): ``data``, ``metrics``, ``versions``, ``updates``,
            ``image_size``, ``batch_size``, ``seed``; ``name``, ``licence``, ``data_licence``; and ``evaluation``, the
            report of ``eval.py``. Missing entries are listed as unknown.
        usage: Python code that loads and uses the files.
        library: Name on the hub of the library that loads the files.
        parity: Description of the check when the files were written.
    """
    about = about or {}
    evaluation = about.get("evaluation") or {}
    licence = about.get("licence")
    header = ["---", f"library_name: {library}", *([f"license: {licence}"] if licence else [])]
    header += ["tags:", "- image-tokenizer", "- vector-quantization", "---"]
    return "\n".join(
        [
            *header,
            "",
            f"# {_cell(about.get('name') or 'A discrete image tokenizer')}",
            "",
            f"Images to codes and back, exported by vistok {vistok.__version__}.",
            "",
            *_table(_architecture(tokenizer)),
            "",
            "## Use",
            "",
            "```python",
            usage.strip(),
            "```",
            "",
            "Images are (b, c, H, W) in [-1, 1], codes (b, k, h, w)."
            + (f" Checked when it was exported: {parity}." if parity else ""),
            "",
            "## Data",
            "",
            f"Trained on: {_cell(about.get('data', UNKNOWN))}",
            "",
            "## Protocol",
            "",
            *_table({f"training: {name.replace('_', ' ')}": about.get(name, UNKNOWN) for name in TRAINING}
                    | _evaluated(evaluation)
                    | {"versions": _pairs(evaluation.get("versions") or about.get("versions"))}),
            "",
            "## Metrics",
            "",
            *_metrics(_scores(evaluation) or about.get("metrics")),
            "",
            "## Licence",
            "",
            f"Weights: {_cell(licence or UNKNOWN)}. Data: {_cell(about.get('data_licence', UNKNOWN))}.",
            "",
        ]
    )  # fmt: skip


def _architecture(tokenizer: Tokenizer) -> dict[str, Any]:
    head, f = tokenizer.quantizer, tokenizer.factor
    sizes = " + ".join(f"{size:,}" for size in head.codebook_sizes)
    number = len(head.codebook_sizes)
    each = f"{number} of them for each {f} x {f} pixels" if number > 1 else f"one for each {f} x {f} pixels"
    if tokenizer.num_tokens is not None:
        side = tokenizer.encoder.image_size
        each = f"{tokenizer.num_tokens * number} for an image of {side} x {side} pixels"
    layout = head.layout(*head.example_grid)
    kept = ", of which a dynamic part is kept" if layout.granularities > 1 else ""
    scales = " on the finest of several scales" if len(layout.grids) > 1 else ""
    pixels = tokenizer.pixels
    return {
        "encoder": _network(tokenizer.encoder),
        "decoder": _network(tokenizer.decoder),
        "head": f"{type(head).__name__}, {sizes} codewords, {head.dim} channels",
        "codes": f"{each}{kept}{scales}",
        **({} if pixels == PixelMap() else {"pixels of the networks": pixels}),
        **({} if tokenizer.value_range is None else {"values of black and white": list(tokenizer.value_range)}),
    }


def _network(part: nn.Module) -> str:
    return f"{type(part).__name__}, {WeightCount.of(part)}"


def _evaluated(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    if not evaluation:
        return {"evaluation": "on the run's held-out images, where there are metrics"}
    data = evaluation.get("data") or {}
    return {
        "evaluation: images": f"{data.get('images', UNKNOWN)} of {data.get('source', UNKNOWN)}",
        "evaluation: image size": data.get("image_size", UNKNOWN),
        "evaluation: names' sha256": data.get("sha256_of_names", UNKNOWN),
        "evaluation: precision": evaluation.get("dtype", UNKNOWN),
    }


def _scores(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of the report's first tokenizer, each with its protocol."""
    scores = evaluation.get("scores") or []
    own = [score for score in scores if score.get("tokenizer") == scores[0].get("tokenizer")]
    return {
        f"{score['protocol']} ({score['hash']}): {name}": value
        for score in own
        for name, value in score["metrics"].items()
    }


def _metrics(metrics: Mapping[str, Any] | None) -> list[str]:
    return _table({name: UNKNOWN if value is None else value for name, value in metrics.items()}) if metrics else [
        "Unknown: they were neither measured by the run nor given."
    ]  # fmt: skip


def _table(rows: Mapping[str, Any]) -> list[str]:
    return ["| | |", "| --- | --- |", *(f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items())]


def _pairs(values: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) if values else UNKNOWN


def _cell(value: Any) -> str:
    value = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(value.replace("|", "\\|").split())
