"""The moments of saving: at signals, never without progress, never weights that are not finite; and the messages."""

import gc
import os
import signal
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vistok.processes.signals import NUMBERS, Interrupted
from vistok.training.callbacks.finite import FiniteMonitor, NotFinite
from vistok.training.callbacks.last_checkpoint import LastCheckpoint, leave_closed_terminal
from vistok.training.checkpoint_io import SafeCheckpointIO, last_one, older
from vistok.training.module import LitTokenizer


class Run:
    """A stand-in for training as the callback sees it: ``saved`` has the updates of each checkpoint."""

    def __init__(self, path, every=None, val_every=1000, world_size=1, resumed=None):
        self.last, self.saved, self.skipped, self.wrong = LastCheckpoint(path, every), [], 0, []
        self.module = SimpleNamespace(
            updates=0, batches=0, accumulate=1, device="cpu", settle=self.settle, not_finite=lambda: self.wrong
        )
        self.trainer = SimpleNamespace(
            should_stop=False, val_check_batch=val_every, enable_validation=True, world_size=world_size,
            ckpt_path=resumed, log_every_n_steps=1, strategy=SimpleNamespace(reduce=lambda number, reduce_op: number),
            save_checkpoint=lambda *_, **__: self.saved.append(self.module.updates),
        )  # fmt: skip

    def settle(self):
        skipped, self.skipped = self.skipped, 0
        self.module.updates -= skipped
        return skipped

    def update(self, skipped=False):
        self.module.updates += 1
        self.module.batches += 1
        self.skipped += skipped
        self.last.on_train_batch_end(self.trainer, self.module)

    def start(self):
        self.last.on_train_start(self.trainer, self.module)
        return self


@pytest.fixture
def handlers():
    """The handlers of all signals are put back."""
    former = {number: signal.getsignal(number) for number in NUMBERS}
    yield former
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_every_such_signal_saves(tmp_path, handlers, name, world_size):
    number = getattr(signal, name)
    run = Run(tmp_path / "last.ckpt", world_size=world_size).start()
    run.update()
    os.kill(os.getpid(), number)
    with pytest.raises(Interrupted) as ended:
        run.update()
    assert run.saved == [2] and (ended.value.number, ended.value.status) == (number, 128 + number)
    run.last.teardown(run.trainer, run.module, "fit")
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_nohup_keeps_its_word(tmp_path, handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    run = Run(tmp_path / "last.ckpt").start()
    os.kill(os.getpid(), signal.SIGHUP)
    run.update()
    assert run.saved == [] and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_signal_within_a_validation(tmp_path, handlers, world_size):
    """It was saved before; ranks have unlike numbers of batches there, and agree only after it."""
    run = Run(tmp_path / "last.ckpt", val_every=1, world_size=world_size).start()
    run.update()
    os.kill(os.getpid(), signal.SIGTERM)
    if world_size > 1:
        run.last.on_validation_batch_end(run.trainer, run.module)
    hook = run.last.on_validation_end if world_size > 1 else run.last.on_validation_batch_end
    with pytest.raises(Interrupted):
        hook(run.trainer, run.module)
    assert run.saved == [1]


def test_when_it_saves(tmp_path):
    run = Run(tmp_path / "last.ckpt", every=3, val_every=4)
    for _ in range(8):
        run.update()
    run.trainer.should_stop = True  # the last update
    run.update()
    assert run.saved == [3, 4, 6, 8, 9]
    run = Run(tmp_path / "last.ckpt", every=1)
    run.module.accumulate = 2
    run.update()
    assert run.saved == []


def test_nothing_is_saved_without_progress(tmp_path, handlers):
    run = Run(tmp_path / "last.ckpt", every=5, val_every=10)
    for _ in range(10):
        run.update()
    for _ in range(30):
        run.update(skipped=True)
    run.last.received = signal.SIGTERM
    with pytest.raises(Interrupted):
        run.update(skipped=True)
    assert run.saved == [5, 10] and run.module.updates == 10


def test_a_count_that_is_ahead_saves_no_other_update(tmp_path):
    run = Run(tmp_path / "last.ckpt", every=5)
    for i in range(11):
        run.update(skipped=i == 2)
    assert run.saved == [5, 10]


@pytest.mark.parametrize("own, saved", [(True, []), (False, [7])])
def test_a_signal_before_the_first_update_of_a_resumed_run(tmp_path, handlers, own, saved):
    folder = tmp_path if own else tmp_path / "another"
    run = Run(tmp_path / "checkpoints" / "last.ckpt", resumed=folder / "checkpoints" / "last.ckpt")
    run.module.updates = 8  # one of them ahead of what is known
    run.last.on_load_checkpoint(run.trainer, run.module, {"updates": 7, "ahead": 1})
    run.start()
    run.skipped = 1
    run.last.received = signal.SIGUSR1
    with pytest.raises(Interrupted):
        run.update(skipped=True)
    assert run.saved == saved


def test_a_signal_keeps_the_count_that_the_run_would_have_had(tmp_path):
    """It learns early of updates that were left out; the learning rate knows of them at logging intervals."""
    for every, ahead in ((None, 2), (4, 0)):
        run = Run(tmp_path / "last.ckpt", every=every)
        run.update()
        run.update()
        run.update(skipped=True)
        run.last.received = signal.SIGTERM
        with pytest.raises(Interrupted):
            run.update(skipped=True)
        checkpoint = {}
        run.last.on_save_checkpoint(run.trainer, run.module, checkpoint)
        assert checkpoint == {"ahead": ahead} and run.saved == [2]


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    path = tmp_path / "last.ckpt"
    run = Run(path, every=1)
    run.wrong = ["tokenizer.quantizer.table"]
    with pytest.raises(NotFinite, match="quantizer.table not finite after 1 updates.*no checkpoint has been written"):
        run.update()
    SafeCheckpointIO().save_checkpoint({"updates": 1234, "batches": 1234, "state_dict": {}}, path)
    with pytest.raises(NotFinite, match=f"the last checkpoint, {path}, has 1,234 updates. What to try: a lower"):
        run.update()
    assert run.saved == []


def test_which_checkpoint_is_the_last(tmp_path):
    path = tmp_path / "last.ckpt"
    for i in (1, 2):
        SafeCheckpointIO().save_checkpoint({"updates": i, "batches": i, "state_dict": {}}, path)
    path.write_bytes(path.read_bytes()[:100])
    assert last_one(path) == f"the last checkpoint, {older(path, 1)}, has 1 updates"
    older(path, 1).write_bytes(b"")
    assert "all 2 checkpoints" in last_one(path) and "damaged" in last_one(path)


def test_a_closed_terminal_is_let_go_of(capfd):
    """To print there would end the run before it has saved."""
    master, slave = os.openpty()
    kept = os.dup(1)
    try:
        os.dup2(slave, 1)
        os.close(slave)
        leave_closed_terminal()
        assert os.isatty(1)
        os.close(master)
        with pytest.raises(OSError, match="Input/output error"):
            os.write(1, b"lost")
        leave_closed_terminal()
        assert os.write(1, b"lost") == 4
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def test_skipped_updates_rotate_no_good_checkpoint_away(train, tmp_path, monkeypatch):
    """NaN from update 4 on, and then no more."""
    run, step = tmp_path / "run", LitTokenizer.training_step
    words = ["log.save_every=2", "log.val_every=50", "optim.updates=6", "loss=l1", "log.every=3", "run.resume=auto"]
    words += ["trainer.limit_val_batches=1"]

    def spoiled(self, batch, index):
        return step(self, batch._replace(images=batch.images * float("nan")) if self.batches >= 4 else batch, index)

    for _ in range(2):
        with monkeypatch.context() as patched, pytest.raises(NotFinite) as ended:
            patched.setattr(LitTokenizer, "training_step", spoiled)
            train(run, *words)
        last = run / "checkpoints" / "last.ckpt"
        assert f"; the last checkpoint, {last}, has 4 updates. What to try" in str(ended.value)
        for path, updates in ((last, 4), (older(last, 1), 2)):
            checkpoint = torch.load(path, weights_only=True)
            assert checkpoint["updates"] == checkpoint["batches"] == updates
            assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())
    train(run, *words)
    assert torch.load(last, weights_only=True)["updates"] == 6


def test_a_run_without_a_checkpoint_says_so(train, tmp_path, monkeypatch):
    step = LitTokenizer.training_step

    def spoiled(self, batch, index):
        return step(self, batch._replace(images=batch.images / 0), index)

    monkeypatch.setattr(LitTokenizer, "training_step", spoiled)
    with pytest.raises(
        NotFinite, match="10 updates in a row were not finite .*; no checkpoint has been written yet. W"
    ):
        train(
            tmp_path / "run",
            "optim.updates=50",
            "loss=l1",
            "log.save_every=1",
            "log.val_every=3",
            "trainer.limit_val_batches=1",
        )


def test_a_finished_run_is_let_go_of(train, tmp_path, monkeypatch):
    """Signals do what they did before, and nothing holds the model: Lightning's handler of SIGTERM would."""
    before, begin, models = [signal.getsignal(number) for number in NUMBERS], LitTokenizer.setup, []
    monkeypatch.setattr(
        LitTokenizer, "setup", lambda self, stage: models.append(weakref.ref(self)) or begin(self, stage)
    )
    train(tmp_path / "run", "loss=l1")
    assert [signal.getsignal(number) for number in NUMBERS] == before
    gc.collect()
    assert models and not any(model() for model in models)


def test_how_many_in_a_row_is_in_the_checkpoint(tmp_path):
    monitor, checkpoint = FiniteMonitor(tmp_path), {}
    module = SimpleNamespace(take_outcomes=list)
    monitor.in_a_row = 7
    monitor.on_save_checkpoint(None, module, checkpoint)
    again = FiniteMonitor(Path("other"))
    again.on_load_checkpoint(None, module, checkpoint)
    assert again.in_a_row == 7
    again.on_load_checkpoint(None, module, {})
    assert again.in_a_row == 0
