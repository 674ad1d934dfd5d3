"""The commands in README and docs are commands that there are."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import torch

from vistok import cli, convert, thresholds
from vistok.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(program):
    """Every command line of a program in the code blocks of all pages, without comments."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [pytest.param(line, id=line[:80]) for line in lines if line.startswith(program)]
    return found


@pytest.mark.parametrize("command", commands("python train.py"))
def test_training_commands_build_their_tokenizer(compose, command):
    words = shlex.split(command, comments=True)[2:]
    config = compose("train", *words)
    with torch.device("meta"):
        tokenizer = cli.instantiate(config.tokenizer)
    assert set(tokenizer.quantizer.loss_names) <= set(config.quantizer_weights)


@pytest.mark.parametrize("command", commands("python eval.py"))
def test_evaluation_commands_compose(compose, command):
    compose("eval", *shlex.split(command, comments=True)[2:])


@pytest.mark.parametrize("command", commands("python -m vistok.thresholds"))
def test_threshold_commands_are_understood(command):
    thresholds.parser().parse_args(shlex.split(command, comments=True)[3:])


@pytest.mark.parametrize("command", commands("python -m vistok.convert"))
def test_conversion_commands_are_understood(command):
    convert.parser().parse_args(shlex.split(command, comments=True)[3:])


@pytest.mark.parametrize(
    "name", ["inspect", "export", "reduce", "codec", "conceal", "compress", "decompress", "tokenize", "tokens"]
)
def test_other_commands_are_understood(name):
    parser = import_module(COMMANDS[name][0]).parser()
    for line in commands(f"python -m vistok {name} "):
        parser.parse_args(shlex.split(line.values[0], comments=True)[4:])


def test_there_are_commands():
    assert len(commands("python train.py")) > 10 and commands("python eval.py") and commands("python -m")
