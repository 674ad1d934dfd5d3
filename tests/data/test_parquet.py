"""Images of parquet files: their columns, names and labels, damage, and the same numbers as for a folder."""

import io
import itertools
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vistok.__main__ import main
from vistok.data import folder, shards
from vistok.data.parquet_samples import images_of_parquet
from vistok.data.shard_image import ShardContent
from vistok.data.streams import ShardImages, ShardStream
from vistok.data.tars import expand
from vistok.evaluation.evaluate import evaluate
from vistok.tokens import TokenStore
from vistok.tokens.sources import open_source

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
KNOWN = ShardContent(("label", "caption"))
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(i: int) -> bytes:
    """An image of its own; the green of its first pixel is its number."""
    pixels = np.random.default_rng(i).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    pixels[0, 0, 1] = i
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(path: Path, features: dict | None = None, row_group_size: int | None = None, **columns) -> str:
    """A parquet file, with Hugging Face's description of its columns if there is one."""
    table = pa.table(columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=row_group_size)
    return str(path)


def structs(*images: tuple | None):
    return pa.array([image and {"bytes": image[0], "path": image[1]} for image in images], STRUCT)


def read(url, content=KNOWN):
    return [(image.name, image.label, image.caption, image.problem) for image in images_of_parquet(url, content)]


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory) -> Path:
    """A folder of images and what ``datasets`` writes of it: parquet files as on the hub, and the paths alone."""
    datasets = pytest.importorskip("datasets")
    root = tmp_path_factory.mktemp("hf")
    for i, (split, c, k) in enumerate(itertools.product(("train", "validation"), ("ant", "cat"), range(4))):
        file = root / "photos" / split / c / f"{split}-{c}-{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(i))
    found = datasets.load_dataset("imagefolder", data_dir=str(root / "photos"), cache_dir=str(root / "cache"))
    found["train"].to_parquet(str(root / "paths.parquet"))
    found.save_to_disk(str(root / "saved"))
    (root / "data").mkdir()
    for split in ("train", "validation"):
        with_bytes = datasets.load_from_disk(str(root / "saved" / split))
        for k in range(2):
            with_bytes.shard(2, k).to_parquet(str(root / "data" / f"{split}-0000{k}-of-00002.parquet"))
    return root


def test_files_of_datasets_have_the_images_of_the_folder(hugging_face):
    ours = folder(str(hugging_face / "photos"), 16, 8, labels=True)
    theirs = shards(
        f"{hugging_face}/data/train-*.parquet", f"{hugging_face}/data/validation-*.parquet", 16, 8, labels=True
    )
    (one,), (two,) = ours.val_dataloader(), theirs.val_dataloader()
    stems = [name.rpartition(":")[2].rpartition("/")[2] for name in two.names]
    order = [stems.index(Path(name).name) for name in one.names]
    assert torch.equal(one.images, two.images[order]) and one.labels.tolist() == two.labels[order].tolist()
    assert two.names[0] == "validation-00000-of-00002.parquet:validation-ant-0.png"
    assert theirs.scored_names() == two.names and theirs.sizes == "2 shards to train on, 2 held out"
    seen = Counter(sample.name for sample in itertools.islice(theirs.train, 16))
    assert set(seen.values()) == {2} and len(seen) == 8  # every image once in each of two epochs


def test_paths_alone_are_read_from_their_files(hugging_face, tmp_path):
    """``Dataset.to_parquet`` of a folder writes absolute paths and no bytes."""
    images = list(images_of_parquet(str(hugging_face / "paths.parquet"), KNOWN))
    assert [image.open().read() for image in images] == [png(i) for i in range(8)]
    assert [image.label for image in images] == [b"0"] * 4 + [b"1"] * 4 and images[0].name.endswith("/train-ant-0.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png(3))
    url = write(tmp_path / "p.parquet", image=structs((None, "in/a.png"), (None, "in/b.png"), (None, "in"), None))
    ours = list(ShardImages([url], []))
    assert ours[0].image[1, 0, 0] == 3 and [sample.image is None for sample in ours] == [False, True, True, True]
    problems = ["in/b.png cannot be read: No such file", "in is not a regular file|Is a directory", "has no image"]
    for sample, problem in zip(ours[1:], problems, strict=True):
        assert re.search(problem, sample.skipped[0]) and str(tmp_path) in sample.skipped[0]


def test_names_are_paths_where_they_tell_images_apart(tmp_path):
    different = write(tmp_path / "a.parquet", image=structs((b"1", "x/a.jpg"), (b"2", "b.jpg"), (b"3", "é.jpg")))
    assert [image.name for image in images_of_parquet(different)] == ["x/a.jpg", "b.jpg", "é.jpg"]
    for name, paths in (("b", ["a.jpg", "a.jpg"]), ("c", ["a.jpg", None]), ("d", ["a.jpg", ""])):
        url = write(tmp_path / f"{name}.parquet", image=structs((b"1", paths[0]), (b"2", paths[1])))
        assert [image.name for image in images_of_parquet(url)] == ["0", "1"]
        assert ShardImages([url], []).names() == [f"{name}.parquet:0", f"{name}.parquet:1"]


def test_columns_are_found_by_description_type_and_name(tmp_path):
    plain, number, text = [b"1", b"2"], pa.array([4, None]), ["red", None]
    url = write(tmp_path / "a.parquet", picture=plain, cls=number, text=text, id=[7, 8])
    assert read(url) == [("0", b"4", b"red", ""), ("1", None, None, "")]
    features = {"photo": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": ["ant", "cat"]}}
    image = structs((b"1", None), (b"2", None))
    url = write(tmp_path / "b.parquet", features, photo=image, mask=image, kind=[1, -1], label=[5, 6])
    assert read(url) == [("0", b"1", None, ""), ("1", None, None, "")]
    assert open_source([url], 100).classes == ("ant", "cat")
    url = write(tmp_path / "c.parquet", image=image, conditioning_image=image, fine=[1, 2], caption=["a", "b"])
    assert read(url) == [("0", None, b"a", ""), ("1", None, b"b", "")]
    asked = ShardContent(("label", "caption"), {"image": "conditioning_image", "label": "fine"}, ("label",))
    assert read(url, asked) == [("0", b"1", b"a", ""), ("1", b"2", b"b", "")]


@pytest.mark.parametrize("columns, asked, message", [
    ({"a": [b"1"], "b": [b"2"]}, {}, r"a.parquet has images in a and b: 'data.columns=\{image: a\}' chooses"),
    ({"jpg": [b"1"], "png": [b"2"]}, {}, r"columns jpg and png, each .* the image: 'data.columns=\{image: jpg\}'"),
    ({"id": [1], "url": ["x"]}, {}, r"no column with the bytes of images, but id \(int64\), url \(string\)"),
    ({"images": [[b"1"]]}, {}, r"no column with the bytes of images, but images \(list<.*binary"),
    ({"image": [b"1"], "label": ["cat"]}, {"labels": True}, r"data.labels=true: .*a.parquet has no column of whole"),
    ({"image": [b"1"], "label": [1], "target": [2]}, {"labels": True}, "label and target, each of which may"),
    ({"image": [b"1"]}, {"captions": True}, "data.captions=true: .* has no column of text with a usual"),
    ({"image": [b"1"]}, {"columns": {"image": "img"}}, r"no column 'img' \(data.columns.image\), but image"),
    ({"image": [b"1"], "n": [1]}, {"columns": {"image": "n"}}, r"'n' \(data.columns.image\) does not hold bytes"),
    ({"image": [b"1"]}, {"columns": {"picture": "image"}}, "data.columns names columns of image, label, caption"),
])  # fmt: skip
def test_what_a_file_does_not_tell_is_refused(tmp_path, columns, asked, message):
    url = write(tmp_path / "a.parquet", **columns)
    with pytest.raises(ValueError, match=message):
        shards(url, url, 16, 2, **asked)
    with pytest.raises(ValueError, match=message):
        shards(None, url, 16, 2, **asked)


def test_images_and_labels_that_are_missing_are_counted(tmp_path):
    url = write(tmp_path / "a.parquet", image=[png(0), None, b"text", png(3), png(4)],
                label=pa.array([5, 6, 7, None, 8]), caption=["x", "y", "z", "u", None])  # fmt: skip
    images = list(ShardImages([url], [], labels=True))
    assert [sample.label for sample in images] == [5, None, None, None, 8]
    assert [bool(sample.skipped) for sample in images] == [False, True, True, True, False]
    assert f"{url}:1: the row has no image" in images[1].skipped and "cannot identify" in images[2].skipped[0]
    assert f"{url}:3: it has no label: label is None" in images[3].skipped
    (last,) = list(ShardImages([url], [], captions=True))[-1].skipped
    assert last.endswith("4: it has no caption: caption is null")
    stream = ShardStream([url], [], labels=True, captions=True)
    assert [(s.label, s.caption) for s in itertools.islice(stream, 3)] == [(5, "x")] * 3
    data = shards(url, url, 16, 2)
    assert len(data.scored_names()) == 5


def test_row_groups_blocks_and_types_do_not_matter(tmp_path, monkeypatch):
    """Order and pixels are those of a tar with the same images; large binary columns and row groups are read alike."""
    images = [png(i) for i in range(7)]
    one = write(tmp_path / "a.parquet", image=images)
    (tmp_path / "b").mkdir()
    two = write(tmp_path / "b" / "a.parquet", row_group_size=2, image=pa.array(images, pa.large_binary()))
    streams = [itertools.islice(ShardStream([url], [], seed=3, block=3), 21) for url in (one, two)]
    for ours, theirs in zip(*streams, strict=True):
        assert torch.equal(ours.image, theirs.image) and ours[1:] == theirs[1:]


@pytest.mark.parametrize("damage", ["cut", "footer", "page", "text", "empty", "missing"])
def test_a_damaged_file_is_named_and_counted(tmp_path, damage):
    good = write(tmp_path / "good.parquet", image=[png(0), png(1)])
    bad = Path(write(tmp_path / "bad.parquet", row_group_size=2, image=[png(i) for i in range(2, 8)]))
    content = bytearray(bad.read_bytes())
    if damage == "page":  # the header of the last row group's first page
        at = content.index(png(6)[:200]) - 40
        content[at : at + 30] = b"\xff" * 30
    elif damage == "footer":
        content[-8:-4] = b"\xff\xff\xff\x7f"
    bad.write_bytes({"cut": content[:-20], "text": b"text", "empty": b""}.get(damage, content))
    data = shards([str(bad), good], [str(bad), good], 16, 8, max_unreadable=1.0)
    if damage == "missing":
        bad.unlink()
    samples = list(data.val)
    names = [sample.name for sample in samples if sample.image is not None]
    assert names == ["bad.parquet:0", "bad.parquet:1"] * (damage == "page") + ["good.parquet:0", "good.parquet:1"]
    (problem,) = [reason for sample in samples for reason in sample.skipped]
    assert problem.startswith(f"{bad}: ") and "\n" not in problem
    assert {sample.name for sample in itertools.islice(data.train, 2 * len(names))} == set(names)


def test_without_pyarrow(tmp_path, monkeypatch):
    url = write(tmp_path / "a.parquet", image=[png(0)])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"a.parquet needs pyarrow: pip install 'vistok\[parquet\]'"):
        shards(url, url, 16, 2)


class Ranges(BaseHTTPRequestHandler):
    """Answers requests for a range of bytes of the files of ``content``."""

    content: dict[str, bytes] = {}

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        data = self.content[self.path]
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), min(int(asked[2]), len(data) - 1)) if asked else (0, len(data) - 1)
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last + 1 - first))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[first : last + 1])

    def log_message(self, *words):
        pass


def test_urls(tmp_path):
    url = write(tmp_path / "a.parquet", image=structs((png(0), "a.png"), (png(1), "b.png"), (None, "/etc/c.png")))
    Ranges.content = {"/a.parquet": Path(url).read_bytes()}
    with HTTPServer(("127.0.0.1", 0), Ranges) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (typed,) = expand(f"http://127.0.0.1:{server.server_port}/a.parquet", "u")
        images = list(ShardImages([typed], []))
        server.shutdown()
    assert [sample.name for sample in images] == ["a.parquet:a.png", "a.parquet:b.png", "a.parquet:/etc/c.png"]
    assert images[0].image[1, 0, 0] == 0 and images[1].image[1, 0, 0] == 1 and ShardImages([typed], []).names() is None
    assert "which a URL does not lead to" in images[2].skipped[0]
    with pytest.raises(ValueError, match="pipe:cat .*a.parquet: a parquet file is read from its end, which needs"):
        shards(f"pipe:cat {url}", url, 16, 2)


def test_a_resumed_run_ends_as_one_without_a_break_and_scores_as_on_the_folder(train, compose, hugging_face, tmp_path):
    held_out = f"data.val_urls={hugging_face}/data/validation-*.parquet"
    words = ["data=shards", f"data.urls={hugging_face}/data/train-*.parquet", held_out, "data.num_workers=0"]
    words += ["data.block=3", "data.flip=true", "data.batch_size=3", "loss=l1", "schedule=constant", "log.val_every=1"]
    whole = train(tmp_path / "whole", *words, "optim.updates=5")
    part = train(tmp_path / "part", *words, "optim.updates=2")
    train(part, *words, "optim.updates=5", "run.resume=auto")
    ours, theirs = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (part, whole))
    assert ours["updates"] == theirs["updates"] == 5 and ours["ShardDataModule"] == theirs["ShardDataModule"]
    for name, tensor in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], tensor), name
    assert (part / "reconstructions.png").is_file()
    reports = []
    for data in (["data=shards", held_out], ["data=folder", f"data.root={hugging_face}/photos/validation"]):
        words = [f"tokenizer={part}", *data, "data.image_size=16", "data.num_workers=0", "feature_network=none"]
        words += ["metrics.lpips=null", "data.batch_size=8", f"run.out={tmp_path}/{len(reports)}.json"]
        reports.append(evaluate(compose("eval", *words)))
    ours, theirs = (report["scores"][0]["metrics"] for report in reports)
    assert ours["images"] == 8 and ours == theirs


def test_tokens_of_parquet_files(hugging_face, trained, tmp_path, capsys):
    """A part for each file; images, labels and classes are those of the folder."""
    stores = {}
    for images in ("data/train-*.parquet", "photos/train"):
        out = tmp_path / images[:4]
        words = [str(trained), "--images", f"{hugging_face}/{images}", "--out", str(out), "--image-size", "16"]
        main(["tokenize", *words, "--num-workers", "0"])
        stores[images[:4]] = TokenStore(out)
    ours, theirs = stores.values()
    assert [shard.images for shard in ours.shards] == [4, 4] and ours.header.classes == theirs.header.classes
    assert ours.names[0] == "train-00000-of-00002.parquet:train-ant-0.png" and theirs.names[0] == "ant/train-ant-0.png"
    assert ours.labels.tolist() == theirs.labels.tolist() == [0] * 4 + [1] * 4
    assert all(np.array_equal(ours.codes(i), theirs.codes(i)) for i in range(8))
