"""Every command of docs/own-images.md, run on small files of the kind that its section is about."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from torchvision import models

import vistok
from vistok import __main__ as program
from vistok import configuration
from vistok.formats import native
from vistok.training import run

from .conftest import TINY, own_images
from .test_recipes import shrink

pytestmark = pytest.mark.usefixtures("networks_made_once")

PAGE = Path(__file__).parent.parent / "docs" / "own-images.md"


class Kind(NamedTuple):
    """The images of a section, and what its runs make of them."""

    files: str
    channels: int
    ranges: tuple = (None,)  # value_range of the tokenizer after each command; ... is a measured one


KINDS = {
    "Grey images of 10 to 16 bits: X-rays, microscopy": Kind("grey 12-bit", 1, (..., ...)),
    "X-rays as RGB, from published weights": Kind("grey", 3),
    "DICOM": Kind("dicom", 1, ((-1024, 3071),)),
    "Satellite images and other bands": Kind("8 bands", 8, (...,)),
    "Sprites and icons: RGBA": Kind("rgba", 4),
    "Start from a tokenizer of RGB images": Kind("grey", 1),
}


def commands() -> dict[str, list[str]]:
    """Commands of the page by section, without those of pip."""
    found = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        blocks = re.findall(r"^```bash\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
        lines = "".join(blocks).replace("\\\n", " ").splitlines()
        if lines := [line for line in lines if not line.startswith("pip ")]:
            found[section.partition("\n")[0]] = lines
    return found


COMMANDS = commands()


def test_every_section_with_commands_has_a_kind():
    assert set(COMMANDS) == {*KINDS, "Large images", "Photos that are not square"}
    assert {section: len(COMMANDS[section]) for section in KINDS} == {
        key: len(kind.ranges) for key, kind in KINDS.items()
    }


@pytest.mark.parametrize(
    "section, i", [(section, i) for section, kind in KINDS.items() for i in range(len(kind.ranges))]
)
def test_trainings(section, i, tmp_path, compose, shrink_losses, trained):
    """Two updates of each; the published VQGAN and the classifier have random weights."""
    kind = KINDS[section]
    name, script, *words = shlex.split(COMMANDS[section][i])
    assert (name, script) == ("python", "train.py")
    images = own_images(tmp_path / "images", kind.files)
    shown = {"DIR": images, "VQGAN": tmp_path / "rgb", "RGB_RUN": trained, "CLASSIFIER": tmp_path / "grey.pth"}
    words = [
        re.sub("=([A-Z_]+)$", lambda match: f"={shown[match[1]]}", word) for word in words if word != "trainer=gpu"
    ]
    small = [*TINY, "data.num_workers=0", "data.val_count=2", f"run.dir={tmp_path / 'run'}"]
    config = compose("train", *words, *small)
    shrink(config.backbone)
    shrink_losses(config.loss, 32)
    if classifier := config.loss.image_losses.get("classifier"):
        native.save(configuration.instantiate(config.tokenizer), tmp_path / "rgb")
        network = getattr(models, classifier.model)()
        network.features[0] = torch.nn.Conv2d(classifier.channels, 64, 3, stride=2)
        torch.save(network.state_dict(), tmp_path / "grey.pth")
    assert run.train(config, words)["images"] == 2
    tokenizer = vistok.load(tmp_path / "run")
    assert tokenizer.encoder.in_channels == tokenizer.decoder.out_channels == kind.channels
    if kind.ranges[i] is ...:
        low, high = tokenizer.value_range
        assert 0 <= low < high <= 255 * 30
    else:
        assert tokenizer.value_range == kind.ranges[i]


def test_photos_that_are_not_square(photos, tmp_path, compose, capsys):
    (line,) = COMMANDS["Photos that are not square"]
    words = shlex.split(line.replace("DIR", str(photos)))[2:]
    small = [*TINY, "data.image_size=64", "data.num_workers=0", "data.val_count=2", f"run.dir={tmp_path / 'run'}"]
    assert run.train(compose("train", *words, *small), words)["images"] == 2
    assert re.search(r"buckets +\d of \d+x\d+, \d of \d+x\d+ \(height x width\)", capsys.readouterr().out)


def test_large_images(tmp_path, trained, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (90, 70), (200, 30, 30)).save("photo.jpg")
    (line,) = COMMANDS["Large images"]
    words = shlex.split(line.replace("--tokenizer RUN", f"--tokenizer {trained}"))
    assert words[:3] == ["python", "-m", "vistok"]
    program.main(words[3:])
    assert Image.open("again.png").size == (90, 70)
