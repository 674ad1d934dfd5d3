"""Data of an evaluation that follows from the tokenizer's run: its folder, size, crops and held-out images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

MOST_BYTES = 2**20  # largest config that is read
LONGEST = 16  # list
IMAGE_SIZE = 256  # pixels, where no run tells it
RUN_CONFIG, RECORD = "config.yaml", "held_out.json"  # in the folder of a run
FOLDER, OURS = "vistok.data.folder", "canonical"
FOLLOWED = (
    "root",
    "columns",
    "rgb_bands",
    "max_pixels",
)  # keys that a run on a folder determines; others, its tokenizer


def run_of(path: str | Path) -> Path:
    """Folder of the run that a tokenizer's path names: itself, or the one that its export lies in."""
    path = Path(path)
    return path.parent if path.name == "tokenizer" and (path.parent / RUN_CONFIG).is_file() else path


def complete(config: DictConfig) -> None:
    """Sets what the command line leaves open to the values of the first tokenizer's run.

    Without ``data.root`` it is the run's folder of images; our own protocol then resizes crops only if the run did.
    Without ``data.image_size`` it is the run's. Of the run's config only plain values are read.
    """
    paths = [config.tokenizer] if isinstance(config.tokenizer, str) else list(config.tokenizer or ())
    run = run_of(paths[0]) if paths and isinstance(paths[0], str) else Path()
    data = _data_of(run / RUN_CONFIG) if paths else {}
    if config.data.image_size is None:
        size = data.get("image_size")
        config.data.image_size = size if type(size) is int else IMAGE_SIZE
    on_folder = data.get("_target_") == FOLDER and (run / RECORD).is_file()
    if config.data.get("_target_") == FOLDER and OmegaConf.is_missing(config.data, "root") and on_folder:
        for key in FOLLOWED:
            if key in data and key in config.data.keys():  # noqa: SIM118 - missing values are not in the data itself
                config.data[key] = data[key]
        ours = config.protocol.get(OURS)
        if data.get("resize") == 0 and ours is not None and ours.crop == "adm":
            ours.crop = "none"


def crop_note(config: DictConfig) -> str:
    """Sentence about crops of our own protocol that are not resized; empty if they are."""
    ours = config.protocol.get(OURS)
    if ours is None or ours.crop != "none":
        return ""
    return f"protocol {OURS} scores the centre of each image without resizing; protocol.{OURS}.crop=adm resizes"


def _data_of(file: Path) -> dict[str, Any]:
    """Plain values of the data in a run's config; nothing in a file of strangers is resolved or built."""
    if not file.is_file() or file.stat().st_size > MOST_BYTES:
        return {}
    try:
        loaded = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        return {}
    data = loaded.get("data") if isinstance(loaded, dict) else None
    if not isinstance(data, dict):
        return {}
    plain = {name: own for name, own in data.items() if own is None or type(own) in (str, int, float)}
    plain |= {
        name: own for name, own in data.items()
        if type(own) is list and len(own) <= LONGEST and all(type(number) in (int, float) for number in own)
    }  # fmt: skip
    columns = data.get("columns")
    if type(columns) is dict and len(columns) <= LONGEST and all(type(own) is str for own in columns.values()):
        plain["columns"] = {str(role): own for role, own in columns.items() if "${" not in own}
    return {name: own for name, own in plain.items() if not (type(own) is str and "${" in own)}


def held_out(names: Sequence[str], records: Sequence[Mapping[str, str]], run_held_out: bool) -> tuple[list[str], str]:
    """Images of a run's own folder to score, and a sentence about them.

    Args:
        names: Names of all images.
        records: Hashes of the held-out images by name, of each run on this folder.
        run_held_out: The user's ``run.held_out``.
    """
    chosen = [name for name in names if all(name in record for record in records)]
    if not run_held_out or len(chosen) == len(names):
        return list(names), ""
    which = "the run" if len(records) == 1 else "all runs"
    return chosen, (
        f"scores the {len(chosen):,} of {len(names):,} images that {which} held out; run.held_out=false scores all"
    )
