"""Token files of several depths and scales: their layout, the images they decode to, and former versions."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from vistok.__main__ import main
from vistok.formats.native import save
from vistok.images.ranges import to_float
from vistok.tokens import TokenDataset, TokenStore

from .test_extract import SIZE, squares


@pytest.fixture
def expected(classes, make):
    """Codes (7, k, *positions) of the images by the tokenizer of a kind, and their decoded images."""

    def compute(kind):
        tokenizer = make(kind)
        codes = tokenizer.tokenize(to_float(squares(classes)))
        return codes, tokenizer.detokenize(codes, (SIZE, SIZE))

    return compute


@pytest.mark.parametrize(
    "kind, shape, grids",
    [
        ("rq", (3, 8, 8), ((8, 8),)),
        ("ms", (1, 1, 85), ((1, 1), (2, 2), (4, 4), (8, 8))),
        ("lfq", (1, 8, 8), ((8, 8),)),
    ],
)
def test_codes_layout_and_images(stores, make, expected, kind, shape, grids):
    store, (codes, images) = stores[kind], expected(kind)
    found = np.stack([store.codes(i)[0] for i in range(7)])
    assert found.shape == (7, *shape) and np.array_equal(found, codes) and codes.unique().numel() > 8
    layout = store.header.layout
    assert (layout.grids, layout.codebooks, layout.positions) == (grids, shape[0], shape[1:])
    decoded = store.decode(make(kind), torch.from_numpy(found))
    torch.testing.assert_close(decoded, images)
    assert not torch.equal(decoded[0], decoded[1])
    batch = next(iter(DataLoader(TokenDataset(store.folder, view=0), batch_size=7)))
    assert torch.equal(batch[0], codes) and batch[2].shape == (7, shape[0] * shape[1] * shape[2])
    assert batch[3].shape == (7, *shape[1:]) and batch[3].all()


def test_the_commands(make, classes, tmp_path, capsys):
    save(make("ms"), tmp_path / "tokenizer")
    out, picture = str(tmp_path / "tokens"), str(tmp_path / "sheet.png")
    words = ["--images", str(classes), "--out", out, "--image-size", "32", "--num-workers", "0"]
    main(["tokenize", str(tmp_path / "tokenizer"), *words])
    main(["tokens", "check", out, "--tokenizer", str(tmp_path / "tokenizer"), "--out", picture, "--num-images", "2"])
    assert "4 scales from 1 x 1 to 8 x 8 (85 positions), 32 codewords" in capsys.readouterr().out
    main(["tokens", "export", out, "--to", "jsonl", "--out", str(tmp_path / "lines")])
    header = json.loads((tmp_path / "lines" / "header.json").read_text())
    assert (header["version"], header["grid"], header["scales"]) == (3, [1, 85], [[1, 1], [2, 2], [4, 4], [8, 8]])
    report = tmp_path / "probe.json"
    probe = ["--size", "tiny", "--updates", "1", "--seeds", "1", "--tokenizer", str(tmp_path / "tokenizer")]
    main(["probe", out, "--out", str(report), *probe])
    assert json.loads(report.read_text())["tokens_per_image"] == 85 and report.with_suffix(".png").is_file()


@pytest.mark.parametrize("version", [1, 2])
def test_former_versions_are_of_one_grid(stores, tmp_path, version):
    folder = shutil.copytree(stores["fq"].folder, tmp_path / "tokens")
    index = json.loads((folder / "index.json").read_text())
    former = {name: value for name, value in index.items() if name not in ("scales", "split_bits")}
    (folder / "index.json").write_text(json.dumps(former | {"version": version}))
    store = TokenStore(folder)
    assert store.header == stores["fq"].header and store.header.layout.grids == ((8, 8),)
    assert np.array_equal(store.codes(6), stores["fq"].codes(6))
