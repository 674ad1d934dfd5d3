"""Every head into every target: what docs/export.md says is what happens, and refusals name a target that works.

Graphs are traced for some of them here, since each takes seconds; ``benchmarks/export_matrix.py`` made the table with
all.
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from vistok.commands.export import TARGETS
from vistok.formats.exporters.graphs import PROVIDED

spec = importlib.util.spec_from_file_location(
    "export_matrix", Path(__file__).parent.parent.parent.parent / "benchmarks" / "export_matrix.py"
)
matrix = importlib.util.module_from_spec(spec)
spec.loader.exec_module(matrix)

HEADS = {**matrix.heads(), "imported from Janus": ()}
GRAPHS = ("onnx", "torch")


def test_the_table_has_every_head():
    """A head with a YAML of its own is one of them; a new one has to be put to the proof."""
    documented = matrix.documented()
    assert list(documented) == list(HEADS) and all(list(row) == list(TARGETS) for row in documented.values())


@pytest.mark.parametrize("name", HEADS)
def test_targets(name, tmp_path):
    tokenizer, documented = matrix.tokenizer_of(HEADS[name]), matrix.documented()[name]
    for target in [target for target in TARGETS if target not in GRAPHS]:
        works, said = matrix.attempt(tokenizer, target, tmp_path / target)
        assert matrix.in_words(works, said) == documented[target], (target, said)
        assert works or "the targets onnx, torch and folder take it" in said
        assert works == (tmp_path / target).exists()
    lacking = tokenizer.quantizer.context_fields - PROVIDED
    graph = f"no: reads the {'mask' if 'mask' in lacking else 'image'}" if lacking else "yes"
    graph += ", for one size" if matrix.several_scales(tokenizer) else ""
    assert all(documented[target] == graph for target in GRAPHS)


@pytest.mark.parametrize("name, target", [
    ("bsq", "torch"),
    ("dqvae of lfq", "torch"),
    pytest.param("residual", "onnx", marks=pytest.mark.slow),
    pytest.param("fq of residual", "torch", marks=pytest.mark.slow),
    pytest.param("multiscale", "torch", marks=pytest.mark.slow),
    pytest.param("multiscale", "onnx", marks=pytest.mark.slow),
    pytest.param("lfq", "onnx", marks=pytest.mark.slow),
    pytest.param("fq of bsq", "onnx", marks=pytest.mark.slow),
    pytest.param("dqvae_triple", "torch", marks=pytest.mark.slow),
    pytest.param("imported from Janus", "torch", marks=pytest.mark.slow),
])  # fmt: skip
def test_graphs(name, target, tmp_path):
    works, said = matrix.attempt(matrix.tokenizer_of(HEADS[name]), target, tmp_path / target)
    assert works, said


@pytest.mark.parametrize("name, target, expected", [
    ("vq", "folder", "yes"),
    ("vq", "diffusers", "yes"),
    ("vq", "llamagen", "images of 1 and 1 channels, only for 3"),
    ("vq_cosine", "janus", "yes, by L2"),
    ("bsq", "folder", "yes"),
    ("dqvae_entropy", "folder", "yes"),
    pytest.param("lfq", "torch", "yes", marks=pytest.mark.slow),
])  # fmt: skip
def test_networks_of_one_channel(name, target, expected, tmp_path):
    works, said = matrix.attempt(matrix.tokenizer_of(HEADS[name], channels=1), target, tmp_path / target)
    assert expected in said if expected not in ("yes", "yes, by L2") else matrix.in_words(works, said) == expected, said


@pytest.mark.parametrize("target", ["diffusers", "janus"])
def test_codes_of_another_metric_are_counted(target, tmp_path):
    """A cosine head whose latents are near zero: searched by L2 most of its codes are others, and the card says so."""
    tokenizer = matrix.tokenizer_of(HEADS["vq_cosine"])
    with torch.no_grad():
        for parameter in tokenizer.to_latent.parameters():
            parameter.mul_(1e-7)
    parity = TARGETS[target](tokenizer, tmp_path / "out", image_size=16)
    assert 0 < parity.by_metric <= parity.codes
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"{parity.by_metric:,} codes are not those of the tokenizer, which compares by cosine" in text
