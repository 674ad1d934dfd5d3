"""Lines of ``inspect`` about a checkpoint: family, place, what was concluded and why, unknown settings, codes."""

import json

import pytest
import torch
from safetensors.torch import save_file

import vistok
from vistok import __main__ as command_line
from vistok.formats import native
from vistok.formats.inspection import codes, licence


def said(capsys, path):
    command_line.main(["inspect", str(path)])
    return " ".join(capsys.readouterr().out.split())


def test_a_tokenizer_within_a_larger_model(family, tmp_path, capsys):
    weights, _ = family("llamagen_vq")
    tree = {"model": {f"vq.{name}": own for name, own in weights.items()}, "step": 3}
    torch.save(tree | {"model_ema": {f"vq.{name}": own for name, own in weights.items()}}, tmp_path / "vq.pt")
    output = said(capsys, tmp_path / "vq.pt")
    assert "family: llamagen known by: encoder.conv_blocks.0.res.0.norm1.weight, quantize.embedding.weight" in output
    assert "wrapper: its names are under model_ema.vq." in output
    assert "weights: averaged, from model_ema.vq.*; weights='raw' gives the others" in output
    assert "also there: model.vq." in output
    assert "concluded from its sizes: codebook_l2_norm is True; config= gives another" in output
    assert "VectorQuantizer of 256 codewords of 8 channels, one code for each 2 x 2 pixels" in output
    assert "licence: its file and its folder state none" in output


def test_what_is_unknown(family, tmp_path, capsys):
    weights, _ = family("dqvae_triple_feat")
    save_file(weights, tmp_path / "model.safetensors", {"license": "mit"})
    output = said(capsys, tmp_path)  # the folder
    assert "unknown: its keys do not determine router.normalization_type: give config={'router': {'norm" in output
    assert "'group-16' or 'group-32'" in output and "licence: mit, by its metadata" in output


def test_a_folder_of_diffusers_and_its_card(family, tmp_path, capsys):
    weights, _ = family("diffusers_vqmodel")
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "VQModel", "norm_num_groups": 16}))
    (tmp_path / "README.md").write_text("---\ntags: [vq]\nlicense: apache-2.0\n---\n# A model\nlicense: other\n")
    output = said(capsys, tmp_path)
    assert "family: diffusers" in output and "VectorQuantizer of 128 codewords of 8 channels" in output
    assert "concluded" not in output and "licence: apache-2.0, by README.md beside it" in output
    (tmp_path / "README.md").write_text("# A model\nlicense: other\n")
    assert licence(tmp_path / "diffusion_pytorch_model.safetensors") is None


def test_a_folder_of_vistok(make_tokenizer, tmp_path, capsys):
    native.save(make_tokenizer(), tmp_path / "own")
    assert "parameters, VectorQuantizer of" in said(capsys, tmp_path / "own")


def test_what_is_no_tokenizer(tmp_path, capsys):
    torch.save({"unet.to_q.lora_A.weight": torch.ones(2)}, tmp_path / "lora.pt")
    assert "family: none that is known here vistok.load: it is a LoRA" in said(capsys, tmp_path / "lora.pt")
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    assert "vistok.load: it holds a list, not tensors by name" in said(capsys, tmp_path / "list.pt")


@pytest.mark.parametrize("name, given, expected", [
    ("dqvae_triple_feat", {"router": {"normalization_type": "group-32", "gate_type": "2layer-fc-SiLu"}},
     "1 to 16 codes for each 8 x 8 pixels"),
    ("fqgan_dual", {"adapter": {"heads": 4}}, "2 codes for each 8 x 8 pixels"),
    ("var_vqvae", {"v_patch_nums": [1, 2, 3, 5, 8]}, "103 codes on 5 grids for an image of 16 x 16 pixels"),
    ("rqvae", {}, "4 codes for each 4 x 4 pixels"),
])  # fmt: skip
def test_codes_by_layout(family_file, name, given, expected):
    assert codes(vistok.load(family_file(name), config=given)) == expected
