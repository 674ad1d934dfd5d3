"""``eval.py protocol=native``: images of any size and aspect, each compared in its own size."""

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vistok
from vistok.commands import failures
from vistok.data import folder
from vistok.evaluation import Protocol, Scores
from vistok.evaluation import evaluate as evaluation_evaluate
from vistok.evaluation.preparation import Preparation
from vistok.evaluation.reconstructions import reading_of
from vistok.images.evaluation_crops import CROPS
from vistok.images.ranges import to_float, to_uint8
from vistok.metrics import psnr
from vistok.metrics.distances import ms_ssim, ssim_skimage7

SIZES = {"a": (40, 57), "b": (180, 176), "c": (33, 31), "d": (40, 57), "e": (9, 30), "f": (6, 12)}  # height, width
QUICK = ["metrics.lpips=null", "feature_network=none", "data.num_workers=0", "protocol=native"]


def evaluate(compose, trained, out: Path, *overrides: str) -> dict:
    return evaluation_evaluate.evaluate(compose("eval", f"tokenizer={trained}", f"run.out={out}", *QUICK, *overrides))


@pytest.fixture(scope="module")
def sizes(tmp_path_factory) -> Path:
    """A folder of images of several sizes, one of them turned by its EXIF data."""
    root = tmp_path_factory.mktemp("sizes")
    rng = np.random.default_rng(0)
    for name, (height, width) in SIZES.items():
        pixels = np.kron(rng.integers(0, 256, (-(-height // 6), -(-width // 6), 3)), np.ones((6, 6, 1)))
        image = Image.fromarray(pixels[:height, :width].astype(np.uint8))
        if name == "d":
            exif = Image.Exif()
            exif[0x0112] = 6  # to be turned by a quarter
            image.transpose(Image.Transpose.ROTATE_90).save(root / f"{name}.png", exif=exif)
        else:
            image.save(root / f"{name}.png")
    return root


@pytest.fixture(scope="module")
def by_hand(trained, sizes) -> dict[str, tuple[torch.Tensor, torch.Tensor, int]]:
    """For each image itself, its reconstruction, (3, H, W) uint8, and the number of its tokens."""
    tokenizer, found = vistok.load(trained), {}
    f = tokenizer.factor
    for name, (height, width) in SIZES.items():
        with Image.open(sizes / f"{name}.png") as opened:
            pixels = np.array(opened.transpose(Image.Transpose.ROTATE_270) if name == "d" else opened)
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        assert image.shape == (3, height, width)
        below, right = -height % f, -width % f
        padded = torch.nn.functional.pad(to_float(image[None]), (0, right, 0, below), mode="replicate")
        codes = tokenizer.tokenize(padded)
        again = to_uint8(tokenizer.detokenize(codes))[0, :, :height, :width]
        found[f"{name}.png"] = (image, again, codes.numel())
    return found


def test_every_image_in_its_own_size(compose, trained, sizes, by_hand, tmp_path, capsys):
    report = evaluate(compose, trained, tmp_path / "report.json", f"data.root={sizes}")
    (score,) = report["scores"]
    metrics, values = score["metrics"], np.load(tmp_path / "report.npz")
    names = [f"{name}.png" for name in SIZES]
    assert values["names"].tolist() == names and values["0/native/sizes"].tolist() == [*map(list, SIZES.values())]

    expected = {name: psnr(again[None], image[None]).item() for name, (image, again, _) in by_hand.items()}
    assert values["0/native/psnr"].tolist() == pytest.approx(list(expected.values()), abs=1e-3)
    assert metrics["psnr"] == pytest.approx(np.mean(list(expected.values())), abs=1e-3)
    of_one = [by_hand["b.png"][side][None] for side in (1, 0)]
    assert metrics["ms_ssim"] == pytest.approx(ms_ssim(*of_one).item(), abs=1e-5)  # the only image of 176 pixels
    large = [ssim_skimage7(again[None], image[None]).item() for image, again, _ in list(by_hand.values())[:5]]
    assert metrics["ssim_skimage7"] == pytest.approx(np.mean(large), abs=1e-5)
    assert np.isnan(values["0/native/ms_ssim"]).tolist() == [True, False, True, True, True, True]

    tokens = np.array([count for _, _, count in by_hand.values()])
    bits = 4 * tokens / np.array([height * width for height, width in SIZES.values()])  # 16 codewords
    assert metrics["tokens"] == tokens.sum() and values["0/native/tokens"].tolist() == tokens.tolist()
    assert metrics["tokens_per_image"] == tokens.mean()
    assert (metrics["tokens_per_image_min"], metrics["tokens_per_image_max"]) == (tokens.min(), tokens.max())
    assert metrics["bits_per_pixel"] == pytest.approx(bits.mean())
    assert metrics["bits_per_pixel_min"] == pytest.approx(bits.min())
    assert metrics["bits_per_pixel_max"] == pytest.approx(bits.max())

    assert report["data"]["image_size"] is None
    assert report["data"]["native_sizes"] == {"smallest": [6, 12], "largest": [180, 176], "different": 5}
    assert report["partial"] == {
        "ssim_gauss11": "of 4 of 6 images: its window has 11 pixels a side",
        "ssim_skimage7": "of 5 of 6 images: its window has 7 pixels a side",
        "ms_ssim": "of 1 of 6 images: its five scales need images of 176 pixels",
    }
    page, printed = (tmp_path / "report.html").read_text(), capsys.readouterr().out
    for text in (page, " ".join(printed.split())):
        assert "of 1 of 6 images: its five scales need images of 176 pixels" in text
        assert "their own sizes, 12x6 to 176x180 px" in text
    assert not re.search(r"[ >,]nan\b", page) and "NaN" not in (tmp_path / "report.json").read_text()


def test_large_images_in_tiles(compose, trained, sizes, by_hand, tmp_path):
    """Those that a tile holds have the numbers of the full image, others those of Tokenizer.reconstruct."""
    given = [f"data.root={sizes}", "model.tile=64", "model.overlap=8"]
    report = evaluate(compose, trained, tmp_path / "report.json", *given)
    (own,) = report["tokenizers"]
    assert (own["tile"], own["overlap"]) == (64, 8)
    values = np.load(tmp_path / "report.npz")
    expected = {name: psnr(again[None], image[None]).item() for name, (image, again, _) in by_hand.items()}
    image = by_hand["b.png"][0][None]
    again, codes = vistok.load(trained).eval().reconstruct(to_float(image), tile=64, overlap=8)
    tiled = psnr(to_uint8(again), image).item()
    assert abs(tiled - expected["b.png"]) > 1e-3
    assert values["0/native/psnr"].tolist() == pytest.approx([*(expected | {"b.png": tiled}).values()], abs=1e-3)
    assert values["0/native/tokens"].tolist()[1] == codes.codes.numel() == by_hand["b.png"][2]


def test_parts_of_images_of_any_size(compose, trained, sizes, by_hand, tmp_path, capsys):
    """An image below 8 pixels has no blocks, and every image has frequencies."""
    given = [f"data.root={sizes}", "metrics.strata=[class,frequency,contrast]"]
    report = evaluate(compose, trained, tmp_path / "report.json", *given)
    values = np.load(tmp_path / "report.npz")
    errors = [(again.double() - image).square().mean().item() for image, again, _ in by_hand.values()]
    assert values["0/native/frequency/error"].sum(1).tolist() == pytest.approx(errors, rel=1e-3)
    assert np.isnan(values["0/native/contrast/error"]).all(1).tolist() == [False] * 5 + [True]
    ((folder, scores),) = report["strata"][0]["class"].items()
    metrics = report["scores"][0]["metrics"]
    assert folder == "" and scores["images"] == 6
    assert scores["native"] == {name: pytest.approx(metrics[name]) for name in scores["native"]}
    assert {"psnr", "ms_ssim"} < scores["native"].keys() and "native sizes" in capsys.readouterr().out


def test_files_as_they_are_stored(compose, trained, sizes, by_hand, tmp_path):
    """The turned image is reconstructed as its pixels lie in the file; its hash is that of the upright one."""
    given = [f"data.root={sizes}", f"reconstructions={sizes}"]
    upright = evaluate(compose, trained, tmp_path / "upright.json", *given)
    stored = evaluate(compose, trained, tmp_path / "stored.json", *given, "protocol.native.decoding=stored")
    found = [np.load(tmp_path / f"{name}.npz") for name in ("upright", "stored")]
    assert found[1]["0/native_stored/sizes"].tolist() == [[57, 40] if n == "d" else [*SIZES[n]] for n in SIZES]
    assert stored["data"]["sha256_of_images"] == upright["data"]["sha256_of_images"]
    assert (found[0]["0/native/psnr"] != found[1]["0/native/psnr"]).tolist() == [n == "d" for n in SIZES]
    assert [own["scores"][1]["metrics"]["psnr"] for own in (upright, stored)] == [100, 100]  # turned like the images
    assert stored["data"]["native_sizes"]["different"] == 6
    with pytest.raises(ValueError, match="protocol: size=16 needs square crops, not crop=native"):
        Protocol(crop="native", size=16)


def test_whole_patches_are_not_changed(compose, trained, sizes, tmp_path):
    """Images that need no padding have the numbers of the square crop of their size, to the bit."""
    root = tmp_path / "square"
    root.mkdir()
    for name in "abc":
        with Image.open(sizes / f"{name}.png") as image:
            image.resize((32, 32)).save(root / f"{name}.png")
    given = [f"data.root={root}", "data.image_size=32", "protocol=[canonical,native]"]
    square, native = evaluate(compose, trained, tmp_path / "report.json", *given)["scores"]
    assert square["metrics"] == native["metrics"] and square["hash"] != native["hash"]


def test_equal_sizes_are_batched(sizes, tmp_path):
    data = folder(str(sizes), image_size=32, batch_size=4)
    wanted = {("native",): 1, ("native", "stored"): 1, ("adm",): 4}
    assert {own: reading_of(Preparation(*own), data).batch_size for own in wanted} == wanted
    assert dict(data.scored_sizes) == {f"{name}.png": size for name, size in SIZES.items()}  # d is upright
    for name in "ad":
        (tmp_path / f"{name}.png").write_bytes((sizes / f"{name}.png").read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert reading_of(Preparation("native"), folder(str(tmp_path), image_size=32, batch_size=4)).batch_size == 4


def test_an_interrupted_evaluation_goes_on(compose, trained, sizes, tmp_path, monkeypatch):
    whole = evaluate(compose, trained, tmp_path / "whole.json", f"data.root={sizes}")
    reconstruct, batches = vistok.Tokenizer.reconstruct, []

    def interrupted(self, *arguments):
        batches.append(len(arguments[0]))
        if len(batches) == 3:
            signal.raise_signal(signal.SIGTERM)
        return reconstruct(self, *arguments)

    monkeypatch.setattr(vistok.Tokenizer, "reconstruct", interrupted)
    with pytest.raises(SystemExit):
        failures.guard(evaluate, compose, trained, tmp_path / "report.json", f"data.root={sizes}", again="")
    resumed = evaluate(compose, trained, tmp_path / "report.json", f"data.root={sizes}")
    assert batches == [1] * 6 and resumed["scores"] == whole["scores"] and resumed["partial"] == whole["partial"]
    pages = [(tmp_path / f"{name}.html").read_text().split("Provenance")[0] for name in ("whole", "report")]
    assert pages[0] == pages[1]  # examples of different sizes are restored


def test_sizes_that_no_padding_reaches_are_refused_first(compose, trained, sizes, tmp_path, monkeypatch):
    def grid(self, height, width):
        if (height, width) != (48, 64):
            raise ValueError(f"image size {height}x{width} is not 48x64, the only one")
        return 48 // self.factor, 64 // self.factor

    from vistok.backbones import CNNEncoder

    monkeypatch.setattr(CNNEncoder, "grid", grid, raising=False)
    monkeypatch.setattr(vistok.Tokenizer, "reconstruct", None)  # not reached
    with pytest.raises(ValueError, match=r"^b\.png: images of 180x176 cannot be padded .*: image size .* is not 48x64"):
        evaluate(compose, trained, tmp_path / "report.json", f"data.root={sizes}")


def test_statistics_of_native_images_are_no_crops(compose, trained, sizes, tmp_path):
    torch.manual_seed(0)
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "weights.pt")
    network = ["feature_network=torchvision", "feature_network.model=squeezenet1_1"]
    given = [f"data.root={sizes}", *network, f"feature_network.weights={tmp_path}/weights.pt"]
    file = f"{tmp_path}/reference.safetensors"
    first = evaluate(compose, trained, tmp_path / "1.json", *given, f"metrics.save_reference={file}")
    given.append(f"metrics.reference={file}")
    second = evaluate(compose, trained, tmp_path / "2.json", *given, "data.image_size=64")  # which does not matter
    assert second["scores"] == first["scores"]
    with pytest.raises(ValueError, match="crop is 'native', not 'adm'"):
        evaluate(compose, trained, tmp_path / "3.json", *given, "protocol=canonical", "data.image_size=64")


def test_no_image_has_a_distance():
    class Nothing:
        factor, num_tokens, quantizer = 4, None, torch.nn.Identity()

    Nothing.quantizer.codebook_sizes = (4,)
    scores = Scores({"p": Protocol(crop="native", distances=["psnr", "ms_ssim"])}, Nothing())
    images = torch.randint(256, (2, 3, 16, 10), dtype=torch.uint8)
    from vistok.quantizers import Codes

    scores.update(["a", "b"], images, to_float(images), Codes(torch.zeros(2, 1, 4, 3, dtype=torch.int64)))
    metrics = scores.gather().metrics("p")
    assert metrics["psnr"] == 100 and "ms_ssim" not in metrics and metrics["bits_per_pixel"] == 12 * 2 / 160
    assert scores.partial("p") == {"ms_ssim": "of 0 of 2 images: its five scales need images of 176 pixels"}


def test_tokens_are_of_square_crops_only():
    assert "native" not in CROPS and json.dumps(Protocol(crop="native").crop) == '"native"'
