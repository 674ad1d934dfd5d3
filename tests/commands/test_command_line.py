"""``python -m vistok``: one vocabulary of flags, complete help, and one line for whatever is not understood."""

import argparse
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from vistok import __main__ as program
from vistok.commands.arguments import RENAMED, VOCABULARY

ROOT = Path(__file__).parent.parent.parent
FLAGGED = [name for name in program.COMMANDS if name not in program.HYDRA]
OWN = {  # flags that the vocabulary does not have: of one verb, or with the same meaning in several
    *("--to", "--half", "--name", "--license", "--evaluation", "--push-to", "--private"),  # export; of tokens too
    *("--depth", "--crop", "--views", "--dtype", "--per-shard", "--rate", "--order", "--max-unreadable"),
    *("--in-order", "--patch", "--low", "--high", "--rates", "--tokenizer", "--layout", "--sizes", "--codec"),
    *("--updates", "--lr", "--captions", "--channels", "--num-blocks", "--window", "--replace"),
    *("--codebook", "--coding", "--num-packets", "--conceal", "--protocol", "--metric"),
    *("--held-out", "--size", "--seeds", "--eval", "--temperature", "--top-k", "--guidance"),  # probe
}


def parser_of(name):
    return import_module(program.COMMANDS[name][0]).parser()


def arguments_of(parser):
    return [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]


@pytest.mark.parametrize("name", program.COMMANDS)
def test_a_verb_is_a_module_of_its_name(name):
    module = import_module(program.COMMANDS[name][0])
    assert Path(module.__file__).stem == name.replace(" ", "_").replace("-", "_") and callable(module.main)


@pytest.mark.parametrize("name", FLAGGED)
def test_flags_are_of_one_vocabulary(name):
    arguments = arguments_of(parser_of(name))
    assert sum(not action.option_strings for action in arguments) <= 1  # what the verb works on
    for action in arguments:
        assert len(action.option_strings) <= 1
        for flag in action.option_strings:
            assert flag in VOCABULARY or flag in OWN, flag
            assert not set(flag) & set("_ABCDEFGHIJKLMNOPQRSTUVWXYZ") and flag not in RENAMED
    outputs = [action.option_strings for action in arguments if "write" in (action.help or "").split()[:1]]
    assert all(flags == ["--out"] for flags in outputs)


@pytest.mark.parametrize("name", FLAGGED)
def test_help_is_complete(name, capsys):
    """Each argument has a help that is a noun phrase, with its default if it has one."""
    parser = parser_of(name)
    assert parser.description and "``" not in parser.description
    for action in arguments_of(parser):
        assert action.help and len(action.help.split()) >= 2 and not action.help.endswith("."), action.dest
        assert not action.help.startswith(("of ", "what ", "how ", "whether ", "at most ", "also ", "which "))
        if action.option_strings and action.default not in (None, False):
            values = action.default if isinstance(action.default, list) else [action.default]
            assert f"(default: {' '.join(map(str, values))})" in action.help
        if action.nargs != 0 and not action.choices:
            assert action.metavar, action.dest
    with pytest.raises(SystemExit) as ended:
        program.main([*name.split(), "--help"])
    assert ended.value.code == 0 and f"usage: python -m vistok {name} " in capsys.readouterr().out


@pytest.mark.parametrize("name", program.HYDRA)
def test_help_of_a_config_has_its_groups_and_keys(name, capsys):
    program.main([name, "--help"])
    said = capsys.readouterr().out
    config = "eval" if name == "eval" else "train"
    assert said.startswith(f"usage: python -m vistok {name} [GROUP=CHOICE ...]") and "--cfg job" in said
    assert ("  data: folder, sample, shards\n" in said) and ("  quantizer: " in said) == (config == "train")
    assert ("  protocol: " in said) == (config == "eval") and "_target_: hydra" not in said
    keys = list(yaml.safe_load((ROOT / "configs" / f"{config}.yaml").read_text()))
    assert all(f"\n  {key}:" in said for key in keys if key not in ("defaults", "hydra"))


def test_own_flags_are_used():
    used = {flag for name in FLAGGED for action in arguments_of(parser_of(name)) for flag in action.option_strings}
    assert used >= OWN and set(VOCABULARY) <= used


@pytest.mark.parametrize("old, new", program.RENAMED.items())
def test_a_former_command_names_the_present_one(old, new, capsys):
    assert new in program.COMMANDS and old not in program.COMMANDS
    with pytest.raises(SystemExit, match="2"):
        program.main([old, "x", "--out", "y"])
    assert capsys.readouterr().err == f"error: {old} is now: python -m vistok {new}\n"


@pytest.mark.parametrize("words, message", [
    (["codec", "sample", "--images", "x"], "making a codec is now: python -m vistok codec build"),
    (["codec"], "codec takes one of the verbs reduce, build, train-concealment, compress, decompress: "),
    (["tokens", "verify"], "tokens takes one of the verbs check, export: "),
    (["data"], "data takes one of the verbs shards, thresholds: "),
    (["exprot"], "there is no command 'exprot'; did you mean export?"),
    (["x\x1b[31m"], r"there is no command 'x\x1b[31m'"),
    (["tokenize", "x", "--images", "y", "--out", "z", "--workers", "1"], "--workers is now --num-workers"),
    (["tokenize", "x", "--images", "y", "--out", "z", "--config={}"], "--config is now --family-config"),
    (["tokenize", "x", "y", "--out", "z"], "the following arguments are required: --images"),
    (["data", "thresholds", "--images", "1000", "--out", "z"], "--images: is a path to images, not 1000; --num-images"),
    (["data", "shards", "--images", "x", "--out", "y", "--shuffle-seed", "1"], "--shuffle-seed is now --seed"),
    (["tokens", "check", "x", "--sheet", "y.png"], "--sheet is now --out"),
    (["codec", "train-concealment", "x", "--images", "y", "--width", "8"], "--width is now --channels"),
    (["codec", "train-concealment", "x", "--images", "y", "--depth", "8"], "--depth is now --num-blocks"),
    (["codec", "compress", "x", "--codec", "c", "--out", "y", "--rate", "1"], "--rate is now --codebook"),
    (["codec", "compress", "x", "--codec", "c", "--out", "y", "--packets", "1"], "--packets is now --num-packets"),
    (["export", "x", "--to", "folder", "--out", "y", "--imag", "8"], "unrecognized arguments: --imag 8"),
])  # fmt: skip
def test_what_is_not_understood_is_one_line(words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        program.main(words)
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and len(said.splitlines()) == 1


def test_help_lists_every_command(capsys):
    program.main(["--help"])
    said = capsys.readouterr().out
    assert all(f"  {name} " in said and about in said for name, (_, about) in program.COMMANDS.items())
    program.main(["codec", "--help"])
    said = capsys.readouterr().out
    assert "codec build" in said and "tokens check" not in said
    program.main(["--version"])


@pytest.mark.parametrize("words", [["-m", "vistok", "env"], ["-m", "vistok", "--help"], ["train.py", "--help"]])
def test_a_reader_that_ends_first_as_head_does_ends_a_command_quietly(words):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
