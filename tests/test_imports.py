"""Modules that are only sometimes needed are imported late."""

import ast
import inspect
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import vistok

ROOT = Path(__file__).parent.parent
HEAVY = ("pytorch_lightning", "torchmetrics", "torchvision", "matplotlib", "lpips", "skimage", "wandb", "timm",
         "webdataset", "scipy", "diffusers", "transformers", "onnx", "simplejpeg", "rich")  # fmt: skip
FRAMEWORKS = ("pytorch_lightning", "lightning_fabric", "hydra", "omegaconf", "matplotlib", "torchvision")


def modules_after(program, *words, cwd=None):
    """The error stream, and the modules that a new interpreter has imported when a program has ended."""
    ended = "import atexit, json, sys\natexit.register(lambda: print('MODULES', json.dumps(list(sys.modules))))\n"
    done = subprocess.run(
        [sys.executable, "-c", ended + program, *words],
        env={"PYTHONPATH": str(ROOT / "tokenizers"), "PATH": "", "HOME": os.environ.get("HOME", "")},
        capture_output=True, text=True, cwd=cwd, timeout=300,
    )  # fmt: skip
    _, found, listed = done.stdout.rpartition("MODULES ")
    assert found, done.stderr
    return done.stderr, set(json.loads(listed))


@pytest.mark.parametrize("program, unwanted", [
    ("import vistok, vistok.tokens; dir(vistok), vistok.__all__, vistok.__version__", (*HEAVY, "torch", "numpy")),
    ("import vistok.training.run, vistok.commands.train", (*HEAVY[:-1], "torch", "numpy")),
    ("import vistok.evaluation, vistok.evaluation.config_check, vistok.commands.eval", (*HEAVY[:-1], "torch", "numpy")),
    ("from vistok.tokens import TokenDataset, TokenStore", (*FRAMEWORKS, "webdataset", "scipy")),
    ("import vistok; vistok.codec.Codec, vistok.backbones, vistok.SimVQ", (*FRAMEWORKS, "webdataset", "scipy")),
    ("import vistok; vistok.load, vistok.Tokenizer, vistok.show, vistok.save", FRAMEWORKS),
])  # fmt: skip
def test_what_is_optional_is_not_imported(program, unwanted):
    _, modules = modules_after(program)
    assert modules & set(unwanted) == set()


def test_public_names():
    """The same ones for type checkers, for dir() and on use; all heads are among them."""
    public, packages = set(vistok.__all__), set()
    source = ast.parse(Path(vistok.__file__).read_text())
    (checked,) = (node for node in source.body if isinstance(node, ast.If))
    for node in checked.body:
        if node.module == "vistok":
            packages |= {alias.asname for alias in node.names}
        else:
            found = {alias.name: getattr(vistok, alias.name) for alias in node.names}
            assert found == {name: getattr(import_module(node.module), name) for name in found}
            public -= set(found)
    assert not public
    assert {name for name in dir(vistok) if not name.startswith("__")} == {*vistok.__all__, *packages}
    assert all(getattr(vistok, name) is import_module(f"vistok.{name}") for name in packages)
    heads = [getattr(vistok.quantizers, name) for name in vistok.quantizers.__all__]
    heads = {own.__name__ for own in heads if inspect.isclass(own) and issubclass(own, vistok.Quantizer)}
    assert heads - set(vistok.__all__) == {"MappedCodebook"}  # a base of heads
    with pytest.raises(AttributeError, match="module 'vistok' has no attribute 'nonsense'"):
        _ = vistok.nonsense


RUN = "import runpy\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.mark.parametrize("words, message", [
    (["train.py", "--help"], ""),
    (["train.py", "nonsense=1"], "there is no key nonsense"),
    (["train.py", "quantizer=nonsense"], "there is no quantizer=nonsense"),
    (["train.py", "data.root=photos"], "data.root needs data=folder"),
    (["train.py", "data=folder"], "missing on the command line: data.root=..."),
    (["train.py", "optim.updates=abc"], "optim.updates=abc must be a whole number"),
    (["train.py", "optim.updates=0"], "optim.updates must be at least 1, not 0"),
    (["train.py", "quantizer.codebook_size=1.5"], "quantizer.codebook_size=1.5 must be a whole number"),
    (["train.py", "optimizer.lr=abc"], "optimizer.lr=abc must be a number or Tensor"),
    (["train.py", "trainer.precision=17"], "trainer.precision=17 must be"),
    (["train.py", "+quantizer.cosin=true"], "quantizer.cosin: vistok.quantizers.VectorQuantizer has no such argument"),
    (["train.py", "model.trainable=codebook"], "model.trainable=codebook needs trained weights of the other parts"),
    (["train.py", "a=b=c"], "a=b=c cannot be read"),
    (["eval.py"], "missing on the command line: data.root=... tokenizer=..."),
    (["eval.py", "tokenizer=x", "data=sample", "data.batch_size=abc"], "data.batch_size=abc must be a whole number"),
    (["eval.py", "tokenizer=x", "data=sample", "model.rate=2"], "model.rate=2 must be a share in [0, 1]"),
    (["eval.py", "tokenizer=x", "data=sample", "protocol.canonical.crop=7"], "protocol.canonical.crop=7 must be text"),
])  # fmt: skip
def test_a_wrong_config_is_refused_before_torch_is_imported(words, message, tmp_path):
    said, modules = modules_after(RUN, str(ROOT / words[0]), *words[1:], cwd=tmp_path)
    assert message in said and (said.startswith("error: ") or not message) and len(said.splitlines()) <= 1
    assert modules & {"torch", "numpy", "pytorch_lightning", "torchvision", "matplotlib"} == set()
    assert not list(tmp_path.iterdir())
