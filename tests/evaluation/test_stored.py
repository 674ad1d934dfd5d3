"""``eval.py reconstructions=...``: images that a model wrote are scored like those of a tokenizer."""

import io
import json
import re
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vistok
from vistok.data import folder
from vistok.evaluation import evaluate as evaluation_evaluate
from vistok.evaluation.preparation import Preparation
from vistok.evaluation.stored import StoredReconstructions
from vistok.images.ranges import to_float, to_nearest_float, to_uint8

QUICK = ["metrics.lpips=null", "feature_network=none", "data.image_size=32", "data.num_workers=0", "data.batch_size=5"]


def evaluate(compose, out: Path, *overrides: str) -> dict:
    return evaluation_evaluate.evaluate(compose("eval", f"run.out={out}", *QUICK, *overrides))


@pytest.fixture(scope="module")
def reconstructed(trained, tmp_path_factory):
    """A folder of images of several sizes, and by name what a tokenizer makes of their crops: (32, 32, 3) uint8."""
    root = tmp_path_factory.mktemp("images")
    (root / "more").mkdir()
    rng = np.random.default_rng(0)
    for i in range(7):
        height, width = (40, 56) if i % 2 else (64, 48)
        pixels = np.kron(rng.integers(0, 256, (height // 8, width // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(root / (f"more/{i}.jpg" if i % 3 == 0 else f"{i}.png"))
    tokenizer, found = vistok.load(trained), {}
    data = folder(str(root), image_size=32, batch_size=1)
    for i, name in enumerate(data.test.names()):
        levels = to_uint8(tokenizer.reconstruct(to_float(data.test[0, i].image[None]))[0])[0]
        found[name] = levels.permute(1, 2, 0).numpy()
    return root, found


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def stem(name: str) -> str:
    return name.rpartition(".")[0]


def write_folder(path: Path, found: dict[str, np.ndarray], extension: str = ".png") -> Path:
    for name, pixels in found.items():
        file = path / f"{stem(name)}{extension}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return path


def write(kind: str, path: Path, found: dict[str, np.ndarray]) -> Path:
    if kind == "folder":
        return write_folder(path / "written", found)
    if kind == "tar":
        with tarfile.open(path / "written.tar", "w") as archive:
            for name, pixels in reversed(found.items()):
                member, data = tarfile.TarInfo(f"./out/{stem(name)}.png"), png(pixels)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return path / "written.tar"
    file = path / "written.npz"
    if kind == "ordered":  # ADM's
        np.savez(file, np.stack([found[name] for name in sorted(found)]), np.zeros(len(found), np.int64))
    elif kind == "compressed":
        np.savez_compressed(file, np.stack([found[name] for name in sorted(found)]))
    else:
        np.savez(file, **{stem(name): pixels for name, pixels in found.items()})
    return file


KINDS = ["folder", "tar", "ordered", "compressed", "named"]


@pytest.mark.parametrize("kind", KINDS)
def test_they_score_what_the_tokenizer_does(compose, trained, reconstructed, tmp_path, kind):
    root, found = reconstructed
    written = write(kind, tmp_path, found)
    given = [f"tokenizer={trained}", f"reconstructions={written}", f"data.root={root}"]
    report = evaluate(compose, tmp_path / "report.json", *given)
    ours, theirs = (score["metrics"] for score in report["scores"])
    assert [score["tokenizer"] for score in report["scores"]] == [str(trained), str(written)]
    assert theirs.keys() == {"psnr", "ssim_gauss11", "ssim_skimage7", "l1", "images"}  # nothing of codes
    assert theirs == {name: pytest.approx(ours[name], abs=1e-6) for name in theirs}
    about = report["tokenizers"][1]
    assert len(about["sha256"]) == 64 and about["reconstructions"] in ("folder", "tar", "npz")
    values = np.load(tmp_path / "report.npz")
    assert np.array_equal(values["0/canonical/psnr"], values["1/canonical/psnr"])
    assert "0/adm/tokens" in values.files and not {"1/adm/tokens", "1/adm/counts/0"} & set(values.files)
    page = (tmp_path / "report.html").read_text()
    assert str(written) in page and not re.search(r"[ >,]nan\b", page)
    assert "NaN" not in (tmp_path / "report.json").read_text()


def test_several_without_a_tokenizer(compose, reconstructed, tmp_path, capsys):
    root, found = reconstructed
    one = write_folder(tmp_path / "one", found)
    data = folder(str(root), image_size=32, batch_size=1)
    crops = {name: data.test[0, i].image.permute(1, 2, 0).numpy() for i, name in enumerate(data.test.names())}
    two = write_folder(tmp_path / "two", crops)
    given = [f"reconstructions=[{one},{two}]", f"data.root={root}", "protocol=[canonical,ibq]", "run.partial_every=0"]
    report = evaluate(compose, tmp_path / "report.json", *given)
    psnr = [score["metrics"]["psnr"] for score in report["scores"]]
    assert len(psnr) == 4 and max(psnr[:2]) < 30 < psnr[3] < psnr[2] == 100  # OpenCV's crop is another one
    assert report["tokenizers"][0]["sha256"] != report["tokenizers"][1]["sha256"]
    printed = capsys.readouterr().out
    assert (
        "two" in printed
        and "those of 32x32 pixels, if there are any, are compared with the adm, opencv_stored crops" in printed
    )
    assert "<h2>Codes</h2>" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("protocol", ["canonical", "titok", "fvq", "native"])
def test_those_of_the_full_size_are_cropped_like_the_images(compose, reconstructed, tmp_path, protocol):
    """Copies of the images have no error, whatever the crop."""
    root, found = reconstructed
    copies = {name: np.array(Image.open(root / name)) for name in found}
    written = write_folder(tmp_path / "copies", copies)
    given = [f"reconstructions={written}", f"data.root={root}", f"protocol={protocol}"]
    given.append(f"protocol.{protocol}.distances=[psnr,l1]")
    (score,) = evaluate(compose, tmp_path / "report.json", *given)["scores"]
    assert (score["metrics"]["psnr"], score["metrics"]["l1"]) == (100, 0)


def test_levels_are_not_rounded_again(compose, reconstructed, tmp_path):
    """What an evaluator truncated and wrote is compared as it is written, with the images that it truncated."""
    root, found = reconstructed
    copies = write_folder(tmp_path / "copies", {name: np.array(Image.open(root / name)) for name in found})
    given = [f"reconstructions={copies}", f"data.root={root}", "protocol=ibq", "protocol.ibq.distances=[psnr]"]
    evaluate(compose, tmp_path / "report.json", *given)
    values = np.load(tmp_path / "report.npz")["0/ibq/psnr"]
    data, preparation = folder(str(root), image_size=32, batch_size=7), Preparation("opencv", "stored")
    (batch,) = data.scored_batches(preparation.transforms(32), stored=True)
    truncated = ((to_nearest_float(batch.images) + 1) / 2 * 255).to(torch.uint8)
    errors = (truncated.double() - batch.images).square().mean((1, 2, 3))
    assert 0 < errors.max() < 1 and batch.names == sorted(batch.names)
    expected = (20 * np.log10(255) - 10 * errors.log10()).clamp(max=100).tolist()
    assert values.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_validation_split_and_shards(compose, reconstructed, tmp_path):
    """Names are the same but for the folder of the split, or for the shard."""
    root, found = reconstructed
    written = write_folder(tmp_path / "written", found)
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "val").symlink_to(root)
    Image.new("RGB", (32, 32)).save(tmp_path / "data" / "train" / "a.png")
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        for name in found:
            archive.add(root / name, name)
    sources = [[f"data.root={tmp_path}/data"], ["data=shards", f"data.val_urls={tmp_path}/images.tar"]]
    scores = [
        evaluate(compose, tmp_path / f"{i}.json", f"reconstructions={written}", *source)["scores"][0]["metrics"]
        for i, source in enumerate(sources)
    ]
    assert scores[0] == pytest.approx(scores[1]) and scores[0]["images"] == 7 and scores[0]["psnr"] < 100
    (written / "extra.png").write_bytes((written / "1.png").read_bytes())
    with pytest.raises(ValueError, match="1 reconstructions belong to no image: extra.png"):
        evaluate(compose, tmp_path / "more.json", f"reconstructions={written}", *sources[1])
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as archive:
        archive.add(root / "1.png", "1.png")
    with pytest.raises(ValueError, match="needs images whose names are known in advance"):
        source = ["data=shards", f"data.val_urls={tmp_path}/images.tar.gz"]
        evaluate(compose, tmp_path / "more.json", f"reconstructions={written}", *source)


def test_lossy_files_are_warned_of(compose, reconstructed, tmp_path, capsys):
    root, found = reconstructed
    written = write_folder(tmp_path / "written", found, ".jpg")
    given = [f"reconstructions={written}", f"data.root={root}"]
    report = evaluate(compose, tmp_path / "report.json", *given)
    warning = f"reconstructions={written}: 7 of 7 files are JPEG: the numbers contain JPEG's loss"
    assert report["warnings"] == [warning]
    printed = capsys.readouterr().out
    assert printed.index(f"warning: {warning}") < printed.index("psnr")  # before the work
    assert "files are JPEG: the numbers contain" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("break_it, message", [
    (lambda path: (path / "1.png").unlink(), "1 of 7 images have no reconstruction: 1.png"),
    (lambda path: Image.new("RGB", (33, 32)).save(path / "2.png"),
     "the reconstruction of 2.png has 32x33 pixels (height x width), not 32x32 or 64x48"),
    (lambda path: (path / "1.png").write_bytes(b"none"), "the reconstruction of 1.png cannot be read: Unidentified"),
])  # fmt: skip
def test_what_does_not_fit(compose, reconstructed, tmp_path, break_it, message):
    root, found = reconstructed
    written = write_folder(tmp_path / "written", found)
    break_it(written)
    with pytest.raises(ValueError) as error:
        evaluate(compose, tmp_path / "report.json", f"reconstructions={written}", f"data.root={root}")
    assert message in str(error.value) and str(written) in str(error.value)
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("array, message", [
    (np.zeros((6, 32, 32, 3), np.uint8), "has 6 images without names, but there are 7"),
    (np.zeros((7, 32, 32, 3), np.float32), "arr_0 is float32 (7, 32, 32, 3), not uint8"),
    (np.zeros((7, 3, 32, 32), np.uint8), "arr_0 is uint8 (7, 3, 32, 32), not uint8 (n, h, w, 3)"),
])  # fmt: skip
def test_arrays_of_another_form(compose, reconstructed, tmp_path, array, message):
    np.savez(tmp_path / "written.npz", array)
    given = [f"reconstructions={tmp_path}/written.npz", f"data.root={reconstructed[0]}"]
    with pytest.raises(ValueError) as error:
        evaluate(compose, tmp_path / "report.json", *given)
    assert message in str(error.value)


def test_paths_are_checked_first(compose, tmp_path):
    with pytest.raises(ValueError, match="^reconstructions=/nowhere does not exist$"):
        evaluate(compose, tmp_path / "report.json", "reconstructions=/nowhere", "data.root=/neither")
    with pytest.raises(ValueError, match=r"^missing on the command line: tokenizer=\.\.\.$"):
        evaluate(compose, tmp_path / "report.json", "data.root=/neither")
    with pytest.raises(ValueError, match=r"^reconstructions=\[1\] must be text or a list, each text$"):
        evaluate(compose, tmp_path / "report.json", "reconstructions=[1]", "data.root=/neither")
    (tmp_path / "a.txt").write_text("no tar")
    with pytest.raises(ValueError, match="a.txt is neither a folder, a tar nor an .npz file"):
        evaluate(compose, tmp_path / "report.json", f"reconstructions={tmp_path}/a.txt", "data=sample")


def test_unreadable_images_are_left_out_on_both_sides(compose, reconstructed, tmp_path):
    root, found = reconstructed
    written = write_folder(tmp_path / "written", found)
    (tmp_path / "images").symlink_to(root)
    given = [f"reconstructions={written}", "data.max_unreadable=0.5"]
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in found:
        (broken / name).parent.mkdir(exist_ok=True)
        (broken / name).write_bytes((root / name).read_bytes())
    (broken / "1.png").write_bytes(b"no image")
    whole = evaluate(compose, tmp_path / "whole.json", *given, f"data.root={root}")
    report = evaluate(compose, tmp_path / "report.json", *given, f"data.root={broken}")
    assert report["data"]["images"] == 6 and len(report["data"]["unreadable"]) == 1
    names = sorted(found)
    values = [np.load(tmp_path / f"{name}.npz")["0/canonical/psnr"] for name in ("whole", "report")]
    assert np.array_equal(np.delete(values[0], names.index("1.png")), values[1])
    assert whole["scores"][0]["metrics"]["psnr"] != report["scores"][0]["metrics"]["psnr"]


def test_an_interrupted_evaluation_goes_on(compose, reconstructed, tmp_path, monkeypatch):
    """After the same batches; others written under the same names are not mixed in."""
    root, found = reconstructed
    written = write_folder(tmp_path / "written", found)
    given = [f"reconstructions={written}", f"data.root={root}", "data.batch_size=2"]
    whole = evaluate(compose, tmp_path / "whole.json", *given)
    read, counted = StoredReconstructions.read, []

    def interrupted(self, *arguments):
        counted.append(1)
        if len(counted) == 3:
            signal.raise_signal(signal.SIGTERM)
        return read(self, *arguments)

    monkeypatch.setattr(StoredReconstructions, "read", interrupted)
    from vistok.commands import failures

    with pytest.raises(SystemExit):
        failures.guard(evaluate, compose, tmp_path / "report.json", *given, again="")
    assert len(counted) == 4  # the batch was finished
    resumed = evaluate(compose, tmp_path / "report.json", *given)
    assert len(counted) == 7 and resumed["scores"] == whole["scores"]

    counted.clear()
    with pytest.raises(SystemExit):
        failures.guard(evaluate, compose, tmp_path / "other.json", *given, again="")
    Image.fromarray(255 - found["1.png"]).save(written / "1.png")
    changed = evaluate(compose, tmp_path / "other.json", *given)
    assert len(counted) == 4 + 7 and changed["scores"] != whole["scores"]
    assert json.loads((tmp_path / "other.json").read_text())["data"] == whole["data"]


def test_levels_become_floats_without_loss(reconstructed, tmp_path):
    root, found = reconstructed
    data = folder(str(root), image_size=32, batch_size=7)
    source = StoredReconstructions(str(write_folder(tmp_path / "written", found)), data)
    from vistok.evaluation.reconstructions import reading_of

    reading = reading_of(Preparation("adm"), data)
    (batch,) = data.scored_batches(reading.preparation.transforms(reading.image_size))
    images, emitted, levels = source.of(batch, batch.images, reading)
    expected = torch.stack([torch.from_numpy(found[name]).permute(2, 0, 1) for name in batch.names])
    assert emitted is None and torch.equal(images, to_nearest_float(expected))
    assert torch.equal(to_uint8(images), expected) and torch.equal(levels, expected)
