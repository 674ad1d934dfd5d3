"""Each form holds what its reader expects, and gives back the same tokens."""

import gzip
import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
import webdataset

from vistok.tokens import TokenStore
from vistok.tokens.exchange import READERS, WRITERS, read_jsonl, write_fqgan, write_jsonl, write_llamagen

FITTING = [
    ("vq", "llamagen", "interleaved"),
    ("vq", "jsonl", "interleaved"),
    ("vq", "webdataset", "paired"),
    ("fq", "llamagen", "interleaved"),
    ("fq", "fqgan", "paired"),
    ("fq", "jsonl", "interleaved"),
    ("fq", "jsonl", "paired"),
    ("fq", "webdataset", "interleaved"),
    ("fq", "webdataset", "paired"),
    ("rq", "llamagen", "interleaved"),
    ("rq", "fqgan", "paired"),
    ("rq", "jsonl", "paired"),
    ("ms", "llamagen", "interleaved"),
    ("ms", "jsonl", "interleaved"),
    ("ms", "webdataset", "interleaved"),
    ("lfq", "webdataset", "interleaved"),
    ("dq", "jsonl", "interleaved"),
    ("dq", "webdataset", "interleaved"),
]


@pytest.mark.parametrize("kind, form, layout", FITTING)
def test_round_trip(stores, tmp_path, kind, form, layout):
    store = stores[kind]
    WRITERS[form](store, tmp_path / "out", layout)
    records = list(READERS[form](tmp_path / "out"))
    assert [record.label for record in records] == store.labels.tolist()
    assert all(np.array_equal(record.codes, store.codes(i)) for i, record in enumerate(records))
    if kind == "dq":
        for i, record in enumerate(records):
            for view, own in enumerate(record.ragged):
                for mine, theirs in zip(sum(own, []), sum(store.ragged(i, view), []), strict=True):
                    assert np.array_equal(mine, theirs)


def test_llamagen_reads_views_and_label_of_each_image(stores, tmp_path):
    store = stores["vq"]
    write_llamagen(store, tmp_path / "out", name="photos")
    codes = np.load(tmp_path / "out" / "photos32_codes" / "5.npy")
    label = np.load(tmp_path / "out" / "photos32_labels" / "5.npy")
    assert (codes.shape, codes.dtype, label.tolist()) == ((1, 2, 64), np.int64, [1])
    assert np.array_equal(codes[0, 1], store.codes(5)[1].ravel())
    assert len(list((tmp_path / "out" / "photos32_codes").iterdir())) == 7  # nothing else: it lists the folder


def test_scales_are_written_in_their_order(stores, tmp_path):
    """One scale after the other, each in raster order: VAR's sequence."""
    store = stores["ms"]
    maps = store.header.layout.split(torch.from_numpy(store.codes(5)))
    assert [tuple(own.shape) for own in maps] == [(2, 1, side, side) for side in (1, 2, 4, 8)]
    flat = np.concatenate([own.reshape(2, -1) for own in maps], axis=1)
    write_llamagen(store, tmp_path / "out")
    assert np.array_equal(np.load(tmp_path / "out" / "imagenet32_codes" / "5.npy")[0], flat)
    write_jsonl(store, tmp_path / "lines")
    lines = (tmp_path / "lines" / "tokens.jsonl").read_text().splitlines()
    assert json.loads(lines[11])["tokens"] == flat[1].tolist()


def test_depths_of_a_position_stand_side_by_side(stores, tmp_path):
    store = stores["rq"]
    write_llamagen(store, tmp_path / "out")
    ids = np.load(tmp_path / "out" / "imagenet32_codes" / "2.npy")[0]
    assert np.array_equal(ids.reshape(2, 8, 8, 3), np.moveaxis(store.codes(2), 1, -1) + [0, 32, 64])


def test_llamagen_files_by_others_are_read_with_a_header(stores, tmp_path):
    store = stores["vq"]
    write_llamagen(store, tmp_path / "out")
    (tmp_path / "out" / "header.json").unlink()
    with pytest.raises(ValueError, match="there is no .*header.json"):
        list(READERS["llamagen"](tmp_path / "out"))
    records = list(READERS["llamagen"](tmp_path / "out", store.header))
    assert np.array_equal(records[3].codes, store.codes(3))


def test_fqgan_has_a_file_for_each_codebook(stores, tmp_path):
    store = stores["fq"]
    write_fqgan(store, tmp_path / "out")
    vis, sem = (np.load(tmp_path / "out" / "imagenet32_codes" / f"2_{part}.npy") for part in ("vis", "sem"))
    assert vis.shape == sem.shape == (1, 2, 64)
    assert np.array_equal(np.stack([vis[0], sem[0]], axis=1).reshape(2, 2, 8, 8), store.codes(2))


def test_a_line_for_each_view(stores, tmp_path):
    store = stores["fq"]
    write_jsonl(store, tmp_path / "out", "paired")
    lines = (tmp_path / "out" / "tokens.jsonl").read_text().splitlines()
    assert len(lines) == 14 and lines[8].startswith('{"class_id": 1, "tokens": [[')
    assert json.loads(lines[9])["tokens"][10] == store.codes(4)[1][:, 1, 2].tolist()  # place 10 is row 1, column 2
    ragged = stores["dq"]
    write_jsonl(ragged, tmp_path / "dq")
    line = json.loads((tmp_path / "dq" / "tokens.jsonl").read_text().splitlines()[3])
    assert [len(own) for own in line["tokens"]] == [len(own) for own in line["positions"]] == [8, 32]
    assert line["positions"] == [own.tolist() for own in ragged.ragged(1, 1).positions]


def test_webdataset_decodes_samples(stores, tmp_path):
    store = stores["fq"]
    WRITERS["webdataset"](store, tmp_path / "out", "paired")
    url = str(tmp_path / "out" / "shard-000000.tar")
    samples = list(webdataset.WebDataset(url, shardshuffle=False, empty_check=False).decode())
    assert [sample["__key__"] for sample in samples][:3] == ["00000000_0", "00000000_1", "00000001_0"]
    assert samples[13]["cls"] == 1 and samples[13]["token.npy"].shape == (64, 2)
    assert np.array_equal(samples[13]["token.npy"].T.reshape(2, 8, 8), store.codes(6)[1])


@pytest.mark.parametrize(
    "kind, form, layout, message",
    [
        ("dq", "llamagen", "interleaved", "these are of a dynamic head"),
        ("dq", "fqgan", "paired", "these are of a dynamic head"),
        ("vq", "fqgan", "paired", "these tokens have 1"),
        ("fq", "llamagen", "paired", "or fqgan, with a file for each codebook"),
        ("fq", "jsonl", "side by side", "layout='side by side' must be one of"),
    ],
)
def test_what_does_not_fit_is_refused(stores, tmp_path, kind, form, layout, message):
    with pytest.raises(ValueError, match=message):
        WRITERS[form](stores[kind], tmp_path / "out", layout)


def test_images_without_labels(stores, tmp_path):
    folder = shutil.copytree(stores["vq"].folder, tmp_path / "unlabelled")
    np.save(folder / "shard-000001.labels.npy", np.array([1, -1, 1]))
    store = TokenStore(folder)
    with pytest.raises(ValueError, match="llamagen has a label for every image, but dog/3.png has none"):
        write_llamagen(store, tmp_path / "out")
    write_jsonl(store, tmp_path / "lines")
    assert [record.label for record in read_jsonl(tmp_path / "lines")] == [0, 0, 0, 0, 1, -1, 1]


def test_damaged_lines(stores, tmp_path):
    write_jsonl(stores["vq"], tmp_path / "out")
    path = tmp_path / "out" / "tokens.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    for damaged, message in (
        (lines[:-2], "holds 6 images, not 7: it is truncated"),
        (lines[:-1], "line 13: not 2 views of one image"),
        ([lines[0], lines[1][:50]], "line 2 is not a line of tokens"),
        ([lines[0], '{"class_id": 0, "tokens": [1, 2]}\n'], "2 ids do not fill 1 x 8 x 8 places"),
        ([lines[0], lines[1].replace("[", "[32, ", 1).rsplit(",", 1)[0] + "]}\n"], "the id 32 at place 0"),
        ([lines[0], '{"class_id": 0, "tokens": ["a"]}\n'], "not integers"),
    ):
        path.write_text("".join(damaged))
        with pytest.raises(ValueError, match=message):
            list(read_jsonl(tmp_path / "out"))
    with pytest.raises(ValueError, match="holds the form 'jsonl', not llamagen"):
        list(READERS["llamagen"](tmp_path / "out"))


@pytest.mark.parametrize("form", ["llamagen", "webdataset"])
def test_damaged_files(stores, tmp_path, form):
    WRITERS[form](stores["vq"], tmp_path / "out")
    name = "imagenet32_codes/3.npy" if form == "llamagen" else "shard-000000.tar"
    path = tmp_path / "out" / name
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    with pytest.raises(ValueError, match=name.rpartition("/")[2]):
        list(READERS[form](tmp_path / "out"))


@pytest.mark.parametrize("line, message", [
    (b'{"class_id": 0, "tokens": 5}', "its ids are 5, not a list"),
    (b'{"class_id": 0, "tokens": [[1, 2]]}', "not integers"),
    (b'{"class_id": 0, "tokens": [1.5]}', "not integers"),
    (b'{"class_id": 0, "tokens": [true]}', "not integers"),
    (b'{"class_id": 0, "tokens": [99999999999999999999999]}', "not integers"),
    (b'{"class_id": 0}', "has no tokens"),
    (b'{"class_id": "0", "tokens": []}', "is not a line of tokens: its class_id is '0'"),
    (b'{"class_id": 1e999, "tokens": []}', "its class_id is inf"),
    (b'{"class_id": true, "tokens": []}', "its class_id is True"),
    (b'{"tokens": []}', "its class_id is None"),
    (b'{"class_id": 0, "class_id": 0}', "is not a line of tokens: it is not JSON: an object has 'class_id' twice"),
    (b"[]", "its class_id is None"),
    (b"null", "its class_id is None"),
    (b"[" * 10**5, "is not a line of tokens: it is not JSON: maximum recursion"),
    (b"\xff", "is not a line of tokens: it is not JSON: 'utf-8' codec"),
    (b'{"class_id": 0, "tokens": ["' + b"a" * 10**5 + b'"' + b', "b"' * 10**4 + b"]}", "not integers"),
])  # fmt: skip
def test_lines_of_strangers(stores, tmp_path, line, message):
    write_jsonl(stores["vq"], tmp_path / "out")
    path = tmp_path / "out" / "tokens.jsonl"
    path.write_bytes(line + b"\n" + line + b"\n")
    with pytest.raises(ValueError, match=f"tokens.jsonl, line 1:? .*{message}|line 1: {message}") as caught:
        list(read_jsonl(tmp_path / "out"))
    assert len(str(caught.value)) < 1_000
    path.unlink()
    with pytest.raises(ValueError, match="there is no .*tokens.jsonl"):
        list(read_jsonl(tmp_path / "out"))


@pytest.mark.parametrize("change, message", [
    (lambda line: line | {"tokens": line["tokens"][:1]}, "not one list of equal length"),
    (lambda line: line | {"tokens": 3}, "not one list of equal length"),
    (lambda line: line | {"positions": [[0], []]}, "not one list of equal length"),
    (lambda line: line | {"positions": [line["positions"][0], line["positions"][1][:-1] + [10**6]]}, "out of range"),
    (lambda line: line | {"positions": [[0] * 8, line["positions"][1]]}, "cover the same positions"),
    (lambda line: {"class_id": line["class_id"], "tokens": line["tokens"]}, "has no positions"),
])  # fmt: skip
def test_ragged_lines_of_strangers(stores, tmp_path, change, message):
    write_jsonl(stores["dq"], tmp_path / "out")
    path = tmp_path / "out" / "tokens.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(change(json.loads(lines[0]))), *lines[1:]]) + "\n")
    with pytest.raises(ValueError, match=f"tokens.jsonl, line 1:? .*{message}"):
        list(read_jsonl(tmp_path / "out"))


def rewritten(path, change):
    """The same tar with other members; ``change`` gets and gives their bytes by their names."""
    with tarfile.open(path) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    with tarfile.open(path, "w") as archive:
        for name, data in change(members).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("kind, name, data, message", [
    ("vq", "00000000_0.cls", b"cat", "has the label b'cat'"),
    ("vq", "00000000_0.cls", b"9" * 2_000, "has the label b'999"),
    ("vq", "00000000_0.cls", None, "has no .cls"),
    ("vq", "00000000_1.cls", b"1", "has another label than the views before it"),
    ("vq", "00000000_0.token.npy", None, "has no .token.npy"),
    ("vq", "00000000_0.token.npy", npy(np.array(3)), "its ids have the shape"),
    ("vq", "00000000_0.token.npy", npy(np.ones(64)), "not integers"),
    ("vq", "00000000_0.token.npy", npy(np.zeros((64, 1), int)), "its ids have the shape"),
    ("vq", "00000000_0.token.npy", b"\x93NUMPY\1\0\xff\xff", "cannot be read as an array"),
    ("vq", "00000000_0.token.npy", bytes(10**5), "has 100,000 bytes, more than 4,712"),
    ("dq", "00000000_0.length.npy", npy(np.array([-8, 48])), "has the lengths"),
    ("dq", "00000000_0.length.npy", npy(np.array([8.0, 32.0])), "has the lengths"),
    ("dq", "00000000_0.length.npy", npy(np.ones(40, int)), "has the lengths"),
    ("dq", "00000000_0.length.npy", npy(np.array(2**63, "uint64")), "has the lengths"),
    ("dq", "00000000_0.position.npy", npy(np.array(3)), "has the lengths"),
    ("dq", "00000000_0.position.npy", npy(np.full(40, 2**31)), "out of range"),
])  # fmt: skip
def test_samples_of_strangers(stores, tmp_path, kind, name, data, message):
    WRITERS["webdataset"](stores[kind], tmp_path / "out")
    path = tmp_path / "out" / "shard-000000.tar"
    rewritten(path, lambda members: {key: own for key, own in (members | {name: data}).items() if own is not None})
    with pytest.raises(ValueError, match=f"shard-000000.tar: the sample '0000000._.'.*{message}"):
        list(READERS["webdataset"](tmp_path / "out"))


def test_tars_and_indices_of_strangers(stores, tmp_path):
    WRITERS["webdataset"](stores["vq"], tmp_path / "out")
    path, index = tmp_path / "out" / "shard-000000.tar", tmp_path / "out" / "index.json"
    whole, listed = path.read_bytes(), index.read_text()
    rewritten(path, lambda members: dict(list(members.items())[:-4]))
    with pytest.raises(ValueError, match="holds 6 images, not 7: it is truncated"):
        list(READERS["webdataset"](tmp_path / "out"))
    path.write_bytes(gzip.compress(whole))
    with pytest.raises(ValueError, match="shard-000000.tar is compressed"):
        list(READERS["webdataset"](tmp_path / "out"))
    path.write_bytes(whole)
    for content in ("[]", "{}", '{"shards": 3}', '{"shards": [3]}', '{"shards": [{}]}', '{"shards": [{"name": []}]}'):
        index.write_text(content)
        with pytest.raises(ValueError, match="index.json (lists no shards|holds a list)"):
            list(READERS["webdataset"](tmp_path / "out"))
    index.write_text(listed)
    path.unlink()
    with pytest.raises(ValueError, match="shard-000000.tar"):
        list(READERS["webdataset"](tmp_path / "out"))


@pytest.mark.parametrize("name, array, message", [
    ("labels/2.npy", np.array([], int), r"holds int64 \(0,\), not one label"),
    ("labels/2.npy", np.array([1.5]), "not one label"),
    ("labels/2.npy", np.array([2**63], "uint64"), "not one label"),
    ("codes/2.npy", np.zeros((1, 1, 64), int), r"the shape is \(1, 1, 64\), not \(1, 2, tokens\)"),
    ("codes/2.npy", np.array(0), "the shape is"),
    ("codes/2.npy", np.zeros((1, 2, 64)), "not integers"),
    ("codes/2.npy", np.full((1, 2, 64), -(2**63)), "is not of its codebook"),
])  # fmt: skip
def test_pairs_of_strangers(stores, tmp_path, name, array, message):
    write_llamagen(stores["vq"], tmp_path / "out")
    np.save(tmp_path / "out" / f"imagenet32_{name}", array)
    with pytest.raises(ValueError, match=f"imagenet32_{name}:? .*{message}"):
        list(READERS["llamagen"](tmp_path / "out"))


def test_a_pair_is_missing(stores, tmp_path):
    write_llamagen(stores["vq"], tmp_path / "out")
    (tmp_path / "out" / "imagenet32_labels" / "6.npy").unlink()
    with pytest.raises(ValueError, match="imagenet32_labels holds the labels of 6 images, not 7"):
        list(READERS["llamagen"](tmp_path / "out"))
