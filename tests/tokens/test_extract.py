"""Images to tokens: the same codes as one image at a time, after any interruption, on any number of processes."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import ten_crop

from vistok.commands.data_shards import main as shards
from vistok.commands.tokenize import main
from vistok.data.listings.opening import open_listing
from vistok.formats.native import save
from vistok.images.crops import ADMCrop, to_tensor
from vistok.images.ranges import to_float
from vistok.processes import locks
from vistok.quantizers import VectorQuantizer
from vistok.tokens import TokenProtocol, TokenStore, index, tokenize
from vistok.tokens import extract as module
from vistok.tokens.loading import loaded
from vistok.tokens.sources import ListedSource, ShardSource, open_source

SIZE = 32
FEW = TokenProtocol(SIZE, batch_size=3)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def squares(root: Path, size: int = SIZE) -> torch.Tensor:
    """The cut images of a folder as (n, 3, size, size) uint8, sorted by their paths."""
    images = [Image.open(path) for path in sorted(root.rglob("*.png"))]
    return torch.stack([to_tensor(ADMCrop(size)(image, None)) for image in images])


def test_codes_labels_and_names(stores, classes, make):
    store = stores["vq"]
    assert len(store) == 7 and [shard.images for shard in store.shards] == [4, 3]
    assert store.names == ["cat/1.png", "cat/2.png", "cat/4.png", "cat/5.png", "dog/0.png", "dog/3.png", "dog/6.png"]
    assert store.header.classes == ("cat", "dog") and store.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    expected = make("vq").tokenize(to_float(squares(classes)))
    assert expected.unique().numel() > 8
    assert all(np.array_equal(store.codes(i)[0], expected[i]) for i in range(7))
    tokens = np.load(store.folder / "shard-000000.tokens.npy", mmap_mode="r")
    assert tokens.dtype == np.uint16 and tokens.shape == (4, 2, 1, 8, 8)


def test_captions_are_text_beside_the_tokens(classes, make, tmp_path):
    images = sorted(classes.rglob("*.png"))
    rows = [f"{path},{path.parent.name},photo {path.stem}" for path in images]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,remark", *rows]))
    source = open_source([str(tmp_path / "list.csv")], 4, True, {"caption": "remark"})
    tokenize(make("vq"), source, tmp_path / "tokens", FEW)
    store, plain = TokenStore(tmp_path / "tokens"), open_source([str(classes)], 4)
    assert store.captions == [f"photo {path.stem}" for path in images] and store.header.classes == ("cat", "dog")
    tokenize(make("vq"), plain, tmp_path / "plain", FEW)
    without = TokenStore(tmp_path / "plain")
    assert without.captions is None and all(np.array_equal(store.codes(i), without.codes(i)) for i in range(7))
    assert store.labels.tolist() == without.labels.tolist()
    with pytest.raises(ValueError, match="holds another extraction|source"):
        tokenize(make("vq"), plain, tmp_path / "tokens", FEW)
    (tmp_path / "tokens" / "shard-000000.captions.json").write_text('["a"]')
    with pytest.raises(ValueError, match="captions.json does not hold 4 captions"):
        _ = TokenStore(tmp_path / "tokens").captions


def test_a_mirror_image_is_tokenized_not_its_tokens_mirrored(stores, classes, make):
    mirrored = make("vq").tokenize(to_float(squares(classes).flip(-1)))
    found = np.stack([stores["vq"].codes(i)[1] for i in range(7)])
    assert np.array_equal(found, mirrored)
    assert not np.array_equal(found, np.stack([stores["vq"].codes(i)[0] for i in range(7)])[..., ::-1])


def test_ten_crops(classes, make, tmp_path):
    tokenize(
        make("vq"), open_source([str(classes)], 4), tmp_path / "ten", TokenProtocol(SIZE, views="ten", batch_size=3)
    )
    store = TokenStore(tmp_path / "ten")
    assert store.header.ten_crop_size == 35  # int(1.1 * 32)
    for i, image in enumerate(squares(classes, 35)):
        expected = make("vq").tokenize(to_float(torch.stack(ten_crop(image, [SIZE, SIZE]))))
        assert np.array_equal(store.codes(i), expected)


def test_a_dynamic_head_has_the_sequences_that_pack_makes(stores, classes, make):
    from vistok.quantizers.sequences import pack, unpack

    store = stores["dq"]
    quantized = make("dq").quantize(to_float(squares(classes)), 0.5)
    lengths = [len(store.ragged(i).tokens[1]) for i in range(7)]
    assert lengths == [4 * 8] * 7  # half of 16 regions are fine
    found = store.sequences(range(7))
    for own, expected in zip(found.contents + found.positions, sum(pack(quantized, 32), ()), strict=True):
        assert torch.equal(own, expected)
    codes, keep = unpack(found, 32, (8, 8))
    assert all(np.array_equal(store.view(i)[0], codes[i]) for i in range(7))
    assert all(np.array_equal(store.view(i)[1], keep[i]) for i in range(7))


def test_large_vocabularies_have_32_bits(classes, make_tokenizer, tmp_path):
    torch.manual_seed(0)
    for size, dtype in ((2**16, np.uint16), (2**16 + 1, np.uint32)):
        tokenizer = make_tokenizer(codebook_size=size)
        assert isinstance(tokenizer.quantizer, VectorQuantizer)
        tokenize(tokenizer, open_source([str(classes)], 9), tmp_path / str(size), FEW)
        assert TokenStore(tmp_path / str(size)).shards[0].tokens.dtype == dtype


def test_interrupted_it_goes_on_to_the_same_bytes(classes, make, tmp_path, monkeypatch):
    tokenize(make("dq"), open_source([str(classes)], 2), tmp_path / "whole", FEW)
    write, calls = module.write_shard, []

    def fail_at_the_third(*arguments):
        calls.append(arguments[1])
        if len(calls) == 3:
            raise OSError("no space left on device")
        return write(*arguments)

    monkeypatch.setattr(module, "write_shard", fail_at_the_third)
    with pytest.raises(OSError):
        tokenize(make("dq"), open_source([str(classes)], 2), tmp_path / "parts", FEW)
    with pytest.raises(ValueError, match="is not complete"):
        TokenStore(tmp_path / "parts")
    calls.append(None)
    tokenize(make("dq"), open_source([str(classes)], 2), tmp_path / "parts", FEW)
    assert calls == [0, 1, 2, None, 2, 3]  # what was there is not computed again
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_signal_keeps_what_is_finished(classes, make, tmp_path, monkeypatch, capsys, workers):
    save(make("vq"), tmp_path / "tokenizer")
    words = [
        str(tmp_path / "tokenizer"),
        "--images",
        str(classes),
        "--image-size",
        "32",
        "--per-shard",
        "2",
        "--batch-size",
        "3",
    ]
    words += ["--num-workers", str(workers)]
    main([*words, "--out", str(tmp_path / "whole")])
    write, calls = module.write_shard, []

    def interrupted(*arguments):
        calls.append(arguments[1])
        if len(calls) == 3:
            signal.raise_signal(signal.SIGHUP)
        return write(*arguments)

    with monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
        patched.setattr(module, "write_shard", interrupted)
        main([*words, "--out", str(tmp_path / "parts")])
    assert ended.value.code == 128 + signal.SIGHUP
    assert "interrupted by SIGHUP; the same command resumes\n" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "parts").glob("shard-??????.json")) == [
        "shard-000000.json",
        "shard-000001.json",
    ]
    main([*words, "--out", str(tmp_path / "parts")])
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_two_jobs_do_not_write_to_one_folder(classes, make, tmp_path):
    out = tmp_path / "tokens"
    with locks.held(out / locks.NAME, "another job"):
        with pytest.raises(ValueError, match=f"--out={out} is in use by pid {os.getpid()} on .* since 2"):
            tokenize(make("vq"), open_source([str(classes)], 2), out, FEW)
        assert [path.name for path in out.iterdir()] == [locks.NAME]
    tokenize(make("vq"), open_source([str(classes)], 2), tmp_path / "whole", FEW)
    out.mkdir()
    (out / locks.NAME).write_text("{}")  # of a job that was killed
    tokenize(make("vq"), open_source([str(classes)], 2), out, FEW)
    assert contents(out) == contents(tmp_path / "whole")


class Silent(ListedSource):
    """On storage that stops to answer."""

    def members(self, part):
        yield from super().members(part)
        if part == 2:
            time.sleep(600)


def test_silent_storage_is_not_waited_for_without_end(classes, make, tmp_path):
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="DataLoader timed out after 0.5 seconds"):
        tokenize(make("vq"), Silent(open_listing(str(classes), "--images"), 2), tmp_path / "out", FEW, timeout=0.5)
    assert time.monotonic() - began < 60
    assert {"shard-000000.json", "index.json.partial"} <= set(contents(tmp_path / "out"))
    assert loaded(None, 2, False, 7.0).timeout == 7.0  # and so of workers, as tests/commands/test_failures.py has it


def test_a_damaged_shard_is_written_again(classes, make, tmp_path):
    out = tmp_path / "tokens"
    tokenize(make("vq"), open_source([str(classes)], 2), out, FEW)
    before = contents(out)
    damaged = out / "shard-000001.tokens.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(ValueError, match="shard 1 .* is damaged"):
        list(TokenStore(out).verify())
    tokenize(make("vq"), open_source([str(classes)], 2), out, FEW)
    assert contents(out) == before


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_write_what_one_process_writes(classes, make, tmp_path, monkeypatch, ranks):
    tokenize(make("vq"), open_source([str(classes)], 2), tmp_path / "one", FEW)
    finish = module.finish
    for rank in reversed(range(ranks)):  # one after the other, rank 0 last: it writes the index
        monkeypatch.setattr(module, "rank_and_size", lambda rank=rank: (rank, ranks))
        monkeypatch.setattr(module, "begin", index._begin)  # which rank 0 alone does, before the others
        monkeypatch.setattr(module, "finished_shards", lambda out, parts: {})  # all ask at once
        monkeypatch.setattr(module, "finish", finish if rank == 0 else None)
        tokenize(make("vq"), open_source([str(classes)], 2), tmp_path / "several", FEW)
        monkeypatch.undo()
    assert contents(tmp_path / "several") == contents(tmp_path / "one")


@pytest.mark.slow
def test_killed_on_two_processes_it_goes_on_on_one_to_the_same_bytes(python, make, tmp_path):
    images, rng = tmp_path / "images", np.random.default_rng(0)
    images.mkdir()
    for i in range(80):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(images / f"{i:02d}.png")
    save(make("vq"), tmp_path / "tokenizer")
    words = ["-m", "vistok", "tokenize", str(tmp_path / "tokenizer"), "--images", str(images), "--image-size", "64"]
    words += ["--batch-size", "2", "--per-shard", "2", "--num-workers", "1"]
    out = tmp_path / "killed"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [python, *words, "--out", str(out)],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        deadline = time.monotonic() + 240
        while not list(out.glob("shard-*.json")) and time.monotonic() < deadline and not any(p.poll() for p in ranks):
            time.sleep(0.001)
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    assert list(out.glob("shard-*.json")) and not (out / "index.json").exists()
    main([*words[3:], "--out", str(out)])
    main([*words[3:], "--out", str(tmp_path / "whole")])
    assert contents(out) == contents(tmp_path / "whole")


def test_tars_with_labels(classes, make, tmp_path):
    data = {"offsets": [0], "data": b"", "labels": []}
    for label, path in enumerate(sorted(classes.rglob("*.png"))):
        data["data"] += path.read_bytes()
        data["offsets"].append(len(data["data"]))
        data["labels"].append(label % 3)
    np.savez(
        tmp_path / "set.npz",
        data=np.frombuffer(data["data"], np.uint8),
        offsets=np.array(data["offsets"]),
        labels=np.array(data["labels"]),
        classes=np.array(["a", "b", "c"]),
    )
    shards(["--images", str(tmp_path / "set.npz"), "--out", str(tmp_path / "tars"), "--per-shard", "3", "--in-order"])
    source = ShardSource([str(tmp_path / "tars" / "*.tar")])
    tokenize(make("vq"), source, tmp_path / "tokens", FEW, num_workers=2)  # workers change no order
    store = TokenStore(tmp_path / "tokens")
    assert [shard.images for shard in store.shards] == [3, 3, 1]
    assert store.labels.tolist() == [0, 1, 2, 0, 1, 2, 0] and store.header.classes == ("a", "b", "c")
    expected = make("vq").tokenize(to_float(squares(classes)))
    assert all(np.array_equal(store.codes(i)[0], expected[i]) for i in range(7))
    tokenize(make("vq"), open_source([str(tmp_path / "set.npz")], 3), tmp_path / "direct", FEW)
    direct = TokenStore(tmp_path / "direct")
    assert direct.labels.tolist() == store.labels.tolist() and direct.header.classes == ("a", "b", "c")
    assert all(np.array_equal(direct.codes(i)[0], expected[i]) for i in range(7))


def test_unreadable_images_are_left_out_and_named(classes, make, tmp_path):
    root = tmp_path / "images"
    (root / "cat").mkdir(parents=True)
    for path in (classes / "cat").iterdir():
        (root / "cat" / path.name).write_bytes(path.read_bytes())
    (root / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="more than --max-unreadable=0.01"):
        tokenize(make("vq"), open_source([str(root)], 2), tmp_path / "strict", FEW)
    written = tokenize(make("vq"), open_source([str(root)], 2), tmp_path / "lenient", FEW, max_unreadable=0.5)
    assert (written["images"], written["unreadable"]) == (4, 1)
    assert "0.png" in written["shards"][0]["unreadable"][0]
    assert TokenStore(tmp_path / "lenient").names == [f"cat/{i}.png" for i in (1, 2, 4, 5)]


def test_bfloat16_is_asked_for(classes, make, tmp_path):
    protocol = TokenProtocol(SIZE, batch_size=3, dtype="bfloat16")
    written = tokenize(make("vq"), open_source([str(classes)], 9), tmp_path / "half", protocol)
    assert written["dtype"] == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16):
        expected = make("vq").tokenize(to_float(squares(classes)[:3]))
    store = TokenStore(tmp_path / "half")
    assert all(np.array_equal(store.codes(i)[0], expected[i]) for i in range(3))


@pytest.mark.parametrize(
    "words, message",
    [
        (["--image-size", "30"], "image-size=30 is not a multiple of the tokenizer's factor 4"),
        (["--rate", "0.5"], "rate=0.5 must be a share"),
        (["--batch-size", "0"], "^error: --batch-size: must be at least 1, not 0"),
        (["--per-shard", "0"], "^error: --per-shard: must be at least 1, not 0"),
        (["--num-workers", "-1"], "^error: --num-workers: must be at least 0, not -1"),
        (["--timeout", "nan"], "^error: --timeout: must be a number above 0, not nan"),
        (["--family-config", "[1]"], "^error: --family-config: must be names and values in braces"),
        (["--family-config", "[" * 100_000], "^error: --family-config: is not JSON"),
        (["--max-unreadable", "2"], "^error: --max-unreadable: must be a share from 0 to 1"),
        (["--device", "mps"], "^error: device=mps must be cpu or cuda"),
        (["--device", "abc"], "^error: device=abc: "),
        (["--out", "/sys/nothing"], "^error: --out=/sys/nothing: "),
        (["--out", "/etc/passwd/nothing"], "^error: --out=/etc/passwd/nothing: Not a directory"),
    ],
)
def test_wrong_words_end_in_one_line(classes, make, tmp_path, words, message):
    save(make("vq"), tmp_path / "tokenizer")
    command = [str(tmp_path / "tokenizer"), "--images", str(classes), "--out", str(tmp_path / "out")]
    command += ["--image-size", "32", *words]
    with pytest.raises(SystemExit, match=message):
        main(command)
    assert not (tmp_path / "out").exists()


def test_another_extraction_is_not_mixed_in(classes, make, tmp_path):
    out = tmp_path / "tokens"
    tokenize(make("vq"), open_source([str(classes)], 2), out, FEW)
    with pytest.raises(ValueError, match="holds other tokens: views is 'none' there and 'flip' here"):
        tokenize(make("vq"), open_source([str(classes)], 2), out, TokenProtocol(SIZE, batch_size=3, views="flip"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="has other files"):
        tokenize(make("vq"), open_source([str(classes)], 2), tmp_path / "other", FEW)


def test_a_split_must_be_chosen_from(classes, tmp_path):
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
    with pytest.raises(ValueError, match="name one of them"):
        open_source([str(tmp_path)], 5)
    with pytest.raises(ValueError, match="no images found"):
        open_source([str(tmp_path / "train")], 5)
