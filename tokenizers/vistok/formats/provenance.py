"""Data, metrics, versions and config that a run or an exported folder tells of itself."""

import json
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from vistok.formats import native

OF_RUN = ("name", "image_size", "batch_size", "seed")  # of a run's config.yaml, for the model card


def about_of(source: Path) -> dict[str, Any]:
    """What a run or an exported folder tells of itself; nothing for other sources."""
    about: dict[str, Any] = {}
    for folder in (source / "tokenizer", source):
        path = folder / native.CONFIG
        if path.is_file():
            told = json.loads(path.read_text())
            told = told.get("about") if isinstance(told, dict) else None
            about |= told if isinstance(told, dict) else {}
            break
    run = source / "config.yaml"
    if run.is_file():
        config = cast(DictConfig, OmegaConf.load(run))
        about |= {name: config[name] for name in OF_RUN if config.get(name) is not None}
    return about
