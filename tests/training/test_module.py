"""The training step: what it optimizes, and when."""

import json
import math
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from vistok.data import sample
from vistok.losses import Adversary, PatchGAN
from vistok.quantizers import code_statistics
from vistok.training.callbacks.finite import FiniteMonitor, NotFinite
from vistok.training.module import LitTokenizer, weighted_sum
from vistok.training.schedules import Schedule

from ..conftest import quiet_trainer

WEIGHTS = {"l1": 1.0, "commitment": 0.25, "codebook": 1.0}
GAN_WEIGHTS = WEIGHTS | {"adversarial": 0.1, "discriminator": 1.0}


def lit(make_tokenizer, weights=WEIGHTS, updates=2, optimizer=None, **arguments):
    head = {"ema_decay": 0.9} if "codebook" not in weights else {}
    return LitTokenizer(
        make_tokenizer(**head),
        {"l1": nn.L1Loss()},
        weights,
        optimizer or partial(torch.optim.Adam, lr=1e-3),
        Schedule(updates),
        **arguments,
    )


def adversary(**arguments):
    torch.manual_seed(0)
    return Adversary(PatchGAN(channels=4, num_layers=1), **arguments)


def fit(module, batch_size=4, **arguments):
    trainer = quiet_trainer(
        limit_val_batches=0,
        log_every_n_steps=1,
        **arguments,
    )
    trainer.fit(module, datamodule=sample(image_size=32, batch_size=batch_size))
    return trainer


def changed(module, action):
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    action()
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def test_weighted_sum():
    terms = {"a": torch.tensor(2.0), "b": torch.tensor(float("nan")), "c": torch.tensor(3.0)}
    assert weighted_sum(terms, {"a": 0.5, "b": 0.0, "c": 1.0}, {"c": torch.tensor(10.0)}) == 31
    with pytest.raises(KeyError):
        weighted_sum(terms, {"a": 1.0})


@pytest.mark.parametrize("weights, message", [
    ({"l1": 1.0, "commitment": 0.25}, r"without a weight: \['codebook'\]; without a term: none"),
    (WEIGHTS | {"lpips": 1.0}, r"without a weight: none; without a term: \['lpips'\]"),
])  # fmt: skip
def test_terms_and_weights_must_match(make_tokenizer, weights, message):
    with pytest.raises(ValueError, match=message):
        LitTokenizer(make_tokenizer(), {"l1": nn.L1Loss()}, weights, torch.optim.Adam, Schedule(1))


def test_it_stops_after_its_updates(make_tokenizer):
    module = lit(make_tokenizer, updates=3)
    fit(module)
    assert module.updates == module.batches == 3


def test_without_an_adversary_all_of_the_tokenizer_learns(make_tokenizer):
    module = lit(make_tokenizer)
    moved = changed(module.tokenizer, lambda: fit(module))
    assert moved == set(module.tokenizer.state_dict())


def test_the_adversary_waits_for_its_start(make_tokenizer):
    module = lit(make_tokenizer, GAN_WEIGHTS, updates=2, adversary=adversary(start=2))
    assert not changed(module.adversary, lambda: fit(module))
    module = lit(make_tokenizer, GAN_WEIGHTS, updates=3, adversary=adversary(start=2, adaptive=True))
    trainer = None

    def run():
        nonlocal trainer
        trainer = fit(module)

    assert "discriminator.layers.0.weight" in changed(module.adversary, run)
    assert {"train/adversarial", "train/discriminator", "train/adversarial_scale"} <= set(trainer.callback_metrics)


def test_the_generators_pass_leaves_no_gradient_in_the_discriminator(make_tokenizer):
    """With a weight of 0 the discriminator must stay as it is, however hard the generator pulls."""
    weights = GAN_WEIGHTS | {"adversarial": 10.0, "discriminator": 0.0}
    module = lit(make_tokenizer, weights, adversary=adversary(), optimizer=partial(torch.optim.SGD, lr=0.1))
    moved = changed(module.adversary, lambda: fit(module))
    assert not {name for name in moved if name.endswith((".weight", ".bias"))}


def test_a_head_leaves_out_the_entropy_of_weight_0(make_tokenizer, monkeypatch):
    tokenizer = make_tokenizer(entropy_temperature=0.1)
    made = []
    monkeypatch.setattr(code_statistics, "entropy", lambda z, *_: made.append(1) or z.sum())
    for weight, expected in ((0.0, 0), (0.1, 2)):
        weights = WEIGHTS | {"entropy": weight}
        fit(LitTokenizer(tokenizer, {"l1": nn.L1Loss()}, weights, partial(torch.optim.Adam, lr=1e-3), Schedule(2)))
        assert len(made) == expected


def test_accumulating_two_batches_is_one_of_both(make_tokenizer):
    whole = lit(make_tokenizer, updates=1, optimizer=partial(torch.optim.SGD, lr=0.1))
    fit(whole, batch_size=8)
    halves = lit(make_tokenizer, updates=1, accumulate=2, optimizer=partial(torch.optim.SGD, lr=0.1))
    fit(halves, batch_size=4)
    assert (halves.updates, halves.batches) == (1, 2)
    for name, tensor in whole.tokenizer.state_dict().items():
        torch.testing.assert_close(halves.tokenizer.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_accumulated_statistics_are_one_update_of_the_codebook(make_tokenizer):
    weights = {"l1": 1.0, "commitment": 0.25}
    whole, halves = lit(make_tokenizer, weights, updates=1), lit(make_tokenizer, weights, updates=1, accumulate=2)
    fit(whole, batch_size=8)
    fit(halves, batch_size=4)
    torch.testing.assert_close(halves.tokenizer.quantizer.ema_counts, whole.tokenizer.quantizer.ema_counts)
    torch.testing.assert_close(halves.tokenizer.quantizer.codewords, whole.tokenizer.quantizer.codewords)


def test_clipping_bounds_the_step(make_tokenizer):
    module = lit(make_tokenizer, updates=1, clip=1e-3, optimizer=partial(torch.optim.SGD, lr=1.0))
    before = nn.utils.parameters_to_vector(module.tokenizer.parameters()).clone()
    fit(module)
    step = nn.utils.parameters_to_vector(module.tokenizer.parameters()) - before
    assert step.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_the_schedule_counts_updates(make_tokenizer):
    rates = []

    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    module = LitTokenizer(
        make_tokenizer(),
        {"l1": nn.L1Loss()},
        WEIGHTS,
        partial(Recorder, lr=1.0),
        Schedule(4, decay="linear"),
        accumulate=2,
    )
    fit(module)
    assert rates == [1.0, 0.75, 0.5, 0.25]


def test_averaged_weights_are_what_is_evaluated(make_tokenizer):
    module = lit(make_tokenizer, updates=2, ema_decay=0.5)
    first = module.tokenizer.encoder.conv_in.weight.detach().clone()
    seen = []
    update = module.average.update
    module.average.update = lambda t, made: (seen.append(t.encoder.conv_in.weight.detach().clone()), update(t, made))
    fit(module)
    expected = 0.5 * (0.5 * first + 0.5 * seen[0]) + 0.5 * seen[1]
    torch.testing.assert_close(module.evaluated.encoder.conv_in.weight, expected)


def test_bfloat16_autocast_trains_with_finite_numbers(make_tokenizer):
    module = lit(make_tokenizer, GAN_WEIGHTS, adversary=adversary(adaptive=True))
    trainer = fit(module, precision="bf16-mixed")
    assert all(torch.isfinite(value) for value in trainer.callback_metrics.values())
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


def test_frozen_losses_are_not_saved(make_tokenizer):
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = nn.Linear(3, 3).requires_grad_(False)

        def forward(self, reconstruction, images):
            return (reconstruction - images).abs().mean()

    class Learned(Frozen):
        def __init__(self):
            super().__init__()
            self.network.requires_grad_(True)

    losses = {"frozen": Frozen(), "learned": Learned()}
    weights = {"frozen": 1.0, "learned": 1.0, "commitment": 1.0, "codebook": 1.0}
    module = LitTokenizer(make_tokenizer(), losses, weights, torch.optim.Adam, Schedule(1))
    groups = {key.rsplit(".", 2)[0] for key in module.saved(module.state_dict()) if key.startswith("image_losses.")}
    assert groups == {"image_losses.learned"}


def poisoned(module, when):
    """Make the reconstruction loss of chosen batches not a number."""
    forward = module.image_losses["l1"].forward
    module.image_losses["l1"].forward = lambda r, i: forward(r, i) * (float("nan") if module.batches in when else 1.0)
    return module


def test_a_step_that_is_not_finite_updates_nothing(make_tokenizer):
    weights = {"l1": 1.0, "commitment": 0.25, "adversarial": 0.1, "discriminator": 1.0}
    judge = {"adversary": adversary(start=0), "ema_decay": 0.5, "clip": 1.0}
    module = poisoned(lit(make_tokenizer, weights, updates=2, **judge), when={1})
    states, outputs = [], []

    class Recorder(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            running = ("running_mean", "running_var", "num_batches_tracked")  # the discriminator's forward moves these
            state = {key: t.clone() for key, t in module.state_dict().items() if not key.endswith(running)}
            states.append((state, module.optimizers()[0].optimizer.state_dict()["state"][0]["step"].clone()))
            outputs.extend(module.take_outcomes())

    fit(module, callbacks=[Recorder()])
    assert (module.updates, module.batches) == (2, 3)
    assert [outcome.update for outcome in outputs] == [0, 1, 1]
    assert not outputs[0].skipped and not outputs[2].skipped
    assert math.isnan(outputs[1].skipped["l1 of batch 0"])
    (before, steps), (after, later), (last, _) = states
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items()) and steps == later == 1
    assert any(not torch.equal(last[name], tensor) for name, tensor in after.items())
    assert all(tensor.isfinite().all() for tensor in last.values())


def test_a_gradient_that_is_not_finite_is_seen_too(make_tokenizer):
    module = lit(make_tokenizer, updates=1)
    weight = module.tokenizer.encoder.conv_in.weight
    calls = []
    weight.register_hook(lambda g: g * float("inf") if not calls.append(1) and len(calls) == 1 else g)
    fit(module)
    assert (module.updates, module.batches) == (1, 2) and weight.isfinite().all()


def test_a_run_that_stays_not_finite_is_stopped(make_tokenizer, tmp_path, capsys):
    module = poisoned(lit(make_tokenizer, updates=50), when=range(3, 1000))
    with pytest.raises(NotFinite, match=r"4 updates in a row were not finite \(l1 of batch 0, gradient norm"):
        fit(module, callbacks=[FiniteMonitor(tmp_path, patience=4)])
    lines = [json.loads(line) for line in (tmp_path / "not_finite.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [3] * 4 and module.updates == 3
    assert lines[0]["values"]["l1 of batch 0"] == "nan" and len(lines[0]["images"]) == 4
    assert "update 3 was skipped: l1 of batch 0" in capsys.readouterr().out
