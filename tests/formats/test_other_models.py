"""Models that are no tokenizers: the message says what each is, and what to do."""

import argparse

import pytest
import torch
from torch import nn

import vistok
from vistok.formats.other_models import other_model

ONE, TWO = torch.ones(1), torch.ones(2, 2)


def conv(out, into):
    return torch.ones(out, into, 1, 1)


KL = {"encoder.conv_out.weight": conv(8, 32), "decoder.conv_in.weight": conv(32, 4)}
MODELS = [
    ({f"vae.{name}": own for name, own in KL.items()}, "a continuous autoencoder"),
    (KL | {"quant_conv.weight": conv(8, 8), "post_quant_conv.weight": conv(4, 4)}, "continuous autoencoder.*take a VQ"),
    ({"0.exp_avg": ONE, "0.exp_avg_sq": ONE, "1.momentum_buffer": ONE}, "only an optimizer's state.*model_states.pt"),
    ({"unet.down.to_q.lora_A.weight": TWO, "unet.down.to_q.lora_B.weight": TWO}, "is a LoRA.*merge it"),
    ({"lora_unet_down_blocks_0.lora_down.weight": TWO}, "is a LoRA"),
    ({"encoder.conv_out.weight": conv(4, 32), "quantize.embedding.weight": TWO}, "has no decoder.*the original file"),
    ({"decoder.conv_in.weight": conv(32, 4), "quantize.embedding.weight": TWO}, "a decoder and no encoder"),
    ({"a.encoder.levels.0.blocks.0.norm1.weight": ONE}, "it is vistok's own: load the exported folder"),
    (
        {"layers.0.attention.wqkv.weight": TWO, "tok_embeddings.weight": TWO, "output.weight": TWO},
        "a generator of codes",
    ),
    ({"word_embed.weight": TWO, "blocks.0.attn.proj.weight": TWO}, "a generator of codes"),
    ({"model.diffusion_model.out.0.weight": ONE}, "a diffusion model without its tokenizer"),
]


@pytest.mark.parametrize("tensors, message", MODELS, ids=range(len(MODELS)))
@pytest.mark.parametrize("arguments, start", [({}, ""), ({"family": "taming"}, "its names are those of no known .*: ")])
def test_what_a_model_is(tmp_path, tensors, message, arguments, start):
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=f"{start}.*{message}"):
        vistok.load(tmp_path / "model.pt", **arguments)


@pytest.mark.parametrize("tensors", [{}, {"fc.weight": TWO}, KL | {"quantize.embedding.weight": TWO},
                                     KL | {"post_quant_conv.weight": conv(8, 8)}])  # fmt: skip
def test_what_is_not_known_is_not_named(tensors):
    assert not tensors or other_model(tensors) is None


def test_optimizers_alone(tmp_path):
    weights = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(weights.parameters())
    weights(ONE.new_ones(1, 2)).sum().backward()
    optimizer.step()
    for tree in (optimizer.state_dict(), {"optimizer": optimizer.state_dict(), "epoch": 3}):
        torch.save(tree, tmp_path / "optimizer.pt")
        with pytest.raises(ValueError, match="only an optimizer's state, no weights"):
            vistok.load(tmp_path / "optimizer.pt")


@pytest.mark.parametrize("wrap, message", [
    (lambda own: own, "holds a whole object of argparse.Namespace.*save its state_dict"),
    (lambda own: {"epoch": 3, "model": own}, "its model is a whole object of argparse.Namespace"),
])  # fmt: skip
def test_whole_objects(tmp_path, wrap, message):
    torch.save(wrap(argparse.Namespace(weights=1)), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=message):
        vistok.load(tmp_path / "model.pt")


def test_parameters_that_deepspeed_left_out(tmp_path):
    names = ("encoder.down.0.block.0.norm1.weight", "quantize.embedding.weight", "decoder.conv_in.weight")
    torch.save({"module": {f"vq.{name}": torch.empty(0) for name in names}}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(ValueError, match="has no values: ZeRO-3 of DeepSpeed leaves them out"):
        vistok.load(tmp_path / "mp_rank_00_model_states.pt", family="taming")
