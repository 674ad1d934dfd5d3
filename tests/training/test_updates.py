"""Updates: decided on the device, each gradient computed once, nothing read by the host between logging intervals."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vistok.data import sample
from vistok.losses import R1, Adversary, DiffAug, LeCam, PatchGAN
from vistok.losses.adversarial import adaptive_weight
from vistok.training.callbacks.codebook_health import CodebookHealth
from vistok.training.callbacks.finite import FiniteMonitor
from vistok.training.callbacks.progress import ProgressLine
from vistok.training.cost import Step
from vistok.training.module import LitTokenizer, weighted_sum
from vistok.training.schedules import Schedule
from vistok.training.updates import Decisions, step

from ..conftest import quiet_trainer

ADAM = partial(torch.optim.Adam, lr=1e-3, fused=True)
WEIGHTS = {"l1": 1.0, "l2": 0.5, "commitment": 0.25, "adversarial": 0.3, "discriminator": 0.7}


def adversary(**arguments):
    torch.manual_seed(1)
    return Adversary(PatchGAN(channels=4, num_layers=1), adaptive=True, max_weight=1e6, **arguments)


def lit(make_tokenizer, judge, weights=WEIGHTS, optimizer=ADAM, updates=20, **arguments):
    tokenizer = make_tokenizer(ema_decay=0.9, restart=0.5, kmeans_updates=2)
    losses = {"l1": nn.L1Loss(), "l2": nn.MSELoss()}
    return LitTokenizer(tokenizer, losses, weights, optimizer, Schedule(updates), adversary=judge, **arguments)


def fit(module, callbacks=(), accelerator="cpu", log_every=1):
    trainer = quiet_trainer(
        accelerator=accelerator,
        devices=1,
        limit_val_batches=0,
        log_every_n_steps=log_every,
        callbacks=list(callbacks),
    )
    trainer.fit(module, datamodule=sample(image_size=32, batch_size=4))
    return trainer


def images_of(batch=4, size=32):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def gradients_of(module, images):
    """All gradients of one batch, by name, and the terms."""
    terms = {}
    module._finish_update = lambda adversarial: terms.update(module._contributions.terms[-1])
    Step(module, gpu=False, mixed=False)(images)
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}, terms


def test_the_step_has_the_gradients_of_the_plain_form(make_tokenizer):
    """One loss with the adaptive weight, one backward pass through everything, and the discriminator's own."""
    images = images_of()
    ours, terms = gradients_of(lit(make_tokenizer, adversary()), images)
    module = lit(make_tokenizer, adversary()).train()
    reconstruction, quantized = module.tokenizer(images)
    pixel_terms = module.compare(reconstruction, reconstruction, images)
    module.adversary.learns(False)
    adversarial = module.adversary.generator_loss(reconstruction)
    pixel_loss = weighted_sum(pixel_terms, WEIGHTS)
    scale = adaptive_weight(pixel_loss, adversarial, module.tokenizer.decoder.last_layer, 1e6)
    (pixel_loss + 0.3 * scale * adversarial + weighted_sum(quantized.losses, WEIGHTS)).backward()
    module.adversary.learns(True)
    discriminator = module.adversary.discriminator_step(reconstruction, images, 0).terms["discriminator"]
    (0.7 * discriminator).backward()
    plain = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    assert set(ours) == set(plain) and 0 < scale < 1e6
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max() + 1))
    expected = pixel_terms | quantized.losses | {"adversarial": adversarial, "discriminator": discriminator}
    assert terms.keys() == expected.keys()
    assert all(torch.equal(terms[name], term.detach()) for name, term in expected.items())


def test_shared_logits_change_nothing_that_is_learned(make_tokenizer, monkeypatch):
    def learned(repeatable):
        monkeypatch.setattr(PatchGAN, "repeatable", repeatable)
        module = lit(make_tokenizer, adversary(regularizers={"lecam": LeCam(0.5)}), WEIGHTS | {"lecam": 0.1}, updates=3)
        passes = []
        module.adversary.discriminator.register_forward_hook(lambda *_: passes.append(1))
        trainer = fit(module)
        return module.state_dict(), dict(trainer.callback_metrics), len(passes)

    (ours, logs, passes), (plain, plain_logs, more) = learned(True), learned(False)
    assert (passes, more) == (6, 9)
    assert logs == plain_logs
    running = ("running_mean", "running_var", "num_batches_tracked")  # the reconstructions count there once, not twice
    assert all(torch.equal(ours[name], tensor) for name, tensor in plain.items() if not name.endswith(running))


def test_logits_are_not_shared_where_they_would_differ():
    assert adversary().repeatable and not adversary(augmentation=DiffAug()).repeatable
    assert not Adversary(nn.Conv2d(3, 1, 3)).repeatable  # it does not say so


class Reads(TorchDispatchMode):
    """Operations for which the host waits for a GPU: numbers read from tensors, and shapes that depend on values."""

    WAIT = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "bincount")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name in self.WAIT or by_mask:
            self.seen.append(name)
        return operation(*args, **(kwargs or {}))


class BetweenLogs(pl.Callback):
    """Enters a context at the beginning of a batch, and leaves it at the end of a later one."""

    def __init__(self, enter, leave, first=1, last=5):
        self.enter, self.leave, self.first, self.last = enter, leave, first, last

    def on_train_batch_start(self, trainer, module, *_):
        if module.batches == self.first:
            self.enter()

    def on_train_batch_end(self, trainer, module, *_):
        if module.batches == self.last:
            self.leave()


def everything(make_tokenizer, **arguments):
    """A module with all that a step can have."""
    judge = adversary(regularizers={"r1": R1(every=2), "lecam": LeCam()}, augmentation=DiffAug(), warmup=3)
    weights = WEIGHTS | {"r1": 1.0, "lecam": 0.1}
    return lit(make_tokenizer, judge, weights, ema_decay=0.9, clip=1.0, updates=8, **arguments)


def test_nothing_is_read_between_logging_intervals(make_tokenizer, tmp_path):
    reads = Reads()
    between = BetweenLogs(reads.__enter__, lambda: reads.__exit__(None, None, None))
    callbacks = [CodebookHealth(), ProgressLine(), FiniteMonitor(tmp_path), between]
    module = everything(make_tokenizer)
    fit(module, callbacks, log_every=8)
    assert module.updates == 8 and reads.seen == []


def test_an_optimizer_that_is_not_fused_is_read_for(make_tokenizer, tmp_path):
    reads = Reads()
    between = BetweenLogs(reads.__enter__, lambda: reads.__exit__(None, None, None))
    fit(everything(make_tokenizer, optimizer=partial(torch.optim.RMSprop, lr=1e-3)), [between], log_every=8)
    assert reads.seen == ["_local_scalar_dense"] * 8  # two optimizers, four updates


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_for_the_gpu_between_logging_intervals(make_tokenizer, tmp_path):
    between = BetweenLogs(partial(torch.cuda.set_sync_debug_mode, "error"), partial(torch.cuda.set_sync_debug_mode, 0))
    callbacks = [CodebookHealth(), ProgressLine(), FiniteMonitor(tmp_path), between]
    try:
        fit(everything(make_tokenizer), callbacks, accelerator="gpu", log_every=8)
    finally:
        torch.cuda.set_sync_debug_mode(0)


@pytest.mark.parametrize("optimizer", [ADAM, partial(torch.optim.Adam, lr=1e-3)])
def test_skipped_updates_are_known_at_the_next_logging_interval(make_tokenizer, optimizer):
    """Nothing has changed by then, not even an optimizer's count of its steps; the update is made up for."""
    module = everything(make_tokenizer, optimizer=optimizer)
    forward = module.image_losses["l1"].forward
    bad = (2, 3)
    module.image_losses["l1"].forward = lambda r, i: forward(r, i) * (float("inf") if module.batches in bad else 1.0)
    states, counts = [], []

    class Recorder(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            states.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
            counts.append(module.updates)

    fit(module, [Recorder()], log_every=5)
    assert counts == [1, 2, 3, 4, 3, 4, 5, 6, 7, 8]
    assert [outcome.update for outcome in module.take_outcomes() if outcome.skipped] == [2, 2]
    for after in bad:
        assert all(torch.equal(states[after][name], tensor) for name, tensor in states[1].items())
    assert all(any(not torch.equal(states[i][n], states[i - 1][n]) for n in states[i]) for i in (1, 4, 5))
    assert all(o.optimizer.state_dict()["state"][0]["step"] == 8 for o in module.optimizers())


def test_a_count_that_was_ahead_when_a_signal_saved_stays_so_until_the_next_logging_interval(make_tokenizer):
    module = lit(make_tokenizer, None, {name: WEIGHTS[name] for name in ("l1", "l2", "commitment")})
    module.on_load_checkpoint({"updates": 7, "batches": 9, "random_state": {}, "ahead": 2})
    assert module.updates == 9  # as the run without the signal would have counted
    module._decisions.decide({"a": torch.tensor(1.0)})
    module._decisions.decide({"a": torch.tensor(float("nan"))})
    module.updates += 2
    assert module.settle() == 3 and module.updates == 8
    assert [outcome.update for outcome in module.take_outcomes()] == [7, 8]
    assert module.settle() == 0 and module.updates == 8
    module.on_load_checkpoint({"updates": 7, "batches": 9, "random_state": {}})  # an earlier one
    assert module.updates == 7


def test_what_is_not_finite_is_named(make_tokenizer):
    module = everything(make_tokenizer)
    assert module.not_finite() == []
    with torch.no_grad():
        module.tokenizer.quantizer.codewords[3, 1] = float("inf")
        next(module.adversary.discriminator.parameters()).view(-1)[0] = float("nan")
    assert module.not_finite()[0] == "tokenizer.quantizer.table" and len(module.not_finite()) == 2


def test_fused_steps_and_others_leave_out_the_same():
    for fused in (True, False):
        parameter = nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=fused)
        parameter.grad = torch.full((3,), float("nan"))
        step(optimizer, torch.tensor(0.0))
        assert torch.equal(parameter.detach(), torch.ones(3))
        parameter.grad = torch.ones(3)
        step(optimizer, torch.tensor(1.0))
        assert (parameter < 1).all() and parameter.isfinite().all()


def test_decisions_are_read_in_their_order():
    decisions = Decisions()
    for value in (1.0, float("nan"), 2.0, float("-inf")):
        made = decisions.decide({"a": torch.tensor(value), "b": torch.tensor(0.5)})
        assert isinstance(made, Tensor) and bool(made) == (value in (1.0, 2.0))
    outcomes = decisions.read(update=7)
    assert [outcome.update for outcome in outcomes] == [7, 8, 8, 9]
    assert [sorted(outcome.skipped) for outcome in outcomes] == [[], ["a", "b"], [], ["a", "b"]]
    assert outcomes[3].skipped == {"a": float("-inf"), "b": 0.5}
    assert len(decisions) == 0 and decisions.read(update=9) == []
