"""The keys of ``configs/eval.yaml``, checked before torch is imported."""

from pathlib import Path

from omegaconf import DictConfig

from vistok import configuration

# Those that are read here, beside those that are handed on to a _target_.
KEYS = {
    "tokenizer": str | list[str],
    "family_config": dict | None,
    "lpips": dict[str, str | None] | None,
    **dict.fromkeys(("family", "dinov2", "device", "reference", "save_reference"), str | None),
    **dict.fromkeys(("image_size", "batch_size", "seed"), int),
    "rate": float | None,
    "output": str,
    "take_over": bool,
    "partial_every": float,
}


def check_config(config: DictConfig) -> None:
    """Refuse what can be seen to be wrong from the config and its output's path alone.

    Raises:
        ValueError: The message names the key.
    """
    configuration.refuse_missing(config)
    configuration.check(config, KEYS, {})
    configuration.refuse_below(config, 1, ("image_size", "batch_size"))
    configuration.refuse_below(config, 0, ("seed", "partial_every"))
    if config.rate is not None and not 0 <= config.rate <= 1:
        raise ValueError(f"rate={config.rate} must be a share in [0, 1]")
    if config.data.get("resize") == 0:
        raise ValueError("data.resize=0: the protocol says how images are cut; protocol=fvq leaves their size alone")
    output = Path(config.output)
    if output.exists():
        raise ValueError(f"output={output} exists already and is not overwritten")
    if output.suffix in (".html", ".npz"):
        raise ValueError(f"output={output} is the JSON; files of other kinds are written beside it")
