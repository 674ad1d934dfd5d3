"""What is only sometimes needed is not imported before."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("pytorch_lightning", "torchmetrics", "torchvision", "matplotlib", "lpips", "skimage", "wandb", "timm",
         "webdataset", "scipy", "diffusers", "transformers", "onnx", "simplejpeg", "rich")  # fmt: skip


@pytest.mark.parametrize("statement", ["import vistok", "import hydra, vistok.training.run"])
def test_what_is_optional_is_not_imported(statement):
    program = f"import sys; {statement}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT / "tokenizers"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []
