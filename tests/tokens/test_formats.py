"""Each form holds what its reader expects, and gives back the same tokens."""

import json
import shutil

import numpy as np
import pytest
import webdataset

from vistok.tokens import TokenStore
from vistok.tokens.formats import READERS, WRITERS, read_jsonl, write_fqgan, write_jsonl, write_llamagen

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
        ("fq", "llamagen", "paired", "fqgan has a file for each codebook"),
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
        (lines[:-2], "holds 6 images, not 7: it is cut short"),
        (lines[:-1], "line 13: not 2 views of one image"),
        ([lines[0], lines[1][:50]], "line 2 is no line of tokens"),
        ([lines[0], '{"class_id": 0, "tokens": [1, 2]}\n'], "2 ids do not fill 1 x 8 x 8 places"),
        ([lines[0], lines[1].replace("[", "[32, ", 1).rsplit(",", 1)[0] + "]}\n"], "the id 32 at place 0"),
        ([lines[0], '{"class_id": 0, "tokens": ["a"]}\n'], "not whole numbers"),
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
