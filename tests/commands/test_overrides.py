"""Words of the command line as Hydra reads them."""

import os
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from vistok.commands.overrides import in_quotes, readable


def read(word):
    """The value that Hydra reads from a word."""
    return OverridesParser.create().parse_override(word).value()


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
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files_are_read_as_they_are(name, tmp_path):
    (tmp_path / name).write_text("")
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
