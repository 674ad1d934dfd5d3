"""An evaluation with its page, for the tests of what is on it and of what a browser makes of it."""

import shutil
from pathlib import Path

import hydra
import numpy as np
import pytest
from PIL import Image

from vistok.evaluation import evaluate

CONFIGS = Path(__file__).parent.parent.parent / "configs"
EVIL = "<script>alert(1)<&'x"


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory, trained):
    """The JSON's content and the path of the page: two tokenizers, one of an evil name, under two protocols."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(trained / "tokenizer", folder / EVIL)
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for i in range(9):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / "photos" / f"<b>{i}.png")
    tokenizers = f'["{trained}","{folder / EVIL}"]'
    words = [
        f"tokenizer={tokenizers}",
        f"data.root={folder}/photos",
        f"run.out={folder}/report.json",
        "data.image_size=32",
    ]
    words += ["data.num_workers=0", "metrics.lpips=null", "feature_network=none", "protocol=[canonical,openmagvit2]"]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("eval", overrides=words)
    return evaluate.evaluate(config), folder / "report.html"
