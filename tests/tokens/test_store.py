"""Reading back: damaged, foreign and contradictory files are refused; a Dataset gives views."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from vistok.tokens import Header, TokenDataset, TokenStore, deinterleave, interleave


@pytest.fixture
def copy(stores, tmp_path):
    """A copy of the tokens of a kind of head, to be damaged."""

    def make(kind="vq"):
        return shutil.copytree(stores[kind].folder, tmp_path / kind)

    return make


def change(folder, **values):
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({k: v for k, v in (index | values).items() if v != "missing"}))


@pytest.mark.parametrize(
    "values, message",
    [
        ({"format": "other"}, "not a header of tokens: its format is 'other'"),
        ({"version": 4}, "version 4; this vistok reads 3"),
        ({"grid": "missing"}, "lacks grid"),
        ({"grid": 8}, "grid=8, not a list"),
        ({"grid": [8, 0]}, "integers above 0"),
        ({"codebook_sizes": []}, "integers above 0"),
        ({"codebook_sizes": ["32"]}, "integers above 0"),
        ({"views": "all"}, "views='all', not one of none, flip, ten"),
        ({"views": "ten"}, r"holds uint16 \(4, 2, 1, 8, 8\), but by index.json it is uint16 \(4, 10, 1, 8, 8\)"),
        ({"codebook_sizes": [2**16 + 1]}, "but by index.json it is uint32"),
        ({"grains": 2, "order": "other"}, "grains=2 in the order 'other'"),
        ({"tokenizer_sha256": "abc"}, "is not a SHA-256"),
        ({"shards": []}, "lists no shards"),
        ({"shards": [{"images": 4}]}, "the entry of shard 0 lacks 'files'"),
        ({"shards": [{"images": 4, "files": {"tokens": {"name": "../other.npy"}}}]}, "the entry of shard 0 has the"),
        ({"shards": [{"images": 4, "files": {"tokens": []}}]}, "the entry of shard 0 has the files"),
        ({"shards": [[]]}, "the entry of shard 0 lacks 'images'"),
        ({"shards": {}}, "lists no shards"),
        ({"version": []}, r"version \[\]; this vistok reads 3"),
        ({"codebook_sizes": None}, "codebook_sizes=None, not a list"),
        ({"codebook_sizes": [True]}, "integers above 0"),
        ({"codebook_sizes": [2.0]}, "integers above 0"),
        ({"codebook_sizes": [10**30]}, "integers above 0"),
        ({"codebook_sizes": [2**62] * 3}, "too many for one vocabulary"),
        ({"grid": [8, 8, 8]}, "integers above 0"),
        ({"grid": [2**31, 2**31]}, "codes of an image, more than 16,777,216"),
        ({"grid": None}, "grid=None, not a list"),
        ({"scales": [[2, 2], [4, 15]]}, r"scales=.* together the positions \(8, 8\)"),
        ({"scales": [[8, 8]]}, "they must be 2 to 1024 grids"),
        ({"scales": [[1, 1]] * 64, "grid": [1, 64], "grains": 2, "order": "row"}, "grains=2"),
        ({"scales": [4, [2, 0]]}, "grids"),
        ({"scales": 3}, "scales=3, not a list"),
        ({"split_bits": [2, 3]}, r"split_bits=\(2, 3\), which are not the bits of codebook_sizes=\(32,\)"),
        ({"split_bits": []}, r"split_bits=\(\), which"),
        ({"split_bits": [5], "codebook_sizes": [32]}, r"split_bits=\(5,\), which"),
        ({"split_bits": [10**9, 5]}, "which are not the bits"),
        ({"split_bits": "missing"}, "lacks split_bits"),
        ({"factor": float("inf")}, "integers above 0"),
        ({"views": []}, r"views=\[\], not one of"),
        ({"views": {"a": 1}}, "views={'a': 1}, not one of"),
        ({"grains": 2.0, "order": "row"}, "grains=2.0"),
        ({"grains": 5, "order": "row"}, r"grains=5 in the order 'row' on a grid of \(8, 8\)"),
        ({"grains": 2, "order": []}, r"grains=2 in the order \[\]"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"rate": "half"}, "rate='half'"),
        ({"tokenizer": 3}, "tokenizer=3"),
        ({"dtype": None}, "dtype=None"),
        ({"ten_crop_size": -1}, "ten_crop_size=-1"),
        ({"classes": [1]}, r"classes=\(1,\)"),
        ({"classes": "cat"}, "classes='cat', not a list"),
        ({"tokenizer_sha256": ["a"] * 64}, "tokenizer_sha256="),
    ],
)
def test_headers_that_cannot_be(copy, values, message):
    folder = copy()
    change(folder, **values)
    with pytest.raises(ValueError, match=message):
        TokenStore(folder).codes(0)


def test_files_that_are_cut_short_or_foreign(copy):
    folder = copy()
    path = folder / "shard-000000.tokens.npy"
    whole = path.read_bytes()
    for content in (whole[:200], b"", pickle.dumps([1]), b"PK\3\4" + whole):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="shard-000000.tokens.npy cannot be read as an array"):
            TokenStore(folder).codes(0)
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read as an array"):  # nothing is unpickled
        TokenStore(folder).codes(0)
    path.unlink()
    with pytest.raises(ValueError, match="cannot be read as an array"):
        TokenStore(folder).codes(0)
    (folder / "index.json").write_text('{"format":')
    with pytest.raises(ValueError, match="is not JSON"):
        TokenStore(folder)
    (folder / "index.json").unlink()
    with pytest.raises(ValueError, match="there is no"):
        TokenStore(folder)


def entry(folder, **values):
    """Change the entry of the first shard."""
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0] |= values
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("values, message", [
    ({"images": 10**30}, "the entry of shard 0 has 1000000000000000000000000000000 images"),
    ({"images": -1}, "has -1 images"),
    ({"images": True}, "has True images"),
    ({"images": "4"}, "has '4' images"),
    ({"unreadable": 3}, "unreadable=3, not names"),
    ({"images": 5}, r"holds uint16 \(4, 2, 1, 8, 8\), but by index.json it is uint16 \(5, 2, 1, 8, 8\)"),
])  # fmt: skip
def test_entries_that_cannot_be(copy, values, message):
    folder = copy()
    entry(folder, **values)
    with pytest.raises(ValueError, match=message) as caught:
        TokenStore(folder).codes(0)
    assert str(folder) in str(caught.value)


def test_an_entry_without_its_hash(copy):
    folder = copy()
    index = json.loads((folder / "index.json").read_text())
    del index["shards"][0]["files"]["tokens"]["sha256"]
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="index.json: the entry of shard 0 lacks the sha256"):
        TokenStore(folder)


def test_names_are_text(copy):
    folder = copy()
    path = folder / "shard-000000.names.json"
    for content, message in (
        ("[1, 2, 3, 4]", "does not hold 4 names"),
        ("[" * 10**5, "is not JSON"),
        ("{}", "4 names"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=f"shard-000000.names.json .*{message}"):
            _ = TokenStore(folder).names
    path.write_bytes(b'["\xff"]')
    with pytest.raises(ValueError, match="shard-000000.names.json is not JSON: 'utf-8' codec"):
        _ = TokenStore(folder).names


@pytest.mark.parametrize("name, change, message", [
    ("positions", lambda a: a + 500, "a token or a position of granularity 0 is out of range"),
    ("positions", lambda a: a * 0, "two of its tokens cover the same positions"),
    ("tokens", lambda a: a + 32, "a token or a position of granularity 0 is out of range"),
    ("lengths", lambda a: a[..., ::-1], "tokens of its granularities do not fill 8 x 8 positions"),
    ("lengths", lambda a: a + 2**31, "but by index.json it is uint16"),
])  # fmt: skip
def test_sequences_that_do_not_cover_their_grid(copy, name, change, message):
    folder = copy("dq")
    path = folder / f"shard-000000.{name}.npy"
    array = np.load(path)
    np.save(path, change(array).astype(array.dtype))
    with pytest.raises(ValueError, match=message) as caught:
        TokenStore(folder).codes(0)
    assert str(folder) in str(caught.value)


def test_verification_sees_a_code_that_is_out_of_range(copy):
    folder = copy()
    change(folder, codebook_sizes=[16])
    with pytest.raises(ValueError, match=r"shard 0 .* holds codes up to \[[0-9]+\], of codebooks of \[16\]"):
        list(TokenStore(folder).verify())


def test_only_the_tokenizer_that_made_them_decodes(stores, make):
    store, tokenizer = stores["vq"], make("vq")
    codes = torch.from_numpy(store.codes(0))
    assert torch.equal(store.decode(tokenizer, codes), tokenizer.detokenize(codes))
    tokenizer.quantizer.codewords[3, 0] += 1
    with pytest.raises(
        ValueError, match=f"these tokens are of vq with the sha256 {store.header.tokenizer_sha256[:16]}"
    ):
        store.decode(tokenizer, codes)


def test_tokens_of_an_earlier_hash_are_read_and_not_decoded(copy, make):
    folder = copy()
    change(folder, version=1, tokenizer_sha256="0" * 64)
    store = TokenStore(folder)
    with pytest.raises(ValueError, match="run python -m vistok tokenize again .*an earlier vistok, which had another"):
        store.decode(make("vq"), torch.from_numpy(store.codes(0)))


def test_interleaving_by_hand():
    codes = np.array([[[0, 1], [2, 3]], [[3, 2], [1, 0]]])  # two codebooks on a grid of 2 x 2
    assert interleave(codes, (4, 5)).tolist() == [0, 7, 1, 6, 2, 5, 3, 4]
    assert np.array_equal(deinterleave(interleave(codes, (4, 5)), (4, 5), (2, 2)), codes)
    with pytest.raises(ValueError, match="the id 7 at place 2 is not of its codebook"):
        deinterleave(np.array([0, 7, 7, 6, 2, 5, 3, 4]), (4, 5), (2, 2))
    with pytest.raises(ValueError, match="3 ids do not fill 2 x 2 x 2 places"):
        deinterleave(np.array([0, 7, 1]), (4, 5), (2, 2))


@pytest.mark.parametrize("kind", ["vq", "fq", "dq"])
def test_a_dataset_for_a_loader(stores, kind):
    store = stores[kind]
    data = TokenDataset(store.folder, view=1)
    assert (len(data), data.vocabulary) == (7, sum(store.header.codebook_sizes))
    (batch,) = DataLoader(data, batch_size=7, num_workers=1)
    assert batch.label.tolist() == store.labels.tolist()
    assert np.array_equal(batch.codes, np.stack([store.view(i, 1)[0] for i in range(7)]))
    assert batch.ids.shape == (7, 64 * len(store.header.codebook_sizes)) and batch.ids.dtype == torch.int64
    assert np.array_equal(deinterleave(batch.ids.numpy(), store.header.codebook_sizes, (8, 8)), batch.codes)
    assert batch.keep.sum(1).sum(1).tolist() == [40 if kind == "dq" else 64] * 7
    with pytest.raises(ValueError, match="view=2, but .* has the views 0 to 1"):
        TokenDataset(store.folder, view=2)


def test_views_are_drawn_from_seed_epoch_and_index(stores):
    store = stores["vq"]

    def drawn(epoch, seed=0):
        data = TokenDataset(store.folder, seed=seed)
        data.set_epoch(epoch)
        return [[np.array_equal(data[i].codes, own) for own in store.codes(i)].index(True) for i in range(7)]

    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(epoch, seed)) for epoch in range(4) for seed in range(2)}) > 4
    assert {view for epoch in range(4) for view in drawn(epoch)} == {0, 1}


def test_a_header_survives_json(stores, tmp_path):
    for store in stores.values():
        path = tmp_path / "header.json"
        path.write_text(json.dumps(store.header.json()))
        assert Header.read(path) == store.header
