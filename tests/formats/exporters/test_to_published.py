"""Tokenizers written in the layouts of published checkpoints: the authors' names and tensors, and what is refused."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import vistok
from vistok.commands import export
from vistok.formats import native
from vistok.formats.exporters import to_published
from vistok.formats.exporters.parity import ParityError
from vistok.formats.importers import from_taming
from vistok.quantizers import BinaryQuantizer, JanusQuantizer, SimVQ, VectorQuantizer

GOLDEN = {  # golden file: the family, settings that its keys do not tell, and tensors that are not read
    "taming_vqgan": ("taming", {}, ()),
    "ldm_vq": ("taming", {}, ()),
}


def written(folder, family):
    """Tensors by name in an exported folder."""
    container = to_published.WRITTEN[family].container
    path = folder / container.file
    if path.suffix == ".safetensors":
        return load_file(path)
    content = torch.load(path, weights_only=True)
    return content if container.within is None else content[container.within]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_come_back(family, tmp_path, name):
    """Read and written: the authors' names again, and every tensor that is read bit for bit."""
    theirs, io = family(name)
    layout, config, ignored = GOLDEN[name]
    save_file(theirs, tmp_path / "golden.safetensors")
    tokenizer = vistok.load(tmp_path / "golden.safetensors", layout, config)
    parity = to_published.save(tokenizer, tmp_path / "out", family=layout)
    assert parity.codes and not parity.near_ties and parity.pixels < 1e-5
    ours = written(tmp_path / "out", layout)
    assert ours.keys() == theirs.keys()
    differing = [key for key, tensor in ours.items() if not torch.equal(tensor, theirs[key])]
    assert set(differing) <= set(ignored)
    assert all(tensor.dtype == theirs[key].dtype and tensor.shape == theirs[key].shape for key, tensor in ours.items())
    back = vistok.load(tmp_path / "out" / to_published.WRITTEN[layout].container.file, layout, config)
    assert torch.equal(back.tokenize(io["images"]).reshape(io["codes"].shape), io["codes"])


@pytest.mark.parametrize("head, arguments", [
    (lambda: VectorQuantizer(50, 7), {"multipliers": (1, 3, 2), "attention": (0, 2)}),
    (lambda: VectorQuantizer(50, 7, ema_decay=0.9, kmeans_updates=3), {"num_blocks": 3, "dim": 5}),
    (lambda: VectorQuantizer(50, 7), {"attention": (), "mid_attention": False}),
    (lambda: SimVQ(50, 16), {"dim": 16}),
])  # fmt: skip
def test_taming_of_other_sizes(make_vqgan, tmp_path, head, arguments):
    tokenizer = make_vqgan(head(), **arguments)
    with torch.no_grad():
        for stored in tokenizer.quantizer.state_dict(keep_vars=True).values():
            if stored.ndim > 1:
                stored.normal_(std=0.3)
    parity = to_published.save(tokenizer, tmp_path / "out")
    config = yaml.safe_load((tmp_path / "out" / "ldm.yaml").read_text())["model"]["params"]
    assert parity.pixels < 1e-5
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    back = vistok.load(tmp_path / "out" / "model.ckpt", "taming", config)
    assert torch.equal(back.tokenize(images), tokenizer.tokenize(images))
    assert len(back.tokenize(images).unique()) > 1


def test_settings_of_taming(make_vqgan, tmp_path):
    """What their loader gets, worked out by hand: levels with attention are named by their resolution."""
    tokenizer = make_vqgan(VectorQuantizer(50, 7), multipliers=(1, 3, 2), attention=(0, 2))
    to_published.save(tokenizer, tmp_path / "out", {"name": "a model"})
    model = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["model"]
    assert model == {
        "target": "taming.models.vqgan.VQModel",
        "params": {
            "n_embed": 50, "embed_dim": 7, "lossconfig": {"target": "taming.modules.losses.vqperceptual.DummyLoss"},
            "ddconfig": {
                "double_z": False, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
                "ch_mult": [1, 3, 2], "num_res_blocks": 1, "attn_resolutions": [256, 64], "dropout": 0.0,
            },
        },
    }  # fmt: skip
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# a model" in card and "VQModelInterface" in card and "all 96 codes" in card


def test_without_attention_the_model_is_latent_diffusions(make_vqgan, tmp_path):
    to_published.save(make_vqgan(VectorQuantizer(50, 7), attention=(), mid_attention=False), tmp_path / "out")
    model = yaml.safe_load((tmp_path / "out" / "ldm.yaml").read_text())["model"]
    assert model["params"]["ddconfig"]["attn_type"] == "none" and model["target"].endswith(".VQModelInterface")
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_maps_that_a_layout_has_and_a_tokenizer_has_not(make_vqgan, uneven, tmp_path):
    tokenizer = make_vqgan(uneven(16))
    tokenizer.to_latent = tokenizer.from_latent = torch.nn.Identity()
    to_published.save(tokenizer, tmp_path / "out")
    state = written(tmp_path / "out", "taming")
    assert torch.equal(state["quant_conv.weight"][:, :, 0, 0], torch.eye(16)) and not state["quant_conv.bias"].any()


@pytest.mark.parametrize("head, arguments, message", [
    (lambda: VectorQuantizer(50, 7), {"channels": 16}, "norms of 16, 32 groups, only for one number"),
    (lambda: VectorQuantizer(50, 7), {"mid_attention": False}, "attention in levels but not between the middle"),
    (lambda: VectorQuantizer(50, 7), {"patch": 2}, "patch=2, only for 1"),
    (lambda: JanusQuantizer(50, 7), {}, "a JanusQuantizer, which chooses codes in one table and decodes another"),
    (lambda: BinaryQuantizer(7), {}, "a BinaryQuantizer: its codewords are computed"),
])  # fmt: skip
def test_what_taming_cannot_hold_is_refused(make_vqgan, tmp_path, head, arguments, message):
    with pytest.raises(ValueError, match=f"taming-transformers' layout cannot represent ({message})"):
        to_published.save(make_vqgan(head(), **arguments), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change, message", [
    (lambda published: published.tokenizer.quantizer.codewords.data.mul_(1.001), "1 parts of it are read otherwise"),
    (lambda published: published.tokenizer.decoder.conv_out.bias.data.add_(1), "decoded images differ by 1.0e"),
])  # fmt: skip
def test_a_wrong_file_is_not_finished(make_vqgan, uneven, tmp_path, monkeypatch, change, message):
    """Tensors that are read otherwise, and a form of the layout that is not the tokenizer."""
    real_write, real_save = from_taming.write, to_published.write_weights

    def write(tokenizer):
        published = real_write(tokenizer)
        if "decoded" in message:
            change(published)
        return published

    def save(layout, published, folder):
        path = real_save(layout, published, folder)
        if "read" in message:
            change(published)
        return path

    layout = to_published.WRITTEN["taming"]
    monkeypatch.setitem(to_published.WRITTEN, "taming", layout._replace(write=write))
    monkeypatch.setattr(to_published, "write_weights", save)
    with pytest.raises(ParityError, match=message):
        to_published.save(make_vqgan(uneven()), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_command(make_vqgan, uneven, tmp_path, capsys):
    """Any family that is written is a target; settings of the file are those that reading takes."""
    native.save(make_vqgan(uneven()), tmp_path / "ours")
    export.main([str(tmp_path / "ours"), "--to", "taming", "--out", str(tmp_path / "out")])
    assert "all 96 codes" in capsys.readouterr().out
    given = json.dumps(yaml.safe_load((tmp_path / "out" / "ldm.yaml").read_text())["model"]["params"])
    again = [str(tmp_path / "out" / "model.ckpt"), "--family", "taming", "--family-config", given]
    export.main([*again, "--to", "taming", "--out", str(tmp_path / "again")])
    first, second = written(tmp_path / "out", "taming"), written(tmp_path / "again", "taming")
    assert first.keys() == second.keys() and all(torch.equal(second[name], tensor) for name, tensor in first.items())
