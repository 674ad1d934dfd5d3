"""Words of the command line as Hydra reads them."""

import os
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from vistok.commands.overrides import in_quotes, readable


def read(word):
    """The value that Hydra reads from a word."""
    return OmegaConf.create({"x": OverridesParser.create().parse_override(word).value()}).x


NAMES = [
    "epoch=49-step=250000.ckpt",
    "a,b",
    "a (1).ckpt",
    "[x].ckpt",
    "#1",
    "it's",
    'say "a"',
    "back\\",
    'b\\"',
    "~x",
    "ä b",
    "a b, c",
    "{a}",
    "$HOME",
    "${x}",
    "a${x}.ckpt",
    "a\\${x}",
    '"q"',
    "模型.ckpt",
    "C:\\runs\\a.ckpt",
    "\\\\server\\a.ckpt",
    "a\\,b",
    "1e3",
    " begin and end ",
    "choice(a,b)",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files_are_read_as_they_are(name, tmp_path, monkeypatch):
    (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    for key in ("tokenizer", "model.init", "run.out"):
        (word,) = readable([f"{key}={name}"])
        assert read(word) == name, word
        assert readable([word]) == [word]
    for key in ("tokenizer", "run.resume", "model.init", "data.root", "feature_network.weights", "+x"):
        (word,) = readable([f"{key}={tmp_path / name}"])
        assert read(word) == str(tmp_path / name), word
        assert readable([word]) == [word]


@pytest.mark.parametrize("name", NAMES)
def test_quotes(name):
    assert read(in_quotes("key", name)) == name


def test_a_path_need_not_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read(*readable(["run.dir=runs/lr=0.1"])) == "runs/lr=0.1"
    assert read(*readable(["tokenizer=epoch=49-step=250000.ckpt"])) == "epoch=49-step=250000.ckpt"
    assert read(*readable(["model.init=a,b.ckpt"])) == "a,b.ckpt"
    words = ["tokenizer=null", "tokenizer=${oc.env:HOME}/a"]
    assert readable(words) == words
    assert read(*readable(["data.urls=DIR/shard-{000..011}.tar"])) == "DIR/shard-{000..011}.tar"


def test_other_words_stay_or_are_shown_in_quotes():
    words = [
        "-m",
        "--config-dir=a=b",
        "model.codebook_size=1,2",
        "quantizer.rates=[0.5]",
        "~logger",
        "x=${y}",
        "tokenizer=[a,b]",
    ]
    assert readable(words) == words
    assert readable(["data.root='a b'", "a=b", "run.name=x y"]) == ["data.root='a b'", "a=b", "run.name=x y"]
    with pytest.raises(ValueError) as refused:
        readable(["run.name=a=b"])
    shown = str(refused.value).rpartition("in quotes: ")[2]
    assert read(*shlex.split(shown)) == "a=b"


def test_several_jobs_of_a_sweep_are_not_one_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("a,b")
    assert readable(["-m", "data.root=a,b"])[1] == "data.root=a,b"
    assert read(readable(["data.root=a,b"])[0]) == "a,b"
