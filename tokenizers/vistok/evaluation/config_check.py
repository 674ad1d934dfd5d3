"""The keys of ``configs/eval.yaml``, checked before torch is imported."""

from pathlib import Path

from omegaconf import DictConfig

from vistok import configuration
from vistok.evaluation import run_data

MOST_PAGE_IMAGES = 1000
STRATA = ("class", "frequency", "contrast")  # what metrics.strata may have
SOURCES = ("tokenizer", "reconstructions")  # at least one of them is not null
# Types of the keys that this package reads; keys for a _target_ are checked against its signature.
KEYS = {
    **dict.fromkeys(SOURCES, str | list[str]),
    "run.out": str,
    **dict.fromkeys(("run.take_over", "run.held_out"), bool),
    "run.device": str | None,
    "run.partial_every": float,
    **dict.fromkeys(("run.seed", "run.page_images", "data.image_size", "data.batch_size"), int),
    "model.family": str | None,
    "model.family_config": dict | None,
    "model.rate": float | None,
    **dict.fromkeys(("model.tile", "model.overlap"), int | None),
    "metrics.intervals": bool | str,
    **dict.fromkeys(("metrics.kid", "metrics.precision_recall"), bool),
    "metrics.lpips": dict[str, str | None] | None,
    "metrics.strata": list[str] | None,
    **dict.fromkeys(("metrics.dinov2", "metrics.fd_dinov2", "metrics.cmmd"), str | None),
    **dict.fromkeys(("metrics.reference", "metrics.save_reference"), str | None),
}


def check_config(config: DictConfig) -> None:
    """Refuses a config that is wrong by itself or for the paths in it; tokenizers, images and data are not read.

    Raises:
        ValueError: The message names the key.
    """
    absent = {key for key in SOURCES if config[key] is None}
    run_data.complete(config)
    configuration.refuse_missing(config, ["tokenizer"] if len(absent) == len(SOURCES) else [])
    configuration.check_keys(config, KEYS, "eval")
    configuration.check(config, {key: hint for key, hint in KEYS.items() if key not in absent}, {})
    configuration.refuse_below(config, 1, ("data.image_size", "data.batch_size"))
    configuration.refuse_below(config, 0, ("run.seed", "run.page_images", "run.partial_every"))
    if config.run.page_images > MOST_PAGE_IMAGES:
        raise ValueError(f"run.page_images={config.run.page_images} must be at most {MOST_PAGE_IMAGES}")
    given = config.reconstructions or []
    for path in [given] if isinstance(given, str) else given:
        if not (Path(path).expanduser().exists() or set("*?{[") & set(path)):
            raise ValueError(f"reconstructions={path} does not exist")
    rate = config.model.rate
    if rate is not None and not 0 <= rate <= 1:
        raise ValueError(f"model.rate={rate} must be a share in [0, 1]")
    if config.model.overlap is not None and config.model.tile is None:
        raise ValueError(f"model.overlap={config.model.overlap} needs model.tile")
    for name in config.metrics.strata or ():
        if name not in STRATA:
            raise ValueError(f"metrics.strata has {name}, but may have only {', '.join(STRATA)}")
    if config.data.get("resize") == 0:
        raise ValueError("data.resize=0: the protocol decides how images are cropped; protocol=native does not crop")
    if config.metrics.intervals not in (True, False, "all"):
        raise ValueError(f"metrics.intervals={config.metrics.intervals} must be true, false or all")
    output = Path(config.run.out)
    if output.exists():
        raise ValueError(f"run.out={output} exists already and is not overwritten")
    if output.suffix in (".html", ".npz"):
        raise ValueError(f"run.out={output} is the JSON; files of other kinds are written beside it")
