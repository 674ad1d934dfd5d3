"""Commands to paste after a run: with the interpreter of this process, and the data and paths of the run."""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vistok.data import split_record

SAMPLE, SHARDS = "vistok.data.sample", "vistok.data.shards"
SPECIAL = set('"$`\\!')  # characters with a meaning between double quotes
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
    packaged = called.name == "vistok" or called.parts[-2:] == ("vistok", "__main__.py")
    return f"{interpreter()} -m vistok {name}" if packaged else f"{interpreter()} {name}.py"


def to_resume(checkpoint: Path, overrides: Sequence[str]) -> str:
    """Command that resumes a run; ``overrides`` are the arguments that started it."""
    again = [word for word in overrides if not word.startswith(("run.resume=", "run.dir="))]
    return f"{program('train')} {shlex.join([*again, f'run.resume={checkpoint}'])}"


def to_evaluate(run: Path, config: DictConfig) -> str:
    """Command that scores a run on the images that it held out."""
    arguments = [f"tokenizer={run}"]
    if not (run / split_record.FILE).is_file():
        arguments += _data_arguments(OmegaConf.to_container(config.data, resolve=True))
    return f"{program('eval')} {shlex.join(arguments)}"


def to_load(tokenizer: Path) -> str:
    """Command that loads an exported tokenizer and prints the pixels along each side of a code."""
    code = f"import vistok; print(vistok.load({str(tokenizer)!r}).factor)"
    quoted = shlex.quote(code) if set(code) & SPECIAL else f'"{code}"'  # more readable with 'PATH' inside
    return f"{interpreter()} -c {quoted}"


def _data_arguments(data: Any) -> list[str]:
    if data.get("_target_") == SAMPLE:
        return ["data=sample"]
    if data.get("_target_") != SHARDS:
        return ["data=folder", "data.root=DIR"]
    given = {"val_urls": data["val_urls"]} | {name: data[name] for name in FOLLOWED if data.get(name)}
    return ["data=shards", *(f"data.{name}={json.dumps(value)}" for name, value in given.items())]
