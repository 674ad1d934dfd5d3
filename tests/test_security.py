"""Promises of docs/security.md: no unrequested connection, and shards that write and follow nothing."""

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from vistok.data.streams import ShardImages, ShardStream
from vistok.data.tar_samples import images_in
from vistok.data.tars import MOST_BYTES, MOST_HEADER
from vistok.files import below
from vistok.images.rgb import UnreadableImage
from vistok.tokens.exchange import read_webdataset
from vistok.tokens.header import Header
from vistok.tokens.sources import ShardSource
from vistok.tokens.token_shards import undamaged

ROOT = Path(__file__).parent.parent

WATCHED = """
import json, runpy, sys
events = []
NAMES = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname",
         "socket.gethostbyaddr", "socket.bind", "urllib.Request", "webbrowser.open", "os.system"}
sys.addaudithook(lambda name, arguments: name in NAMES and events.append((name, repr(arguments[1:] or arguments))))
import huggingface_hub, hydra, pytorch_lightning, torchmetrics
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
import vistok
run = next(word for word in sys.argv if word.startswith("run.dir=")).removeprefix("run.dir=")
vistok.load(run)
outside = [event for event in events if not ("127.0.0.1" in event[1] or "'localhost'" in event[1] or "::1" in event[1])]
print("EVENTS", json.dumps([outside, "wandb" in sys.modules]))
"""


def test_a_run_connects_to_nothing(tmp_path):
    """Import, training, validation, export and load; wandb is not even imported. (docs/security.md: the same under
    strace, which sees what is not Python's.)"""
    words = [
        "trainer=debug",
        "backbone=cnn_f8_small",
        "backbone.encoder.channels=8",
        "model.codebook_size=16",
        "model.latent_dim=4",
        "data.image_size=32",
    ]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(ROOT / "train.py"), *words, f"run.dir={tmp_path}/run"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    events = json.loads(done.stdout.rpartition("EVENTS ")[2])
    assert events == [[], False]


def png(colour=(1, 2, 3)):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


def member(name, data=b"", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, io.BytesIO(data)


def test_members_cannot_escape(tmp_path, monkeypatch):
    """Paths that lead out, links, devices: only images are read, from the archive alone, and nothing is written."""
    inside = tmp_path / "in" / "side"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    secret = tmp_path / "secret.png"
    secret.write_bytes(png((200, 0, 0)))
    with tarfile.open(inside / "s.tar", "w") as archive:
        for info, file in (
            member("../../evil.png", png()),
            member("/tmp/vistok-evil.png", png()),
            member("a.png", kind=tarfile.SYMTYPE, link=str(secret)),
            member("b.png", kind=tarfile.LNKTYPE, link=str(secret)),
            member("c.png", kind=tarfile.FIFOTYPE),
            member("d.png", kind=tarfile.CHRTYPE),
            member("folder.png", kind=tarfile.DIRTYPE),
            member("good.png", png()),
        ):
            archive.addfile(info, file)
    before = sorted(tmp_path.rglob("*"))
    read = list(images_in("s.tar"))
    assert [image.name for image in read] == ["../../evil.png", "/tmp/vistok-evil.png", "good.png"]
    assert all(image.data == png() for image in read)
    samples = list(ShardImages(["s.tar"], []))
    assert len(samples) == 3 and all(sample.image.float().mean() == 2 for sample in samples)
    assert sorted(tmp_path.rglob("*")) == before and not Path("/tmp/vistok-evil.png").exists()


def sparse(name, size):
    """An old GNU sparse member: a few bytes in the archive, ``size`` when read."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[483:495] = b"%011o\0" % size  # the real size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_a_small_archive_that_claims_terabytes(tmp_path):
    shard = tmp_path / "s.tar"
    shard.write_bytes(sparse("a.png", 2**32) + bytes(1024))
    with pytest.raises(
        UnreadableImage, match=r"s.tar: ValueError: a.png has 4,294,967,296 bytes: no image is so large"
    ):
        list(images_in(str(shard)))
    shard.write_bytes(sparse("a.png", 2**27) * 100 + bytes(1024))
    with pytest.raises(UnreadableImage, match=r"s.tar: ValueError: a.png is stored with holes: no image is"):
        list(images_in(str(shard)))
    packed = tmp_path / "s.tar.gz"
    info = tarfile.TarInfo("a.png")
    info.size = MOST_BYTES + 1
    packed.write_bytes(zlib.compress(info.tobuf() + bytes(2**16), wbits=31))
    with pytest.raises(UnreadableImage, match="no image is so large"):
        list(images_in(str(packed)))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_would_fill_the_memory(tmp_path, kind):
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, MOST_HEADER + 1
    (tmp_path / "s.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(MOST_HEADER + 4096))
    with pytest.raises(UnreadableImage, match="the archive is truncated or damaged: a header of 1,048,577 bytes"):
        list(images_in(str(tmp_path / "s.tar")))


MESSAGE = "a.png: it has 10,000,000,000 pixels, more than max_pixels=178956970"


def test_an_image_of_too_many_pixels(tmp_path):
    """A PNG of a kilobyte that says it has 100,000 x 100,000 pixels is unreadable, not a fatal error."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    bomb += chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for info, file in (member("a.png", bomb), member("b.png", png())):
            archive.addfile(info, file)
    sample = next(iter(ShardStream([str(tmp_path / "s.tar")], [])))
    skipped = [*sample.skipped, *(reason for s in ShardImages([str(tmp_path / "s.tar")], []) for reason in s.skipped)]
    assert sample.name == "s.tar:b.png" and any(reason.endswith(MESSAGE) for reason in skipped)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../s.tar", "a/../../s.tar", "pipe:touch PWN", "", 3, None, "a\0b", "C:\\s.tar"]
)
def test_a_name_in_a_file_stays_below_its_folder(tmp_path, name):
    assert below(tmp_path, "a/b..tar", tmp_path) == tmp_path / "a" / "b..tar"
    with pytest.raises(ValueError, match="index.json names the file .* which is not a path below its folder"):
        below(tmp_path, name, tmp_path / "index.json")
    with pytest.raises(ValueError, match="which is not a path below its folder"):
        undamaged(tmp_path, {"tokens": {"name": name, "sha256": "0" * 64}})


@pytest.mark.parametrize("name", ["pipe:touch PWN", "../PWN.tar", "/PWN.tar"])
def test_an_index_of_tokens_runs_nothing(tmp_path, monkeypatch, name):
    """By the form's name from the current folder, where ``pipe:`` would have no folder before it."""
    monkeypatch.chdir(tmp_path)
    header = Header("a", "0" * 64, (4,), 4, (2, 2), None, None, None, 8, "adm", "none", None, "float32", 1, "cpu", None)
    about = {"form": "webdataset", "layout": "interleaved", "images": 1}
    (tmp_path / "header.json").write_text(json.dumps(header.json() | about))
    (tmp_path / "index.json").write_text(json.dumps({"shards": [{"name": name}]}))
    with pytest.raises(ValueError, match="index.json names the file"):
        list(read_webdataset(Path(".")))
    assert sorted(os.listdir()) == ["header.json", "index.json"]


def test_an_index_beside_tars_is_data(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        archive.addfile(*member("a.png", png()))
    for content, message in (
        (b"[", "is not JSON"),
        (b'{"classes": 3}', "is not a list of names"),
        (b'{"classes": [1]}', "is not a list of names"),
    ):
        (tmp_path / "index.json").write_bytes(content)
        with pytest.raises(ValueError, match=f"index.json.*{message}"):
            ShardSource([f"{tmp_path}/*.tar"])
    for content in (b"[]", b"{}"):
        (tmp_path / "index.json").write_bytes(content)
        assert ShardSource([f"{tmp_path}/*.tar"]).classes is None
