"""The model card tells what is known and says what is not; hub and command line; near-ties."""

import json

import pytest
import torch
from safetensors.torch import load_file

import vistok
from vistok.commands import export
from vistok.formats import model_card, native
from vistok.formats.exporters import to_folder
from vistok.quantizers import VectorQuantizer

EVALUATION = {
    "scores": [
        {"tokenizer": "a", "protocol": "canonical", "hash": "634fd2ad", "metrics": {"psnr": 21.25, "rfid": None}},
        {"tokenizer": "b", "protocol": "canonical", "hash": "634fd2ad", "metrics": {"psnr": 99.0, "rfid": None}},
    ],
    "data": {"source": "photos/val", "images": 500, "image_size": 256, "sha256_of_names": "abc"},
    "dtype": "float32",
    "versions": {"vistok": "0.1.0", "torch": "2.15.0"},
}


def section(text, title):
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_what_is_not_known_is_said_to_be_unknown(make_tokenizer):
    text = model_card.text(make_tokenizer(), None, "import vistok")
    assert section(text, "Data").strip() == "Trained on: unknown"
    assert "| training: updates | unknown |" in section(text, "Protocol")
    assert section(text, "Metrics").strip() == "Unknown: they were neither measured by the run nor given."
    assert section(text, "Licence").strip() == "Weights: unknown. Data: unknown."
    assert "license:" not in text.split("---")[1]


def test_what_is_known(make_tokenizer):
    about = {
        "name": "small", "data": "photos | train", "metrics": {"psnr": 20.123456789}, "updates": 100, "seed": 3,
        "licence": "mit", "data_licence": "CC0",
    }  # fmt: skip
    text = model_card.text(make_tokenizer(), about, "import vistok")
    assert text.startswith("---\nlibrary_name: vistok\nlicense: mit\n") and "\n# small\n" in text
    assert "32 codewords, 4 channels" in text and "one for each 4 x 4 pixels" in text
    assert "Trained on: photos \\| train" in text
    assert "| training: updates | 100 |" in text and "| training: image size | unknown |" in text
    assert "| psnr | 20.1235 |" in section(text, "Metrics")
    assert "Weights: mit. Data: CC0." in text


def test_an_evaluation_goes_before_the_runs_metrics(make_tokenizer):
    text = model_card.text(make_tokenizer(), {"metrics": {"psnr": 1.0}, "evaluation": EVALUATION}, "")
    assert "| canonical (634fd2ad): psnr | 21.25 |" in text and "| canonical (634fd2ad): rfid | unknown |" in text
    assert "| psnr | 1 |" not in text and "99" not in text
    assert "| evaluation: images | 500 of photos/val |" in text and "| evaluation: image size | 256 |" in text
    assert "| versions | vistok 0.1.0, torch 2.15.0 |" in text


class Api:
    """Writes down what it is asked for."""

    calls = []

    def create_repo(self, repo_id, private, exist_ok):
        self.calls.append((repo_id, private, exist_ok))

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.calls.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
        return f"https://hub/{repo_id}/commit/1"


def test_push_to_hub(make_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr(Api, "calls", [])
    folder = native.save(make_tokenizer(), tmp_path / "model")
    assert native.push_to_hub(folder, "me/small", private=True) == "https://hub/me/small/commit/1"
    assert Api.calls == [("me/small", True, True), ("me/small", ["README.md", "config.json", "model.safetensors"])]


def test_only_an_exported_folder_is_pushed(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    with pytest.raises(ValueError, match="is not an exported tokenizer: it has no README.md"):
        native.push_to_hub(tmp_path, "me/small")


RUN = "run: {name: mine, seed: 5}\ndata: {image_size: 16, batch_size: 2}\n"
FORMER_RUN = "name: mine\nimage_size: 16\nbatch_size: 2\nseed: 5\n"  # with former keys


@pytest.mark.parametrize("target, file, config", [
    ("folder", "model.safetensors", RUN),
    ("folder", "model.safetensors", FORMER_RUN),
    ("diffusers", "diffusion_pytorch_model.safetensors", RUN),
    ("llamagen", "vq_model.pt", RUN),
    ("janus", "model.safetensors", RUN),
])  # fmt: skip
def test_command(make_vqgan, uneven, tmp_path, target, file, config, capsys):
    tokenizer = make_vqgan(uneven(cosine=True))
    run = tmp_path / "run"
    native.save(tokenizer, run / "tokenizer", {"data": "some photos", "updates": 7})
    (run / "config.yaml").write_text(config)
    (tmp_path / "eval.json").write_text(json.dumps(EVALUATION))
    out = tmp_path / "out"
    words = [str(run), "--to", target, "--out", str(out), "--image-size", "16"]
    export.main([*words, "--license", "mit", "--evaluation", str(tmp_path / "eval.json")])
    assert (out / file).is_file() and "codes of images of" in capsys.readouterr().out
    text = (out / "README.md").read_text()
    for line in ("# mine", "license: mit", "Trained on: some photos", "| training: updates | 7 |",
                 "| training: seed | 5 |", ": psnr | 21.25 |"):  # fmt: skip
        assert line in text
    if target != "llamagen":
        images = torch.rand(1, 3, 16, 16) * 2 - 1
        assert torch.equal(vistok.load(out).tokenize(images), tokenizer.tokenize(images))


def test_command_refuses(make_vqgan, uneven, tmp_path):
    native.save(make_vqgan(uneven()), tmp_path / "run")
    with pytest.raises(SystemExit, match="error: transformers' JanusVQVAE cannot represent codewords of other"):
        export.main([str(tmp_path / "run"), "--to", "janus", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="run exists already and is not overwritten"):
        export.main([str(tmp_path / "run"), "--to", "folder", "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit, match="nothing is not an exported tokenizer"):
        export.main([str(tmp_path / "nothing"), "--to", "folder", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_killed_export_is_not_in_the_way(make_vqgan, uneven, tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "model.safetensors").write_bytes(b"half")
    to_folder.save_folder(make_vqgan(uneven()), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert load_file(tmp_path / "out" / "model.safetensors")["quantizer.table"].shape == (128, 4)


def test_near_ties():
    """(1, 0) lies between the first two codewords, off by less or more than float32 can tell."""
    head = VectorQuantizer(3, 2)
    head.codewords.data = torch.tensor([[0.0, 1.0], [2.0, 1.0], [2.0, 1.1]])
    latent = torch.tensor([1 + 1e-6, 0.0]).view(1, 2, 1, 1)
    zero, one, two = (torch.full((1, 1, 1, 1), code) for code in (0, 1, 2))
    assert head.near_ties(latent, one, zero).item()
    assert not head.near_ties(latent + torch.tensor([1e-3, 0.0]).view(1, 2, 1, 1), one, zero).item()
    assert not head.near_ties(latent, one, two).item()
    assert not head.near_ties(latent, one, torch.full_like(one, 3)).item()
