"""Logit-Laplace: the authors' values, what its pixel map shows, and how training reaches it."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vistok
from vistok import Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.data import sample
from vistok.formats import native
from vistok.images.ranges import LogitLaplaceMap
from vistok.losses import Adversary, LogitLaplace, PatchGAN
from vistok.quantizers import VectorQuantizer
from vistok.training.module import LitTokenizer
from vistok.training.schedules import Schedule

from ..conftest import quiet_trainer


def test_bsqvit(golden, close):
    io = golden("logit_laplace", "logit_laplace")
    output = torch.cat([io["mu"], io["lnb"]], dim=1).requires_grad_()
    images = 2 * io["images01"] - 1
    loss = LogitLaplace()(output, images)
    loss.backward()
    close(loss, io["loss.total"])
    close(output.grad, torch.cat([io["grad.mu"], io["grad.lnb"]], dim=1))
    pixels = LogitLaplaceMap()
    close(pixels.into(images), io["inmap"])
    close(pixels.out(output).clamp(-1, 1), 2 * io["reconstruction"] - 1)


def test_by_hand():
    """At ε = 0.25 white is y = 0.75, whose logit is ln 3."""
    output = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1)
    expected = (math.log(3) - 1) / math.exp(2) + 2 + math.log(0.75 * 0.25)
    loss = LogitLaplace(0.25)(output, torch.ones(1, 1, 1, 1))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    shown = LogitLaplaceMap(0.25).out(torch.tensor([math.log(3), 2.0]).reshape(1, 2, 1, 1))
    assert shown.item() == pytest.approx(1.0, rel=1e-6)


def test_in_float32_under_autocast():
    output, images = torch.randn(1, 6, 4, 4), torch.rand(1, 3, 4, 4) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        loss = LogitLaplace()(output, images)
    assert torch.equal(loss, LogitLaplace()(output, images))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="a decoder with out_channels=6, not 3"):
        LogitLaplace()(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="out_channels cannot be 3"):
        LogitLaplaceMap().out(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"above 0 and below 0.5, not 0.5"):
        LogitLaplace(0.5)


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    size = {"channels": 8, "multipliers": (1, 1), "num_blocks": 1, "attention": (), "dim": 4}
    decoder = CNNDecoder(**size, out_channels=6)
    return Tokenizer(CNNEncoder(**size), VectorQuantizer(8, 4), decoder, pixels=LogitLaplaceMap())


def fit(tokenizer, weights, **arguments):
    lit = LitTokenizer(
        tokenizer,
        {"l2": nn.MSELoss()},
        {"l2": 0.0, "commitment": 0.25, "codebook": 1.0} | weights,
        partial(torch.optim.SGD, lr=0.01),
        Schedule(1),
        output_losses={"logit_laplace": LogitLaplace()},
        **arguments,
    )
    trainer = quiet_trainer(
        limit_val_batches=1,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        log_every_n_steps=1,
    )
    data = sample(image_size=32, batch_size=4)
    trainer.fit(lit, datamodule=data)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}, data


def test_a_training_step_sees_both_maps(tokenizer):
    """The gradients of the likelihood alone move μ and ln b, and validation reports it for the tokenizer as it is."""
    before = tokenizer.decoder.conv_out.weight.clone()
    logs, data = fit(tokenizer, {"logit_laplace": 1.0})
    moved = (tokenizer.decoder.conv_out.weight - before).abs().flatten(1).amax(1)
    assert (moved > 1e-6).all() and len(moved) == 6
    images = next(iter(data.val_dataloader())).images.float() / 127.5 - 1
    with torch.no_grad():
        output = tokenizer.decoder_output(tokenizer.quantize(images).latent)
        assert logs["val/logit_laplace"] == pytest.approx(LogitLaplace()(output, images).item(), rel=1e-4)
        assert logs["val/l2"] == pytest.approx(F.mse_loss(tokenizer(images).reconstruction, images).item(), rel=1e-4)


def test_it_counts_in_the_adaptive_weight(tokenizer):
    """With no weight on L2 the ratio of gradients is that of the likelihood: not zero."""
    adversary = Adversary(PatchGAN(channels=4, num_layers=1), adaptive=True)
    logs, _ = fit(tokenizer, {"logit_laplace": 1.0, "adversarial": 0.1, "discriminator": 1.0}, adversary=adversary)
    assert logs["train/adversarial_scale"] > 0


def test_export(tokenizer, tmp_path):
    """``decode`` gives three channels, here and after a round trip."""
    images = torch.rand(1, 3, 8, 8) * 2 - 1
    loaded, codes = vistok.load(native.save(tokenizer, tmp_path)), tokenizer.eval().tokenize(images)
    assert loaded.pixels == LogitLaplaceMap()
    assert torch.equal(loaded.detokenize(codes), tokenizer.detokenize(codes))
    assert loaded.decode(loaded.quantizer.lookup(codes)).shape == images.shape
