"""Help of the verbs with a config: its groups with their choices, and its keys with their comments."""

import re
import textwrap
from functools import partial
from pathlib import Path

from omegaconf import OmegaConf

ABOUT = {
    "train": "Trains, validates and exports a tokenizer. Without arguments it trains a small one on data=sample.",
    "estimate": "Prints the parameters, FLOPs and memory of a training run. It takes the arguments of train and needs "
    "no images, weights or GPU; with run.gpu_memory=80 it also prints the largest batch that fits a GPU of 80 GiB.",
    "eval": "Scores one or several tokenizers on a set of images, and writes JSON, a page of pictures and all values.",
}
MORE = (
    "The keys of a choice are set in the same way: quantizer=simvq quantizer.codebook_size=65536. --cfg job prints the "
    "complete config, -m runs every combination of several values (key=1,2), and --hydra-help lists Hydra's flags."
)
WIDTH = 110  # characters of a line


def text(program: str, verb: str, name: str, configs: Path) -> str:
    """The text that ``--help`` prints.

    Args:
        program: Command without its arguments, as ``python -m vistok train``.
        verb: ``train``, ``estimate`` or ``eval``.
        name: Name of the config, ``train`` or ``eval``.
        configs: Folder of the configs.
    """
    own, of_training = (_defaults(configs / f"{other}.yaml") for other in (name, "train"))
    hidden = _defaults(configs / "eval.yaml") - of_training if name == "train" else set()
    choices_of = {
        path.name: sorted(choice.stem for choice in path.glob("*.yaml")) for path in sorted(configs.iterdir())
    }
    groups = {
        group: choices
        for group, choices in choices_of.items()
        if choices and group not in hidden and (name == "train" or group in own)
    }
    lines = [f"  {group}: {', '.join(choices)}" for group, choices in groups.items()]
    wrap = partial(textwrap.fill, width=WIDTH, break_on_hyphens=False)
    return "\n".join([
        f"usage: {program} [GROUP=CHOICE ...] [KEY=VALUE ...]",
        "",
        wrap(ABOUT[verb]),
        "",
        "groups and their choices:",
        *(wrap(line, subsequent_indent="    ") for line in lines),
        "",
        f"keys and their defaults ({name}.yaml):",
        *(f"  {line}".rstrip() for line in _keys((configs / f"{name}.yaml").read_text())),
        "",
        wrap(MORE),
    ])  # fmt: skip


def _defaults(path: Path) -> set[str]:
    """The groups that a config chooses from."""
    entries = OmegaConf.to_container(OmegaConf.load(path))["defaults"]  # type: ignore[index]
    names = [str(name) for entry in entries if isinstance(entry, dict) for name in entry]
    return {name.partition("@")[0].removeprefix("/") for name in names if not name.startswith("override ")}


def _keys(config: str) -> list[str]:
    """The lines of a config between its list of groups and what is Hydra's own."""
    body = re.search(r"^defaults:\n(?:[ #][^\n]*\n)*(.*?)(?:^hydra:|\Z)", config, re.DOTALL | re.MULTILINE)
    return body[1].strip().splitlines() if body else []
