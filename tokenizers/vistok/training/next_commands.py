"""Commands to paste after a run: with the interpreter of this process, and the data and paths of the run."""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vistok.data import split_record
from vistok.formats.tokenizer_paths import CONFIG, EXPORT
from vistok.training.run_facts import RunFacts

SAMPLE, SHARDS = "vistok.data.sample", "vistok.data.shards"
SCRIPTS = ("train.py", "eval.py")
SPECIAL = set('"$`\\!')  # characters with a meaning between double quotes
PLAIN = re.compile(r"[\w./-]+", re.ASCII)  # paths that a list of Hydra's takes without quotes
FOLLOWED = ("columns", "labels")  # keys of shards that decide which images are read, and how they are named


def interpreter() -> str:
    """Python that runs this process, for a shell: ``python`` if that is found first, else a path."""
    found, own = shutil.which("python"), os.path.abspath(sys.executable)
    if found and os.path.abspath(found) == own:
        return "python"
    here = os.getcwd() + os.sep
    return shlex.quote(own.removeprefix(here))


def program(name: str) -> str:
    """Command that calls ``train`` or ``eval`` as this process was called: the repository's script, or the package."""
    called = Path(sys.argv[0])
    if called.name not in SCRIPTS:
        return f"{interpreter()} -m vistok {name}"
    script = os.path.abspath(called.with_name(f"{name}.py"))
    return f"{interpreter()} {shlex.quote(script.removeprefix(os.getcwd() + os.sep))}"


def to_resume(checkpoint: Path, overrides: Sequence[str]) -> str:
    """Command that resumes a run; ``overrides`` are the arguments that started it."""
    again = [word for word in overrides if not word.startswith(("run.resume=", "run.dir="))]
    return f"{program('train')} {shlex.join([*again, f'run.resume={checkpoint}'])}"


def to_evaluate(run: Path, config: DictConfig) -> str:
    """Command that scores a run on the images that it held out."""
    arguments = [f"tokenizer={run}", *_needed(run, OmegaConf.to_container(config.data, resolve=True))]
    return f"{program('eval')} {shlex.join(arguments)}"


def to_compare(runs: Sequence[RunFacts]) -> str:
    """Command that scores several runs on the images that the first of them held out; empty for fewer than two.

    Runs that have not been exported are left out.
    """
    exported = [own for own in runs if (own.folder / EXPORT / CONFIG).is_file()]
    if len(exported) < 2:
        return ""
    paths = [path if PLAIN.fullmatch(path) else json.dumps(path) for path in (str(own.folder) for own in exported)]
    arguments = [f"tokenizer=[{','.join(paths)}]", *_needed(exported[0].folder, exported[0].config.get("data") or {})]
    return f"{program('eval')} {shlex.join(arguments)}"


def to_load(tokenizer: Path) -> str:
    """Command that loads an exported tokenizer and prints the pixels along each side of a code."""
    code = f"import vistok; print(vistok.load({str(tokenizer)!r}).factor)"
    quoted = shlex.quote(code) if set(code) & SPECIAL else f'"{code}"'  # more readable with 'PATH' inside
    return f"{interpreter()} -c {quoted}"


def _needed(run: Path, data: Any) -> list[str]:
    """Arguments for the data of a run that ``eval`` does not find in its folder."""
    return [] if (run / split_record.FILE).is_file() else _data_arguments(data)


def _data_arguments(data: Any) -> list[str]:
    if data.get("_target_") == SAMPLE:
        return ["data=sample"]
    if data.get("_target_") != SHARDS:
        return ["data=folder", "data.root=DIR"]
    given = {"val_urls": data["val_urls"]} | {name: data[name] for name in FOLLOWED if data.get(name)}
    return ["data=shards", *(f"data.{name}={json.dumps(value)}" for name, value in given.items())]
