"""A URL is what the user typed; what was found on disk or in a file is a path, whatever it looks like."""

import io
import os
import pickle
import sys
import tarfile

import pytest
from PIL import Image

from vistok.data import shards
from vistok.data.streams import ShardImages, ShardStream
from vistok.data.tar_samples import images_in
from vistok.data.tars import Url, expand
from vistok.images.rgb import UnreadableImage
from vistok.tokens.sources import open_source

HOSTILE = [
    "pipe:touch PWN #.tar",
    "http:x.tar",
    "file:x.tar",
    "-.tar",
    "{a,pipe:touch PWN #}.tar",
    "a::pipe:touch b.tar",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with shards of one image each whose names look like something else."""
    monkeypatch.chdir(tmp_path)
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    for name in HOSTILE:
        with tarfile.open(fileobj=open(name, "wb"), mode="w") as archive:
            member = tarfile.TarInfo("a.png")
            member.size = len(file.getvalue())
            archive.addfile(member, io.BytesIO(file.getvalue()))
    return tmp_path


@pytest.fixture
def commands(monkeypatch):
    """The programs that would have been started; nothing is."""
    started = []
    monkeypatch.setattr(sys.modules["webdataset.gopen"], "Popen", lambda *words, **options: started.append(words))
    return started


def test_names_that_a_pattern_matches_are_paths(folder, commands):
    assert sorted(expand("*.tar", "data.urls")) == sorted(HOSTILE)
    assert not any(isinstance(name, Url) for name in expand("*.tar", "data.urls"))
    assert len(list(ShardImages(expand(f"{folder}/*.tar", "u"), []))) == len(HOSTILE)
    source = open_source(["*.tar"], 100)
    assert [len(list(source.members(part))) for part in range(source.parts)] == [1] * len(HOSTILE)
    data = shards("*.tar", "*.tar", image_size=8, batch_size=2)
    assert data.train.urls == data.val.urls and len(list(data.test_dataloader())) == 3
    assert next(iter(pickle.loads(pickle.dumps(data.train)))).image is not None
    assert not commands and sorted(os.listdir()) == sorted(HOSTILE)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_a_shell_has_put_in_the_place_of_a_pattern(folder, commands, name):
    assert expand(name, "DATA") == [name] and not isinstance(expand(name, "DATA")[0], Url)
    assert [sample.name for sample in ShardImages(expand([name], "DATA"), [])] == [f"{name.rpartition('/')[2]}:a.png"]
    assert not commands


def test_what_was_typed_is_a_url(folder, commands):
    typed = ["pipe:cat x.tar", "{a,pipe:cat}x.tar", "https://host/{0..1}.tar", "file:-.tar"]
    (folder / "ax.tar").touch()
    found = expand(typed, "data.urls")
    assert found == ["pipe:cat x.tar", "ax.tar", "pipe:catx.tar", "https://host/0.tar", "https://host/1.tar", "-.tar"]
    assert [isinstance(url, Url) for url in found] == [True, False, True, True, True, False]
    assert isinstance(pickle.loads(pickle.dumps(found[0])), Url)
    with pytest.raises(UnreadableImage):
        list(images_in(found[0]))
    assert commands == [("cat x.tar",)]


@pytest.mark.parametrize("name", ["pipe:touch PWN", "http://host/a.tar", "-", ""])
def test_text_that_nobody_typed_never_runs(tmp_path, monkeypatch, commands, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOPEN_REWRITE", "a=pipe:touch PWN")
    with pytest.raises(UnreadableImage, match="FileNotFoundError"):
        list(images_in(name))
    with pytest.raises(UnreadableImage, match="FileNotFoundError"):
        next(iter(ShardStream([name], [])))
    assert not commands and not os.listdir()


@pytest.mark.parametrize("url, message", [
    ("http://[1.tar", r"data.urls=http://\[1.tar: "),
    ("~no-such-user/a.tar", "data.urls: there is no shard ~no-such-user/a.tar"),
    ("pipe\0:a.tar", "data.urls: "),
])  # fmt: skip
def test_what_cannot_be_a_url_is_named(url, message):
    with pytest.raises(ValueError, match=message):
        expand(url, "data.urls")


def test_names_that_are_not_utf8(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    name = os.fsdecode(b"caf\xe9.tar")
    with tarfile.open(fileobj=open(name, "wb"), mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for key, data in (("h\xe9.png", file.getvalue()), ("\xfc.png", b"broken")):
            member = tarfile.TarInfo(key)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    good, bad = ShardImages(expand("*.tar", "u"), [])
    assert good.name == r"caf\udce9.tar:h\udce9.png" and bad.name == r"caf\udce9.tar:\udcfc.png"
    assert bad.skipped[0].startswith(r"caf\udce9.tar:\udcfc.png: UnidentifiedImageError")
    assert len(ShardStream(expand("*.tar", "u"), []).order()) == 64
    source = open_source(["*.tar"], 100)
    assert [member.name for member in source.members(0)] == [good.name, bad.name]
    assert source.identity()["shards"] == [r"caf\udce9.tar"]
