"""Training codebooks alone: everything else stays as it was, to the last bit."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vistok import Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.codec.reduction import reduced
from vistok.data import sample
from vistok.formats import native
from vistok.formats.tokenizer_paths import SLIM
from vistok.losses import Adversary, PatchGAN
from vistok.quantizers import (
    CodewordGradient,
    DynamicQuantizer,
    FactorizedQuantizer,
    FeatureRouter,
    RotationTrick,
    SimVQ,
    VectorQuantizer,
)
from vistok.quantizers.base import single_heads
from vistok.training.freezing import leave_codebooks
from vistok.training.module import LitTokenizer, parameters_of
from vistok.training.schedules import Schedule

from ..conftest import quiet_trainer

WEIGHTS = {"l1": 1.0, "commitment": 0.25, "codebook": 1.0, "adversarial": 0.1, "discriminator": 1.0}
HEADS = {
    "vq": lambda: VectorQuantizer(16, 4, estimator=CodewordGradient()),
    "fq of simvq": lambda: FactorizedQuantizer(
        [SimVQ(16, 2, estimator=CodewordGradient()), VectorQuantizer(8, 2, estimator=CodewordGradient())], False
    ),
    "dynamic": lambda: DynamicQuantizer(
        VectorQuantizer(16, 4, estimator=CodewordGradient()), FeatureRouter(4, 2, groups=2), None
    ),
}


def tokenizer_with(head):
    """A tokenizer whose networks have batch statistics and dropout, which training would change or disturb."""
    torch.manual_seed(0)
    size = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "attention": (), "dim": 4}
    tokenizer = Tokenizer(CNNEncoder(**size), head, CNNDecoder(**size))
    tokenizer.encoder.mid = nn.Sequential(tokenizer.encoder.mid, nn.BatchNorm2d(16), nn.Dropout(0.5))
    tokenizer.decoder.mid = nn.Sequential(tokenizer.decoder.mid, nn.BatchNorm2d(16), nn.Dropout(0.5))
    return tokenizer


def fit(tokenizer, frozen, **arguments):
    """Three updates with a validation after each, a discriminator, weight decay and averaged weights."""
    torch.manual_seed(0)
    adversary = Adversary(PatchGAN(channels=4, num_layers=1), start=1, adaptive=True)
    if frozen:
        leave_codebooks(tokenizer, adversary)
    terms = {*tokenizer.quantizer.loss_names, "l1", "adversarial", "discriminator"}
    module = LitTokenizer(
        tokenizer,
        {"l1": nn.L1Loss()},
        {name: weight for name, weight in WEIGHTS.items() if name in terms},
        partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1),
        Schedule(3),
        adversary=adversary,
        ema_decay=0.5,
        clip=1.0,
    )
    trainer = quiet_trainer(
        num_sanity_val_steps=1,
        limit_val_batches=1,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        log_every_n_steps=1,
    )
    trainer.fit(module, datamodule=sample(image_size=32, batch_size=4))
    return module


def changed(before, module):
    after = module.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


@pytest.mark.parametrize("kind", HEADS)
def test_nothing_but_codebooks_changes(kind):
    tokenizer = tokenizer_with(HEADS[kind]())
    before = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
    module = fit(tokenizer, frozen=True)
    heads = {id(p): p for head in single_heads(tokenizer.quantizer) for p in head.parameters()}
    learned = {name for name, tensor in tokenizer.state_dict(keep_vars=True).items() if id(tensor) in heads}
    assert changed(before, tokenizer) == learned and learned
    assert changed(before, module.average.tokenizer) == learned
    assert {id(p) for p in parameters_of(module.optimizers()[0].optimizer)} == set(heads)
    frozen = [part for name, part in tokenizer.named_modules() if isinstance(part, nn.BatchNorm2d | nn.Dropout)]
    assert len(frozen) == 4 and not any(part.training for part in frozen)


def test_otherwise_everything_would():
    tokenizer = tokenizer_with(HEADS["vq"]())
    before = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
    fit(tokenizer, frozen=False)
    assert {"encoder.mid.1.running_mean", "decoder.mid.1.running_var", "encoder.conv_in.weight"} <= changed(
        before, tokenizer
    )


def test_the_decoders_gradient_reaches_the_codewords_in_use():
    tokenizer = tokenizer_with(HEADS["vq"]())
    leave_codebooks(tokenizer)
    images = torch.randn(2, 3, 16, 16)
    reconstruction, quantized = tokenizer(images)
    reconstruction.square().mean().backward()
    used = torch.zeros(16, dtype=torch.bool)
    used[quantized.codes.unique()] = True
    assert torch.equal(tokenizer.quantizer.codewords.grad.abs().sum(1) > 0, used)


@pytest.mark.parametrize(
    ("head", "adversary", "message"),
    [
        (
            VectorQuantizer(16, 4, ema_decay=0.9),
            False,
            "this VectorQuantizer has no codebook that is learned by gradient",
        ),
        (VectorQuantizer(16, 4), True, "the StraightThrough estimator passes the decoder's gradient to the encoder"),
        (VectorQuantizer(16, 4, estimator=RotationTrick()), True, "the RotationTrick estimator"),
    ],
)
def test_heads_that_would_learn_nothing(head, adversary, message):
    with pytest.raises(ValueError, match=message):
        leave_codebooks(tokenizer_with(head), Adversary(PatchGAN(channels=4, num_layers=1)) if adversary else None)


def test_a_reduced_tokenizer_is_trained_further(trained, train, tmp_path):
    """From an exported folder through train.py: the networks in the new export are those of the old one."""
    tokenizer = native.load(trained)
    table = tokenizer.quantizer.codewords
    smaller = VectorQuantizer(6, table.shape[1])
    smaller.codewords.data.copy_(reduced(table, 6))
    tokenizer.quantizer = smaller
    native.save(tokenizer, tmp_path / "reduced")
    overrides = [f"model.init={tmp_path / 'reduced'}", "model.trainable=codebook", "quantizer=vq", "estimator=codeword"]
    run = train(tmp_path / "run", *overrides, "model.codebook_size=6", "optim.adversarial_start=1")
    before, after = (load_file(f / "model.safetensors") for f in (tmp_path / "reduced", run / "tokenizer"))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"quantizer.table"}


def test_a_decoder_is_trained_further(trained, train, tmp_path):
    """With moving averages in the head, an adversary and averaged weights: images keep their codes."""
    overrides = [f"model.init={trained}", "model.trainable=decoder", "optim.adversarial_start=0", "optim.ema_decay=0.5"]
    run = train(tmp_path / "run", *overrides)
    before, after = (load_file(f / SLIM) for f in (trained, run))
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"from_latent", "decoder"} and any(name.startswith("quantizer.ema") for name in before)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(native.load(run).tokenize(images), native.load(trained).tokenize(images))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.trainable=head"], "model.trainable must be all, codebook or decoder, not 'head'"),
        (["model.trainable=codebook"], "give model.init="),
        (["model.trainable=decoder"], "give model.init="),
        (
            ["model.trainable=decoder", "model.init=X", "optim.on_collapse=restart"],
            "optim.on_collapse=restart moves codewords, which model.trainable=decoder freezes",
        ),
        (["model.trainable=codebook", "model.init=X", "quantizer=vq_ema"], "take quantizer=vq"),
    ],
)
def test_configs_that_make_no_sense(train, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", *overrides)
    assert not (tmp_path / "run").exists()
