"""Facts about a tokenizer in its run or exported folder: data, metrics, versions and config."""

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from vistok.formats.tokenizer_paths import CONFIG, exported_folder, shipped
from vistok.untrusted.bounded_json import read_object

OF_RUN = ("name", "image_size", "batch_size", "seed")  # keys of a run's config.yaml for the model card


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
        config = cast(DictConfig, OmegaConf.load(run))
        about |= {name: config[name] for name in OF_RUN if config.get(name) is not None}
    return about
