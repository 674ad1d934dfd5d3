"""Pages on vistok in one's own code: the commands of docs/library/fine-tune.md, run on a small file."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vistok
from vistok import __main__ as program
from vistok import configuration
from vistok.evaluation.evaluate import evaluate
from vistok.formats.exporters import to_llamagen
from vistok.formats.tokenizer_paths import SLIM
from vistok.training import run

PAGE = Path(__file__).parent.parent / "docs" / "library" / "fine-tune.md"
SIZES = {"data.image_size": "32", "optim.updates": "2", "run.out": "", "trainer": "debug"}
SMALL = ["backbone.encoder.channels=32", "model.codebook_size=16", "data.image_size=32", "loss=l1"]
SMALL += ["data.num_workers=0"]
FAST = ["feature_network=none", "metrics.lpips=null", "run.device=cpu", "data.num_workers=0"]


def commands():
    """The commands of the page, each as a list of words; values that take long are small."""
    text = "".join(re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)).replace("\\\n", " ")
    for line in text.splitlines():
        words = [word.partition("=") for word in shlex.split(line)]
        yield [f"{key}={SIZES.get(key) or value}" if sign else key for key, sign, value in words]


@pytest.fixture
def folder(compose, tmp_path, monkeypatch):
    """A folder with images and with a file of random weights in LlamaGen's layout."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(8):
        path = tmp_path / "DIR" / ("val" if i % 2 else "train") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    torch.manual_seed(1)
    config = compose("train", "experiment=llamagen_vq16_imagenet256", "data=folder", "trainer=debug", *SMALL)
    to_llamagen.save(configuration.instantiate(config.tokenizer).eval(), "written")
    (weights,) = (path for path in Path("written").iterdir() if path.suffix == ".pt")
    weights.rename("vq_ds16_c2i.pt")
    return tmp_path


def test_a_published_file_is_fine_tuned(folder, compose, capsys):
    ran = []
    for program_words in commands():
        first, *words = program_words[1:]
        ran.append(first if first != "-m" else words[1])
        if first == "train.py":
            run.train(compose("train", *words, *SMALL), words)
        elif first == "eval.py":
            (score,) = evaluate(compose("eval", *words, *FAST))["scores"]
            assert score["metrics"]["images"] == 4
        else:
            program.main(words[1:])
    assert ran == ["inspect", "eval.py", "train.py", "train.py", "eval.py", "compare", "export"]
    assert "llamagen" in capsys.readouterr().out and Path("compared.html").is_file()
    before, after = (json.loads(Path(f"{name}.json").read_text())["scores"][0] for name in ("before", "after"))
    assert before["metrics"]["psnr"] != after["metrics"]["psnr"]
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    original, decoder = vistok.load("vq_ds16_c2i.pt"), vistok.load("runs/decoder")
    assert torch.equal(decoder.tokenize(images), original.tokenize(images))
    weights = load_file(Path("runs/fine_tuned") / SLIM)
    assert not torch.equal(weights["quantizer.table"], original.quantizer.state_dict()["table"])
    written = vistok.load("for_llamagen")
    assert torch.equal(written.tokenize(images), vistok.load("runs/fine_tuned").tokenize(images))
