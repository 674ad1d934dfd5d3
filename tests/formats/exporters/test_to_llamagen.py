"""A file in LlamaGen's layout has its names, and the tensors that its own code made."""

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

import vistok
from vistok.formats.exporters import to_llamagen
from vistok.formats.exporters.parity import ParityError
from vistok.quantizers import JanusQuantizer, SimVQ


def read(folder):
    return torch.load(folder / "vq_model.pt", weights_only=True)


def test_the_golden_model(family, tmp_path, close):
    """The exported file is what LlamaGen's code loads: all of its tensors are those that its code wrote."""
    weights, io = family("llamagen_vq")
    safetensors.torch.save_file(weights, tmp_path / "golden.safetensors")
    to_llamagen.save(vistok.load(tmp_path / "golden.safetensors"), tmp_path / "model")
    exported = read(tmp_path / "model")["model"]
    table = weights.pop("quantize.embedding.weight")
    assert exported.pop("quantize.codebook_used").shape == weights.pop("quantize.codebook_used").shape
    torch.testing.assert_close(exported.pop("quantize.embedding.weight"), F.normalize(table), rtol=0, atol=1e-7)
    assert exported.keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in exported.items())
    back = vistok.load(tmp_path / "model" / "vq_model.pt")
    assert torch.equal(back.tokenize(io["images"])[:, 0], io["codes"])
    close(back(io["images"]).reconstruction, io["reconstruction"])
    close(back.decode(back.quantizer.lookup(io["codes"][:, None])), io["decoded_from_codes"])


def test_its_own_names(make_vqgan, uneven, tmp_path):
    tokenizer = make_vqgan(uneven(cosine=True))
    to_llamagen.save(tokenizer, tmp_path / "model")
    model, ours = read(tmp_path / "model")["model"], tokenizer.state_dict()
    for theirs, name in {
        "encoder.conv_blocks.1.res.0.conv1.weight": "encoder.levels.1.blocks.0.conv1.weight",
        "encoder.conv_blocks.0.downsample.conv.bias": "encoder.levels.0.resample.conv.bias",
        "encoder.mid.1.proj_out.weight": "encoder.mid.1.out.weight",
        "decoder.conv_blocks.0.attn.1.q.weight": "decoder.levels.0.attentions.1.q.weight",
        "decoder.conv_blocks.0.upsample.conv.weight": "decoder.levels.0.resample.conv.weight",
        "quant_conv.weight": "to_latent.weight",
    }.items():
        assert torch.equal(model[theirs], ours[name])
    assert torch.equal(model["quantize.codebook_used"], torch.zeros(65536))


@pytest.mark.parametrize("cosine", [True, False])
def test_its_config(make_vqgan, uneven, tmp_path, cosine):
    tokenizer = make_vqgan(uneven(cosine=cosine), multipliers=(2, 4))
    to_llamagen.save(tokenizer, tmp_path / "model")
    config = read(tmp_path / "model")["config"]
    assert config == {
        "ch": 32, "num_res_blocks": 1, "encoder_ch_mult": [2, 4], "decoder_ch_mult": [2, 4], "z_channels": 16,
        "codebook_size": 128, "codebook_embed_dim": 4, "codebook_l2_norm": cosine,
    }  # fmt: skip
    back = vistok.load(tmp_path / "model" / "vq_model.pt", "llamagen", config)
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    assert torch.equal(back.tokenize(images), tokenizer.tokenize(images))


def test_a_learned_table_is_folded(make_vqgan, tmp_path):
    tokenizer = make_vqgan(SimVQ(64, 4))
    to_llamagen.save(tokenizer, tmp_path / "model")
    exported = read(tmp_path / "model")["model"]["quantize.embedding.weight"]
    torch.testing.assert_close(exported, tokenizer.quantizer.codebook().detach(), rtol=0, atol=0)


@pytest.mark.parametrize("arguments, message", [
    ({"attention": (0, 1)}, "attention=.0, 1., only for the last level, 1; the targets onnx, torch and folder take it"),
    ({"mid_attention": False}, "mid_attention=False"),
    ({"channels": 16, "norm_groups": 16}, "norms of 16 groups, only for 32"),
])  # fmt: skip
def test_networks_that_do_not_fit(make_vqgan, uneven, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=f"LlamaGen's layout cannot represent {message}"):
        to_llamagen.save(make_vqgan(uneven(), **arguments), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_two_tables_do_not_fit(make_vqgan, tmp_path):
    with pytest.raises(ValueError, match="a JanusQuantizer, which chooses codes in one table"):
        to_llamagen.save(make_vqgan(JanusQuantizer(64, 4)), tmp_path / "model")


def test_a_wrong_file_is_not_finished(make_vqgan, uneven, tmp_path, monkeypatch):
    monkeypatch.setattr(to_llamagen.plain, "codewords_are_unit", lambda tokenizer: True)
    with pytest.raises(ParityError, match="codes of images of 8x16 differ"):
        to_llamagen.save(make_vqgan(uneven()), tmp_path / "model")
    assert not list(tmp_path.iterdir())
