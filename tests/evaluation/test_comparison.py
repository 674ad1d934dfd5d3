"""Comparison of evaluations: ``eval.py`` with two tokenizers, and ``python -m vistok compare`` of files."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vistok
from vistok import __main__ as program
from vistok.evaluation import compare
from vistok.evaluation import evaluate as evaluation_evaluate
from vistok.evaluation.intervals import bootstrap, jackknife
from vistok.evaluation.networks import ScoringNetworks
from vistok.evaluation.report import differences, rate_plot
from vistok.formats.native import save
from vistok.metrics.feature_networks import FeatureNetwork
from vistok.metrics.units import rounded
from vistok.plots.figures import Curve

N = 40
NAMES = [f"{i:03d}.png" for i in range(N)]
PHOTOS = np.random.default_rng(0).normal(25, 3, N)  # how well each photo can be reconstructed, in dB


def write(path: Path, scored: dict, names=NAMES, rate=None, protocol=("canonical", "634fd2ad", "adm"), **data) -> Path:
    """The files of an evaluation; ``scored`` has for each tokenizer the PSNR of each image and bits per pixel."""
    name, hash, crop = protocol
    arrays, scores = {"names": np.array(names)}, []
    for i, (tokenizer, (psnr, bits)) in enumerate(scored.items()):
        arrays[f"{i}/{name}/psnr"] = np.asarray(psnr, np.float32)
        metrics = {"psnr": float(np.mean(arrays[f"{i}/{name}/psnr"], dtype=np.float64)), "rfid": 3.0, "sfid": None}
        metrics |= {"bits_per_pixel_entropy": bits, "tokens_per_image": 1000 * bits}
        scores.append({"tokenizer": tokenizer, "protocol": name, "hash": hash, "metrics": metrics})
    content = {
        "protocols": {name: {"hash": hash, "crop": crop, "distances": ["psnr"]}},
        "tokenizers": [{"tokenizer": tokenizer, "sha256": f"of {tokenizer}"} for tokenizer in scored],
        "scores": scores,
        "data": {"images": len(names), "image_size": 32, "sha256_of_names": "".join(sorted(names))[-9:], **data},
        "rate": rate,
    }
    path.write_text(json.dumps(content))
    np.savez_compressed(path.with_suffix(".npz"), **arrays)
    return path


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """A in one file, B, better than A by about half a dB, and C, hardly different, in another, in another order."""
    noise = np.random.default_rng(1).normal(0, 0.1, N)
    order = np.random.default_rng(2).permutation(N)
    one = write(tmp_path / "one.json", {"runs/a/tokenizer": (PHOTOS, 0.1)})
    scored = {"runs/b": ((PHOTOS + 0.5 + noise)[order], 0.2), "runs/c": ((PHOTOS + noise - noise.mean())[order], 0.15)}
    return [one, write(tmp_path / "two.json", scored, [NAMES[i] for i in order])]


class Means(FeatureNetwork):
    """Means of the channels in four parts of the image."""

    name, dim = "means", 12

    def forward(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, trained):
    """Content of the JSON, its folder, and content without intervals: ``eval.py`` of a tokenizer and a worse one."""
    import hydra

    folder = tmp_path_factory.mktemp("evaluated")
    tokenizer = vistok.load(trained)
    with torch.no_grad():
        tokenizer.decoder.last_layer.mul_(0.2)
    save(tokenizer, folder / "worse")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(N):
        pixels = np.kron(rng.integers(0, 256, (5, 5, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / NAMES[i])
    words = [f"tokenizer=[{trained}/tokenizer,{folder}/worse]", f"data.root={folder}/photos", "data.image_size=32"]
    words += ["data.num_workers=0", "metrics.lpips=null", f"run.out={folder}/report.json"]
    with hydra.initialize_config_dir(str(Path(__file__).parent.parent.parent / "configs"), version_base="1.3"):
        config = hydra.compose("eval", overrides=words)
        without = hydra.compose("eval", overrides=[*words[:-1], f"run.out={folder}/no.json", "metrics.intervals=false"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluation_evaluate, "networks_of", lambda config, protocols: (ScoringNetworks((Means(),)), {}))
        return evaluation_evaluate.evaluate(config), folder, evaluation_evaluate.evaluate(without)


def test_eval_gives_intervals_and_differences(evaluated):
    report, folder, without = evaluated
    values = np.load(folder / "report.npz")
    one, other = (values[f"{i}/canonical/psnr"].astype(np.float64) for i in (0, 1))
    (pair,) = report["differences"]
    assert (pair["tokenizer"], pair["against"]) == tuple(own["tokenizer"] for own in report["tokenizers"][::-1])
    psnr = pair["metrics"]["psnr"]
    assert psnr["difference"] == pytest.approx((other - one).mean())
    assert psnr["interval"] == pytest.approx(bootstrap((other - one)[None])[0])
    assert report["scores"][0]["intervals"]["psnr"] == pytest.approx(bootstrap(one[None])[0])
    named = {"psnr", "ssim_gauss11", "ssim_skimage7", "l1", "frechet_means"}
    assert set(report["scores"][1]["intervals"]) == set(pair["metrics"]) == named  # and no baseline
    one, other = (values[f"{i}/canonical/frechet_means/leave_one_out"] for i in (0, 1))
    sizes = np.bincount([int(sha256(name.encode()).hexdigest()[:16], 16) % 10 for name in NAMES])
    frechet, scores = pair["metrics"]["frechet_means"], [own["metrics"]["frechet_means"] for own in report["scores"]]
    assert frechet["difference"] == pytest.approx(scores[1] - scores[0])
    assert frechet["interval"] == pytest.approx(jackknife(scores[1] - scores[0], other - one, sizes))
    assert report["scores"][0]["intervals"]["frechet_means"] == pytest.approx(jackknife(scores[0], one, sizes))
    assert report["intervals"] == {"level": 0.95, "resamples": 2000, "seed": 0, "groups": 10}
    assert without["differences"] == [] and without["intervals"] is None and "intervals" not in without["scores"][0]
    assert [own["metrics"] for own in without["scores"]] == [own["metrics"] for own in report["scores"]]


def test_its_page_says_which_differences_stand(evaluated):
    report, folder, without = evaluated
    page = (folder / "report.html").read_text()
    (pair,) = differences.comparisons(report)
    assert pair.heading.startswith(f"worse against run, canonical {report['protocols']['canonical']['hash']}")
    assert len(pair.sentences) == 5 and all(text in page for _, text in pair.sentences)
    low, high = report["scores"][0]["intervals"]["psnr"]
    assert f"[{low:.2f}, {high:.2f}]" in page
    assert "±" not in page and "standard deviation is of single images" in page
    assert "Differences" not in (folder / "no.html").read_text()


def test_files_of_one_evaluation_compare_as_it_did(evaluated):
    report, folder, _ = evaluated
    found = compare([folder / "report.json"])
    assert [own["metrics"] for own in found["differences"]] == [own["metrics"] for own in report["differences"]]
    assert [own["intervals"] for own in found["scores"]] == [own["intervals"] for own in report["scores"]]


def test_differences_of_files(files):
    found = compare(files)
    assert [own["tokenizer"] for own in found["tokenizers"]] == ["a", "b", "c"] and found["not_compared"] == {}
    assert [(own["tokenizer"], own["against"]) for own in found["differences"]] == [("b", "a"), ("c", "a")]
    better, same = (own["metrics"]["psnr"] for own in found["differences"])
    assert better["verdict"] == "better" and 0.4 < better["interval"][0] < 0.5 < better["interval"][1] < 0.6
    assert same["verdict"] == "not separated" and same["difference"] == pytest.approx(0, abs=1e-6)
    ((low, high),) = bootstrap(PHOTOS.astype(np.float32)[None])
    assert found["scores"][0]["intervals"] == {"psnr": pytest.approx([low, high])}
    assert found["scores"][0]["metrics"]["rfid"] == 3 and "sfid" not in found["scores"][0]["metrics"]


def test_order_of_images_and_repeated_files_change_nothing(files, tmp_path):
    found = compare(files)
    assert compare([*files, files[0], files[1]]) == found
    order = list(range(N))[::-1]
    again = write(tmp_path / "one.json", {"runs/a/tokenizer": (PHOTOS[order], 0.1)}, [NAMES[i] for i in order])
    assert compare([again, files[1]])["differences"] == found["differences"]


@pytest.mark.parametrize("images, told", [(9, True), (10, False)])
def test_too_few_images_are_told(images, told, tmp_path):
    scored = {"runs/a": (PHOTOS[:images], 0.1), "runs/b": (PHOTOS[:images] + 1, 0.1)}
    found = compare([write(tmp_path / "one.json", scored, NAMES[:images])])
    text = differences.section(found)
    assert ("fewer than 10 images" in text) is told and ("paired bootstrap" in text) is not told
    assert ("95 % interval" in differences.caption_of(found)) is not told


def test_other_images_are_named_and_have_no_differences(files, tmp_path):
    fewer = write(tmp_path / "fewer.json", {"runs/d": (PHOTOS[:30] + 1, 0.1)}, NAMES[:30])
    pixels = write(tmp_path / "pixels.json", {"runs/e": (PHOTOS + 1, 0.1)}, sha256_of_names="other")
    size = write(tmp_path / "size.json", {"runs/f": (PHOTOS + 1, 0.1)}, image_size=64)
    alone = write(tmp_path / "alone.json", {"runs/g": (PHOTOS + 1, 0.1)})
    alone.with_suffix(".npz").unlink()
    found = compare([files[0], fewer, pixels, size, alone])
    assert found["differences"] == [] and set(found["not_compared"]) == set("defg")
    assert found["not_compared"]["d"] == f"other images: '030.png' and 9 more only in {files[0]}"
    assert "sha256_of_names is 'other'" in found["not_compared"]["e"]
    assert "image_size is 64, not 32" in found["not_compared"]["f"]
    assert found["not_compared"]["g"] == f"the values of single images, alone.npz, are not beside {alone}"
    assert found["scores"][1]["intervals"]["psnr"] and found["scores"][4]["intervals"] == {}
    curves = rate_plot.curves(found)
    assert [(curve.name, curve.hollow) for curve in curves] == [("a", False), *((name, True) for name in "defg")]


def test_native_images_have_no_size_of_crops(tmp_path):
    """Scored alone or beside crops, they are the same images."""
    native = ("native", "0a27a961", "native")
    alone = write(tmp_path / "alone.json", {"runs/a": (PHOTOS, 0.1)}, protocol=native, image_size=None)
    beside = write(tmp_path / "beside.json", {"runs/b": (PHOTOS + 1, 0.1)}, protocol=native, image_size=256)
    found = compare([alone, beside])
    assert found["not_compared"] == {} and len(found["differences"]) == 1
    assert [own["image_size"] for own in found["tokenizers"]] == [None, None]


def test_files_that_do_not_compare_are_refused_by_name(files, tmp_path):
    other = write(tmp_path / "other.json", {"runs/d": (PHOTOS, 0.1)}, protocol=("titok", "7006583b", "bicubic"))
    message = f"{other} was not scored by the protocol canonical 634fd2ad of {files[0]}; its titok 7006583b differs: "
    with pytest.raises(ValueError, match=message + "crop is 'bicubic', not 'adm'"):
        compare([*files, other])
    with pytest.raises(ValueError, match=f"{files[0]} has no protocol seed; it has canonical"):
        compare(files, "seed")
    for text, message in (("[]", "holds a list"), ("{}", "its protocols are None"), ("x", "is not JSON")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=f"bad.json.*{message}"):
            compare([files[0], tmp_path / "bad.json"])
    for name, size, what in (("psnr", N - 1, "image"), ("rfid/leave_one_out", 9, "group")):
        np.savez(other.with_suffix(".npz"), names=np.array(NAMES), **{f"0/titok/{name}": np.zeros(size)})
        with pytest.raises(ValueError, match=f"other.npz has not one number for each {what} in 0/titok/"):
            compare([other])
    with pytest.raises(ValueError, match="at least one file"):
        compare([])


def test_one_protocol_under_two_names_is_one(files, tmp_path):
    renamed = write(tmp_path / "own.json", {"runs/d": (PHOTOS + 1, 0.1)}, protocol=("mine", "634fd2ad", "adm"))
    assert compare([files[0], renamed])["differences"][0]["metrics"]["psnr"]["verdict"] == "better"


def test_rates_of_one_tokenizer_are_one_curve(tmp_path):
    paths = [
        write(tmp_path / f"{rate}.json", {"runs/dq": (PHOTOS + 4 * rate, rate), "runs/vq": (PHOTOS, 1)}, rate=rate)
        for rate in (0.5, 0.25)
    ]
    found = compare(paths)
    assert [own["tokenizer"] for own in found["tokenizers"]] == [
        f"{name} (rate {rate})" for rate in (0.5, 0.25) for name in ("dq", "vq")
    ]
    first, _ = rate_plot.curves(found)
    assert rate_plot.varying_rates([first]) == rate_plot.RATES
    same = Curve("a", [{"bits_per_pixel_entropy": bits, "tokens_per_image": 1024.0} for bits in (1, 2)], [{}, {}])
    assert rate_plot.varying_rates([same]) == {
        "bits_per_pixel_entropy": "bits per pixel, by entropy (1,024 tokens per image)"
    }
    assert first.name == "dq (rates 0.25 to 0.5)" and [own["bits_per_pixel_entropy"] for own in first.points] == [
        0.5,
        0.25,
    ]


def test_sentences():
    own = {"difference": -0.0123, "interval": [-0.0141, -0.0104], "verdict": "better"}
    assert differences.sentence("lpips_alex", "B", "A", own) == (
        "lpips alex: B is lower than A by 0.0123 (95 % interval 0.0104 to 0.0141), which is better"
    )
    own = {"difference": -0.521, "interval": [-0.634, -0.402], "verdict": "worse"}
    assert differences.sentence("psnr", "B", "A", own) == (
        "psnr: B is lower than A by 0.52 dB (95 % interval 0.40 to 0.63), which is worse"
    )
    own = {"difference": 0.0201, "interval": [-0.1001, 0.1302], "verdict": "not separated"}
    assert differences.sentence("psnr", "B", "A", own) == (
        "psnr: the data do not separate B from A (difference 0.02 dB, 95 % interval −0.10 to 0.13)"
    )
    assert rounded([-0.001, 12.3], 40.0) == ["0", "12"] and rounded([0.0], 0) == ["0.000"]
    assert rounded([0.0825, -0.08407], 0.0032) == ["0.0825", "−0.0841"]


def run(*words) -> None:
    program.main(["compare", *map(str, words)])


def test_the_command(files, tmp_path, capsys):
    outputs = [tmp_path / "out" / name for name in ("all.json", "all.html", "all.svg", "all.png")]
    run(*files, "--metric", "psnr", *(word for path in outputs for word in ("--out", path)))
    said = capsys.readouterr().out
    found = compare(files)
    for text in ("a", "b", "c", "40 images of 32 px", "▲ psnr: b is higher than a by 0.5", "do not separate c from a"):
        assert text in said
    assert json.loads(outputs[0].read_text()) == found
    page = outputs[1].read_text()
    assert "do not separate c from a" in page and "data:image/svg+xml;base64," in page and "<script" not in page
    assert outputs[2].read_text().count("<image") == 0 and Image.open(outputs[3]).size[0] > 1000
    run(*files, "--metric", "psnr", "--out", tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == outputs[2].read_bytes()  # nothing of the time in it


def test_reconstructions_without_codes_have_a_page_and_no_picture(files, tmp_path, capsys):
    content = json.loads(files[0].read_text())
    del content["scores"][0]["metrics"]["bits_per_pixel_entropy"]
    files[0].write_text(json.dumps(content))
    run(files[0], "--out", tmp_path / "a.html")
    assert "Rate and distortion" not in (tmp_path / "a.html").read_text()
    with pytest.raises(SystemExit, match="2"):
        run(files[0], "--out", tmp_path / "a.png")
    assert "there is nothing to draw: no score has a metric and a rate" in capsys.readouterr().err


@pytest.mark.parametrize("words, message", [
    (["--out", "x.pdf"], "--out=x.pdf must end in one of .png, .svg, .html, .json"),
    (["--out", "one.json"], "one.json exists already and is not overwritten"),
    (["--out", "x.png", "--metric", "lpips_alex"], "--metric=lpips_alex is in none of the files; they have psnr, rfid"),
    (["--protocol", "seed"], "one.json has no protocol seed; it has canonical"),
    (["two.npz"], "two.npz is not JSON"),
    (["none.json"], "there is no none.json"),
])  # fmt: skip
def test_the_command_refuses_in_one_line(files, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(SystemExit, match="2"):
        run("one.json", "two.json", *words)
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before
