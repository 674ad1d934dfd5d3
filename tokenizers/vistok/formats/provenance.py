"""Facts about a tokenizer in its run or exported folder: data, metrics, versions and config."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vistok.formats.tokenizer_paths import CONFIG, exported_folder, shipped
from vistok.untrusted.bounded_json import read_object

OF_RUN = {  # for the model card: keys of a run's config.yaml, and their former names, which older runs have
    "name": ("run.name", "name"),
    "image_size": ("data.image_size", "image_size"),
    "batch_size": ("data.batch_size", "batch_size"),
    "seed": ("run.seed", "seed"),
}


def about_of(source: str | Path) -> dict[str, Any]:
    """Facts in a run folder or an exported folder; an empty dict for other sources."""
    about: dict[str, Any] = {}
    folder = shipped(source)
    path = exported_folder(folder) / CONFIG
    if path.is_file():
        stored = read_object(path).get("about")
        about |= stored if type(stored) is dict else {}
    run = folder / "config.yaml"
    if run.is_file():
        config = OmegaConf.load(run)
        values = {name: [OmegaConf.select(config, key) for key in keys] for name, keys in OF_RUN.items()}
        about |= {name: value for name, found in values.items() for value in found if value is not None}
    return about
