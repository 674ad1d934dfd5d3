"""Order and distribution of the images in tar shards, and the resumption of a stream."""

import io
import itertools
import json
import os
import signal
import subprocess
import tarfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vistok.data import folder, shards, streams
from vistok.data.batches import Batch, collate
from vistok.data.loaders import loader
from vistok.data.skipped import Skipped
from vistok.data.streams import Place, ShardImages, ShardStream
from vistok.data.tar_samples import images_in
from vistok.data.tars import expand
from vistok.data.transforms import AtLeast, Flip
from vistok.images.crops import CenterCrop, RandomCrop
from vistok.images.rgb import UnreadableImage

ROOT = Path(__file__).parent.parent.parent
BROKEN = b"\x89PNG\r\n\x1a\nbroken"


def png(i, size=8):
    """An image whose colour is its number."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), (0, i // 256, i % 256)).save(file, "PNG")
    return file.getvalue()


def deep(levels):
    """A 16-bit image."""
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), levels, np.uint16)).save(file, "PNG")
    return file.getvalue()


def number(sample):
    return int(sample.image[1, 0, 0]) * 256 + int(sample.image[2, 0, 0])


def write(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def make(root, *sizes, image=png):
    """Shards of so many images each, numbered throughout, with a label beside each."""
    urls, first = [], 0
    for k, size in enumerate(sizes):
        members = [((f"{i:04d}.png", image(i)), (f"{i:04d}.cls", b"7")) for i in range(first, first + size)]
        urls.append(write(root / f"s-{k:03d}.tar", itertools.chain(*members)))
        first += size
    return urls


@pytest.fixture
def first_epochs(monkeypatch):
    """``first_epochs(n, stream, workers, ranks)``: all that any reader yields of them, each with its epoch."""

    def read(epochs, stream, workers, ranks):
        for worker, rank in itertools.product(range(workers), range(ranks)):
            monkeypatch.setattr(streams, "worker_and_count", lambda worker=worker: (worker, workers))
            for sample in stream.at(rank, ranks):
                assert sample.place[0] == worker
                epoch = (worker * ranks + rank + sample.place[1] * workers * ranks) // len(stream.urls)
                if epoch >= epochs:
                    break
                yield epoch, sample

    return read


@pytest.mark.parametrize("sizes, workers, ranks", [
    ((5,), 1, 1),
    ((5, 3, 4), 2, 1),
    ((4, 4), 2, 3),
    ((3,), 3, 2),
    ((1, 2, 3, 4, 5, 6, 7), 2, 2),
])  # fmt: skip
def test_each_epoch_has_every_image_once_whoever_reads(tmp_path, first_epochs, sizes, workers, ranks):
    stream = ShardStream(make(tmp_path, *sizes), [], seed=1, block=2)
    seen = Counter((epoch, number(sample)) for epoch, sample in first_epochs(4, stream, workers, ranks))
    assert seen == Counter(itertools.product(range(4), range(sum(sizes))))


def test_the_order_depends_on_seed_and_epoch(tmp_path):
    urls = make(tmp_path, 6, 6, 6)

    def epochs(seed):
        numbers = [number(sample) for sample in itertools.islice(ShardStream(urls, [], seed, block=4), 36)]
        return numbers[:18], numbers[18:]

    assert epochs(3) == epochs(3) and epochs(3)[0] != epochs(4)[0]
    assert epochs(3)[0] != epochs(3)[1] and sorted(epochs(3)[0]) == sorted(epochs(3)[1]) == list(range(18))
    for i in (0, 6, 12):  # no image leaves its block of four
        assert sorted(n % 6 for n in epochs(3)[0][i : i + 4]) == [0, 1, 2, 3]


def stripes(i):
    file = io.BytesIO()
    image = Image.new("RGB", (16, 16), (0, i // 256, i % 256))
    image.putdata([(x * 16 + y, i // 256, i % 256) for y in range(16) for x in range(16)])
    image.save(file, "PNG")
    return file.getvalue()


def test_augmentation_is_the_same_for_any_worker_and_rank(tmp_path, first_epochs):
    stream = ShardStream(make(tmp_path, 5, 5, 5, image=stripes), [RandomCrop(8), Flip()], block=3)
    one, *others = (
        {(epoch, sample.name): sample.image for epoch, sample in first_epochs(2, stream, workers, ranks)}
        for workers, ranks in ((1, 1), (2, 1), (2, 3))
    )
    assert len(one) == 30 and all(other.keys() == one.keys() for other in others)
    for key, image in one.items():
        assert all(torch.equal(other[key], image) for other in others)
    assert any(not torch.equal(one[0, name], one[1, name]) for _, name in one)


class OneOfSeveral(SimpleNamespace):
    """As much of a trainer as a data module asks for."""

    def __init__(self, batches=0, rank=0, world_size=1):
        super().__init__(
            training=True, global_rank=rank, world_size=world_size, accelerator=None,
            lightning_module=SimpleNamespace(batches=batches),
        )  # fmt: skip


def module(root, trainer=None, **arguments):
    data = shards(f"{root}/s-*.tar", f"{root}/s-000.tar", **{"image_size": 8, "batch_size": 3} | arguments)
    data.trainer = trainer or OneOfSeveral()
    return data


@pytest.mark.parametrize("num_workers, cuts", [(0, range(1, 14)), (2, (1, 2, 5, 8))])
def test_resumed_anywhere_it_goes_on_as_without_a_break(tmp_path, num_workers, cuts):
    """Blocks, shards and epochs end in the middle of batches; batches are read ahead."""
    make(tmp_path, 7, 4, 9, image=stripes)
    write(tmp_path / "s-003.tar", [("a.png", stripes(90)), ("b.png", BROKEN), ("c.png", stripes(91))])
    arguments = {"num_workers": num_workers, "block": 4, "flip": True, "max_unreadable": 1.0}
    whole = module(tmp_path, **arguments)
    expected = list(itertools.islice(whole.train_dataloader(), 20))
    states = []
    for n, batch in enumerate(expected, 1):
        whole.on_after_batch_transfer(batch, 0)
        whole.trainer.lightning_module.batches = n
        states.append(whole.state_dict())
    assert any(batch.skipped for batch in expected)
    for cut in cuts:
        resumed = module(tmp_path, OneOfSeveral(cut), **arguments)
        resumed.load_state_dict(states[cut - 1])
        assert resumed.state_dict() == states[cut - 1]
        for theirs, ours in zip(expected[cut:], resumed.train_dataloader(), strict=False):
            assert ours.names == theirs.names and torch.equal(ours.images, theirs.images)
            assert ours.place == theirs.place and ours.skipped == theirs.skipped


def test_what_cannot_be_gone_on_with_exactly_is_refused(tmp_path):
    make(tmp_path, 4, 4)
    state = module(tmp_path, num_workers=2).state_dict()
    assert state["places"] == [[[0, 0], [0, 0]]]
    with pytest.raises(ValueError, match="processes=1 data.num_workers=2, .* not with processes=1 data.num_workers=3"):
        module(tmp_path, num_workers=3).load_state_dict(state)
    with pytest.raises(ValueError, match="processes=1 data.num_workers=2, .* not with processes=2 data.num_workers=2"):
        module(tmp_path, OneOfSeveral(world_size=2), num_workers=2).load_state_dict(state)
    for arguments in ({"seed": 1}, {"block": 7}):
        with pytest.raises(ValueError, match="on other data.urls, or with another data.seed or data.block"):
            module(tmp_path, num_workers=2, **arguments).load_state_dict(state)
    with pytest.raises(ValueError, match="run.resume= is of a run on other data"):
        module(tmp_path, OneOfSeveral(batches=5)).train_dataloader()  # of a folder: its state was not handed over


def test_each_process_goes_on_at_its_own_places(tmp_path):
    make(tmp_path, 4, 4)
    state = module(tmp_path).state_dict() | {"batches": 2, "places": [[[0, 3]], [[1, 2]]]}
    data = module(tmp_path, OneOfSeveral(2, rank=1, world_size=2))
    data.load_state_dict(state)
    assert data.places == [Place(1, 2)]


@pytest.mark.parametrize("world_size, num_workers", itertools.product((1, 2, 3), (0, 2)))
def test_evaluation_sees_each_image_once(tmp_path, world_size, num_workers):
    data = ShardImages(make(tmp_path, 5, 1, 8), [CenterCrop(8)])
    batches = [b for rank in range(world_size) for b in loader(data.at(rank, world_size), 2, num_workers, None)]
    names = sorted(name for batch in batches for name in batch.names)
    assert names == [f"s-{k:03d}.tar:{i:04d}.png" for k, r in enumerate([(0, 5), (5, 6), (6, 14)]) for i in range(*r)]


def test_a_broken_image_is_passed_over_and_named(tmp_path):
    url = write(tmp_path / "s-000.tar", [("a.png", png(1)), ("sub/b.PNG", BROKEN), ("c.png", png(2))])
    stream = itertools.islice(ShardStream([url], [], block=1), 4)
    a, c, again, _ = stream
    assert [number(sample) for sample in (a, c, again)] == [1, 2, 1]
    assert c.skipped == (f"{url}:sub/b.PNG: UnidentifiedImageError: cannot identify image file",)
    assert (a.place, c.place, again.place) == ((0, 0, 1), (0, 0, 3), (0, 1, 1)) and not a.skipped
    held_out = list(ShardImages([url], []))
    assert [sample.image is None for sample in held_out] == [False, True, False]
    assert held_out[1].name == "s-000.tar:sub/b.PNG" and held_out[1].skipped == c.skipped


def header_of(path, name):
    with tarfile.open(path) as archive:
        return archive.getmember(name).offset


@pytest.mark.parametrize("where", ["in an image", "in a header", "between two"])
def test_a_shard_that_is_cut_short_is_named_and_read_as_far_as_it_goes(tmp_path, where):
    urls = make(tmp_path, 6, 2)
    path = tmp_path / "s-000.tar"
    end = header_of(path, "0004.png") + {"in an image": 512 + 20, "in a header": 100, "between two": 0}[where]
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(UnreadableImage, match=r"s-000.tar: ReadError: "):
        list(images_in(urls[0]))
    held_out = list(ShardImages(urls, []))
    assert [number(sample) for sample in held_out if sample.image is not None] == [0, 1, 2, 3, 6, 7]
    (reason,) = [reason for sample in held_out for reason in sample.skipped]
    assert reason.startswith(f"{path}: ReadError: ")
    two_epochs = list(itertools.islice(ShardStream(urls, [], block=3), 12))
    assert Counter(number(sample) for sample in two_epochs) == Counter([0, 1, 2, 3, 6, 7] * 2)
    assert {reason for sample in two_epochs for reason in sample.skipped} <= {reason}


def test_shards_that_vanish_are_passed_over_until_there_is_none(tmp_path):
    urls = make(tmp_path, 2, 2)
    (tmp_path / "s-001.tar").unlink()
    samples = list(itertools.islice(ShardStream(urls, []), 6))
    assert Counter(number(sample) for sample in samples) == {0: 3, 1: 3}
    assert any("s-001.tar: FileNotFoundError" in reason for sample in samples for reason in sample.skipped)
    (tmp_path / "s-000.tar").unlink()
    with pytest.raises(UnreadableImage, match="2 shards in a row have no readable image; the last is .*s-00"):
        next(iter(ShardStream(urls, [])))


def test_no_images_at_all(tmp_path):
    url = write(tmp_path / "a.tar", [("a.txt", b"text"), ("b.seg.json", b"{}"), ("__meta__", b"")])
    with pytest.raises(UnreadableImage, match="1 shards in a row have no readable image$"):
        next(iter(ShardStream([url], [])))
    url = write(tmp_path / "b.tar", [(f"{i}.png", BROKEN) for i in range(101)])
    with pytest.raises(UnreadableImage, match="100 images in a row cannot be read"):
        next(iter(ShardStream([url, url], [])))


def test_of_each_key_the_first_image_counts(tmp_path):
    """Images beside it are counted, whether before or after it; so are labels that follow no image."""
    members = [("a.jpg", png(1)), ("a.png", png(2)), ("b.json", b"{}"), ("b.png", png(3)), ("d/a.webp", png(4))]
    members += [("e.mask.png", png(5)), ("e.png", png(6)), ("e.cls", b"7"), ("a.cls", b"8")]
    url = write(tmp_path / "a.tar", members)
    assert [(image.name, image.label, image.passed_over) for image in images_in(url)] == [
        ("a.jpg", None, ("a.png",)), ("b.png", None, ()), ("d/a.webp", None, ()), ("e.png", b"7", ("e.mask.png",)),
        ("", None, ("a.cls",)),
    ]  # fmt: skip
    held_out = ShardImages([url], [])
    assert [sample.image is None for sample in held_out] == [False] * 4 + [True]
    assert held_out.names() == ["a.tar:a.jpg", "a.tar:b.png", "a.tar:d/a.webp", "a.tar:e.png"]
    batch = collate(list(held_out))
    assert len(batch.images) == 4 and not batch.skipped
    assert list(batch.passed_over) == ["a.tar:a.png", "a.tar:e.mask.png", "a.tar:a.cls"]
    endless = list(itertools.islice(ShardStream([url], []), 8))
    assert sum(len(sample.passed_over) for sample in endless) in (5, 6)  # the label of the second epoch may come later
    assert all(sample.image is not None for sample in endless)


@pytest.mark.parametrize("count", [2, 40])
def test_dots_in_the_names_of_images(tmp_path, count):
    """However many there are; each has its own label, beside names without dots."""
    members = [(f"22.{i:02d}.{kind}", png(i) if kind == "png" else b"%d" % i) for i in range(count)
               for kind in ("png", "cls")]  # fmt: skip
    members += [("v1.2/x1.png", png(1)), ("v1.2/x1.cls", b"9"), ("v1.2/x.y.png", png(2))]
    url = write(tmp_path / "a.tar", members)
    read = list(images_in(url))
    names = [f"22.{i:02d}.png" for i in range(count)] + ["v1.2/x1.png", "v1.2/x.y.png"]
    assert [image.name for image in read] == names and not any(image.passed_over for image in read)
    assert [image.label for image in read] == [b"%d" % i for i in range(count)] + [b"9", None]
    assert ShardImages([url], []).names() == [f"a.tar:{name}" for name in names]


def test_urls(tmp_path):
    first, second = make(tmp_path, 3, 2)
    assert expand(f"{tmp_path}/s-{{000..001}}.tar", "data.urls") == [first, second]
    assert expand(f"{tmp_path}/*.tar", "data.urls") == [first, second]
    assert expand([first, f"file:{second}"], "data.urls") == [first, second]
    assert expand("https://host/s-{0..2}.tar", "u") == [f"https://host/s-{i}.tar" for i in range(3)]
    piped = expand(f"pipe:cat {tmp_path}/s-{{000..001}}.tar", "data.urls")
    assert [sample.name for sample in ShardImages(piped, [])] == [f"s-{k}:{i:04d}.png" for k, i in (
        ("000.tar", 0), ("000.tar", 1), ("000.tar", 2), ("001.tar", 3), ("001.tar", 4),
    )]  # fmt: skip
    compressed = expand(f"pipe:gzip -c {first}", "data.urls")
    assert [number(sample) for sample in ShardImages(compressed, [])] == [0, 1, 2]


def test_a_command_that_fails(tmp_path):
    (url,) = make(tmp_path, 3)
    assert "exit 7" in list(ShardImages(expand(f"pipe:cat {url}; exit 7", "u"), []))[-1].skipped[0]
    stream = iter(ShardStream(expand(f"pipe:cat {url} {url}", "u"), [], block=1))
    next(stream)
    stream.close()  # while the command still has something to say


@pytest.mark.parametrize("urls, message", [
    ("nowhere.tar", "data.urls: there is no shard nowhere.tar"),
    ("none-*.tar", "data.urls: there is no shard none-\\*.tar"),
    ([], r"data.urls=\[\] names no shard"),
    ("", "data.urls= names no shard"),
    ("s-{00..tar", "data.urls=s-{00..tar: "),
    ("${UNSET}.tar", "missing environment variable"),
    ("s3://bucket/a.tar", "s3://bucket/a.tar cannot be opened; 'pipe:COMMAND'"),
    ("/", r"/ is a folder; .*/\*.tar are the shards in it"),
])  # fmt: skip
def test_urls_that_name_nothing(urls, message):
    with pytest.raises(ValueError, match=message):
        expand(urls, "data.urls")


@pytest.mark.parametrize("arguments, message", [
    ({"block": 0}, "data.block must be at least 1, not 0"),
    ({"crop": "five"}, "data.crop must be one of random, adm, center, not 'five'"),
    ({"resize": 4}, "data.resize=4 is smaller than the crop of 8"),
    ({"max_unreadable": 2}, "max_unreadable must be a share in"),
])  # fmt: skip
def test_arguments_that_make_no_sense(tmp_path, arguments, message):
    make(tmp_path, 2)
    with pytest.raises(ValueError, match=message):
        module(tmp_path, **arguments)


def test_without_training_shards_it_evaluates_only(tmp_path):
    (url,) = make(tmp_path, 5)
    data = shards(None, url, image_size=8, batch_size=4)
    assert [len(batch.images) for batch in data.test_dataloader()] == [4, 1] and data.about == url
    with pytest.raises(ValueError, match="data.urls=null: there are no shards to train on"):
        data.sizes  # noqa: B018
    assert module(tmp_path).sizes == "1 shard to train on, 1 held out"


def test_an_image_too_small_for_its_crop_is_unreadable(tmp_path):
    url = write(tmp_path / "s-000.tar", [("a.png", png(1)), ("b.png", png(2, size=7))])
    (a, b) = ShardImages([url], [AtLeast(8), CenterCrop(8)])
    assert a.image is not None and b.image is None
    assert "b.png: it has 7x7 pixels, smaller than the crop of 8" in b.skipped[0]
    assert "b.png: it has 7x7" in list(module(tmp_path, resize=0).test_dataloader())[0].skipped[0]


def test_the_limit_holds_for_what_came_by(capsys):
    skipped = Skipped(0.05)
    images = torch.zeros(10, 3, 1, 1, dtype=torch.uint8)
    for i in range(9):
        skipped.note(Batch(images, skipped=[f"{i % 5}.png: broken"]), None)  # 9 of 99: not enough to tell
    with pytest.raises(UnreadableImage, match=r"(?s)10 of 110 images cannot be read, more than .*=0.05.*0.png: broken"):
        skipped.note(Batch(images, skipped=["0.png: broken"]), None)
    assert capsys.readouterr().out.count("skipped: ") == 5


def test_a_pass_over_a_small_set_is_judged_when_it_is_over():
    skipped = Skipped(0.05, what="validation images")
    images = torch.zeros(10, 3, 1, 1, dtype=torch.uint8)
    for reasons in ([], [], ["0.png: broken"]):
        skipped.note(Batch(images, skipped=reasons), None)
    skipped.end_pass()  # 1 of 31
    skipped.end_pass()
    skipped.note(Batch(images, skipped=["0.png: broken"]), None)
    with pytest.raises(UnreadableImage, match="1 of 11 validation images cannot be read"):
        skipped.end_pass()


def test_shards_have_what_folders_have(tmp_path, photos):
    """Attributes of both data modules that commands, callbacks and reports use."""
    make(tmp_path, 2)
    for data in (module(tmp_path), folder(str(photos), 8, 2)):
        for name in ("image_size", "about", "names", "unreadable", "sizes", "num_test", "note", "train_dataloader"):
            assert getattr(data, name) is not None or name == "num_test"


def noise(i):
    file = io.BytesIO()
    pixels = np.random.default_rng(i).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_run_ends_as_one_without_a_break(train, tmp_path, num_workers):
    make(tmp_path, 7, 4, 9, image=noise)
    words = ["data=shards", f"data.urls='{tmp_path}/s-{{000..001}}.tar'", f"data.val_urls={tmp_path}/s-*2.tar"]
    words += [f"data.num_workers={num_workers}", "data.block=4", "data.flip=true", "data.batch_size=3"]
    words += ["loss=l1", "schedule=constant", "optim.ema_decay=0.9", "log.val_every=1"]
    whole = train(tmp_path / "whole", *words, "optim.updates=7")
    part = train(tmp_path / "part", *words, "optim.updates=3")
    train(part, *words, "optim.updates=5", "run.resume=auto")
    train(part, *words, "optim.updates=7", "run.resume=auto")
    ours, theirs = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (part, whole))
    assert ours["updates"] == theirs["updates"] == 7 and ours["ShardDataModule"] == theirs["ShardDataModule"]
    for name, tensor in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], tensor), name
    report = json.loads((part / "metrics.json").read_text())
    assert report["metrics"]["images"] == 9 and (part / "reconstructions.png").is_file()


def test_a_run_on_other_data_is_not_gone_on_with(train, trained, tmp_path):
    (url,) = make(tmp_path, 9, image=noise)
    words = ["data=shards", f"data.urls={url}", f"data.val_urls={url}", "data.num_workers=0"]
    with pytest.raises(ValueError, match="run.resume= is of a run on other data"):
        train(tmp_path / "run", *words, "optim.updates=4", f"run.resume={trained}/checkpoints/last.ckpt")
    on_shards = train(tmp_path / "shards", *words, "loss=l1", "optim.updates=1", "log.val_every=1")
    with pytest.raises(ValueError, match="run.resume= is of a run on shards"):
        train(tmp_path / "back", "loss=l1", "optim.updates=4", f"run.resume={on_shards}/checkpoints/last.ckpt")
    with pytest.raises(ValueError, match="data.urls=null: there are no shards to train on"):
        train(tmp_path / "other", words[0], *words[2:])
    assert not (tmp_path / "other").exists()


def start(python, run, *words):
    """``train.py`` in two processes."""
    words = ["trainer=debug", "trainer.devices=2", "trainer.strategy=ddp_find_unused_parameters_true", *words]
    words += [
        "backbone=cnn_f8_small",
        "backbone.encoder.channels=8",
        "model.codebook_size=16",
        "model.latent_dim=4",
        "data.image_size=32",
        f"run.dir={run}",
    ]
    return subprocess.Popen(
        [python, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "train.py", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_two_processes_killed_and_started_again_end_as_if_never_killed(python, processes_with, tmp_path):
    """With fewer shards than workers, one of them damaged."""
    make(tmp_path, 7, 4, 9, image=noise)
    (tmp_path / "s-001.tar").write_bytes((tmp_path / "s-001.tar").read_bytes()[:-11_000])
    words = ["data=shards", f"data.urls={tmp_path}/s-*.tar", f"data.val_urls={tmp_path}/s-*2.tar", "run.resume=auto"]
    words += ["data.block=4", "data.flip=true", "data.batch_size=3", "data.max_unreadable=0.5", "loss=l1"]
    words += ["schedule=constant", "optim.updates=100", "log.val_every=100", "log.save_every=4"]
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    killed = start(python, tmp_path / "killed", *words)
    while not last.exists() and killed.poll() is None:
        time.sleep(0.01)
    time.sleep(0.1)
    ranks = set(processes_with(["train.py", f"run.dir={tmp_path}/killed"])) - {killed.pid}
    for group in (killed.pid, *ranks):  # torchrun gives each rank a session of its own
        os.killpg(group, signal.SIGKILL)
    output, _ = killed.communicate(timeout=60)
    assert len(ranks) == 2, output
    assert 4 <= torch.load(last, weights_only=True)["updates"] < 100
    for run in ("killed", "whole"):
        process = start(python, tmp_path / run, *words)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    assert "s-001.tar: ReadError" in output
    ours, theirs = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("killed", "whole")
    )
    assert ours["updates"] == theirs["updates"] == 100 and ours["ShardDataModule"] == theirs["ShardDataModule"]
    assert len(theirs["ShardDataModule"]["places"]) == len(theirs["ShardDataModule"]["places"][0]) == 2
    for name, tensor in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], tensor), name


@pytest.mark.parametrize("image, given, notes", [
    (lambda i: deep(400 * i), None, ["warning: the first images are 16-bit and use 4% of their range"]),
    (lambda i: deep(8000 * i), None, []),
    (lambda i: deep(400 * i), [0, 3200], []),
    (png, None, []),
    (lambda i: BROKEN, None, []),
])  # fmt: skip
def test_a_warning_of_deep_images_that_are_nearly_black(tmp_path, image, given, notes):
    urls = make(tmp_path, 9, image=image)
    for train in (urls, None):
        found = shards(train, urls, 8, 2, range=given).notes
        assert [note.partition(", values up to 2,800: ")[0] for note in found] == notes
