"""``eval.py``: what it reports, what it names as unavailable, and how it refuses."""

import json

import pytest
import torch
from torchvision.models import mobilenet_v2

import vistok
from vistok import cli, reports
from vistok.metrics import psnr
from vistok.pixels import to_float, to_uint8


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No weights on disk, and none to be had."""

    def refuse(*arguments, **keywords):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)


def evaluate(compose, tokenizer, tmp_path, *overrides):
    output = tmp_path / "report.json"
    arguments = (f"tokenizer={tokenizer}", f"output={output}", "image_size=32", "data.num_workers=0", *overrides)
    report = cli.evaluate(compose("eval", *arguments))
    assert json.loads(output.read_text()) == report
    return report


def test_a_folder(compose, trained, photos, tmp_path, offline, capsys):
    report = evaluate(compose, trained / "tokenizer", tmp_path, f"data.root={photos}", "batch_size=5")
    assert set(report["unavailable"]) == {"lpips", "rfid"}
    printed = capsys.readouterr().out
    assert printed.index("lpips is unavailable") < printed.index("psnr")  # said before the work
    assert report["data"]["images"] == 12
    metrics = report["metrics"]
    assert metrics["images"] == 12 and metrics["tokens"] == 12 * 16
    assert metrics["tokens_per_image"] == 16 and metrics["bits_per_image"] == 16 * 4  # 16 codewords: 4 bits each

    # The same by hand, one image at a time.
    tokenizer = vistok.load(trained)
    from vistok.data import folder

    data = folder(str(photos), image_size=32, batch_size=1)
    images = torch.stack([data.test[0, i].image for i in range(12)])
    codes = torch.cat([tokenizer.tokenize(to_float(image[None])) for image in images])
    reconstructions = to_uint8(tokenizer.detokenize(codes))
    assert metrics["psnr"] == pytest.approx(psnr(reconstructions, images).mean().item(), abs=1e-3)
    assert metrics["usage"] == len(codes.unique()) / 16


def test_another_network_gives_a_number_of_its_own_name(compose, trained, photos, tmp_path):
    torch.manual_seed(0)
    torch.save(mobilenet_v2(weights=None).state_dict(), tmp_path / "weights.pt")
    words = ["network=torchvision", f"network.weights={tmp_path}/weights.pt", "lpips=null", f"data.root={photos}"]
    metrics = evaluate(compose, trained, tmp_path, *words)["metrics"]
    assert metrics["frechet_mobilenet_v2"] >= 0 and "rfid" not in metrics and "lpips" not in metrics


def test_lpips_of_a_local_file(compose, trained, photos, tmp_path):
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "weights.pt")
    words = ["network=none", "lpips.net=squeeze", f"lpips.weights={tmp_path}/weights.pt", f"data.root={photos}"]
    report = evaluate(compose, trained, tmp_path, *words)
    assert report["metrics"]["lpips"] > 0 and not report["unavailable"]


@pytest.mark.parametrize("overrides, error, message", [
    (["data.root=/nowhere"], "ValueError", "data.root=/nowhere is not a folder"),
    (["data=sample", "image_size=60", "batch_size=2"], "ValueError", "image_size=60 is not a multiple"),
    (["data=sample", "tokenizer=/nowhere"], "FileNotFoundError", "is not an exported tokenizer"),
    ([], "ValueError", "missing on the command line: data.root=..."),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(compose, trained, tmp_path, overrides, error, message):
    words = [f"tokenizer={trained}", f"output={tmp_path}/report.json", "lpips=null", "network=none", *overrides]
    with pytest.raises(Exception) as refused:
        cli.evaluate(compose("eval", *words))
    cause = cli._cause(refused.value)
    assert type(cause).__name__ == error and message in str(cause)
    assert not (tmp_path / "report.json").exists()


def test_a_report_is_not_overwritten(compose, trained, photos, tmp_path):
    (tmp_path / "report.json").write_text("mine")
    with pytest.raises(ValueError, match="exists already and is not overwritten"):
        evaluate(compose, trained, tmp_path, f"data.root={photos}")
    assert (tmp_path / "report.json").read_text() == "mine"


def test_json_has_no_numbers_that_json_has_not(tmp_path):
    reports.write_json({"a": float("nan"), "b": {"c": float("inf"), "d": 1.5}}, tmp_path / "x" / "y.json")
    assert json.loads((tmp_path / "x" / "y.json").read_text()) == {"a": None, "b": {"c": None, "d": 1.5}}
