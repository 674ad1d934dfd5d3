"""Facts about a tokenizer in its run or exported folder: data, metrics, versions and config."""

import json
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from vistok.formats import native

OF_RUN = ("name", "image_size", "batch_size", "seed")  # keys of a run's config.yaml for the model card


def about_of(source: Path) -> dict[str, Any]:
    """Facts in a run folder or an exported folder; an empty dict for other sources."""
    about: dict[str, Any] = {}
    for folder in (source / "tokenizer", source):
        path = folder / native.CONFIG
        if path.is_file():
            content = json.loads(path.read_text())
            content = content.get("about") if isinstance(content, dict) else None
            about |= content if isinstance(content, dict) else {}
            break
    run = source / "config.yaml"
    if run.is_file():
        config = cast(DictConfig, OmegaConf.load(run))
        about |= {name: config[name] for name in OF_RUN if config.get(name) is not None}
    return about
