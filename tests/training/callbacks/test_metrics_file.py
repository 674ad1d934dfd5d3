"""``metrics.csv`` has each row once, whatever ended the run; a validation that was cut short is done again."""

import csv
import os
import signal
from types import SimpleNamespace

import pytest

from vistok.training.callbacks.metrics_file import MetricsFile, read_rows, resumes_in
from vistok.training.module import LitTokenizer

WORDS = ["schedule.decay=constant", "loss=small_data", "loss.adversary.regularizers.r1.every=2", "log.save_every=1"]
WORDS += ["log.val_every=2", "optim.updates=4", "run.resume=auto"]


class Run:
    """A stand-in for training that logs in every batch."""

    def __init__(self, path, batches=0, validated=()):
        self.file, self.validated = MetricsFile(path), validated
        self.module = SimpleNamespace(batches=batches, logged=set())
        self.trainer = SimpleNamespace(is_global_zero=True, current_epoch=0, log_every_n_steps=1, callback_metrics={})
        self.file.on_train_start(self.trainer, self.module)

    def log(self, **values):
        self.module.batches += 1
        self.trainer.callback_metrics |= values  # and what was logged before is still there
        self.module.logged = set(values)
        self.file.on_train_batch_end(self.trainer, self.module)
        return self

    def validate(self, **values):
        self.trainer.callback_metrics |= {f"val/{name}": value for name, value in values.items()}
        self.file.on_validation_end(self.trainer, self.module)
        return self


def test_rows_hold_what_their_batch_has_logged(tmp_path):
    Run(tmp_path / "metrics.csv").log(a=1.5).log(a=2, b=3).validate(c=4).log(a=5)
    assert (tmp_path / "metrics.csv").read_bytes().split(b"\r\n") == [
        b"a,b,epoch,step,val/c",
        b"1.5,,0,0,",
        b"2.0,3.0,0,1,",
        b",,0,1,4.0",
        b"5.0,,0,2,",
        b"",
    ]


def test_a_resumed_run_goes_on_and_keeps_what_it_makes_again(tmp_path):
    path = tmp_path / "metrics.csv"
    Run(path).log(a=1).log(a=2).validate(c=3).log(a=4).validate(c=5).log(a=6)
    whole = path.read_bytes()
    for n, rest in ((1, b""), (2, b"7.0,0")):  # the second time with a row that a kill has left unfinished
        path.write_bytes(whole + rest)
        run = Run(path, batches=2)
        assert run.file.validated == 1
        run.log(a=4).validate(c=5).log(a=6)
        assert path.read_bytes() == whole
        assert [row["step"] for row in read_rows(tmp_path / f"metrics_{n}.csv")] == ["2", "2", "3"]
    assert Run(path, batches=4).file.validated == 2 and not (tmp_path / "metrics_3.csv").exists()


def test_a_validation_made_again_adds_no_second_row(tmp_path):
    path = tmp_path / "metrics.csv"
    Run(path).log(a=1).validate(c=2)
    before = path.read_bytes()
    Run(path, batches=1).validate(c=2)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"updates\n1\n", b"\xff\xfe", b"a,step\r\n1,x\r\n", b"a,step\r\n1,2,3\r\n", b""])
def test_another_file_of_that_name_gets_another_name(tmp_path, content):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    Run(path, batches=5).log(a=1)
    assert (tmp_path / "metrics_1.csv").read_bytes() == content and len(read_rows(path)) == 1


def test_which_checkpoints_are_the_runs_own(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for path, own in (("run/checkpoints/last.ckpt", True), ("other/checkpoints/last.ckpt", False), (None, False)):
        trainer = SimpleNamespace(ckpt_path=path and tmp_path / path)
        assert resumes_in(tmp_path / "run", trainer) == own


@pytest.fixture(scope="module")
def whole(tmp_path_factory, train):
    """The folder of a run without a break."""
    return train(tmp_path_factory.mktemp("whole") / "run", *WORDS)


def fail():
    raise RuntimeError("the storage is gone")


@pytest.mark.parametrize("validation, what, error", [
    (1, fail, RuntimeError),
    (2, fail, RuntimeError),  # the last one: no update is left
    (1, lambda: os.kill(os.getpid(), signal.SIGHUP), SystemExit),
])  # fmt: skip
def test_a_validation_that_was_cut_short_is_done_again(
    train, whole, tmp_path, monkeypatch, validation, what, error, capsys
):
    run, step, calls = tmp_path / "run", LitTokenizer.validation_step, []

    def cut_short(self, images, index):
        calls.append(index)
        if index == 1 and calls.count(1) == validation:
            what()
        return step(self, images, index)

    with monkeypatch.context() as patched, pytest.raises(error) as ended:
        patched.setattr(LitTokenizer, "validation_step", cut_short)
        train(run, *WORDS)
    if error is SystemExit:
        assert ended.value.code == 128 + signal.SIGHUP and "interrupted after 2 updates" in capsys.readouterr().out
    assert calls[-1] == 1  # a signal ends it after the batch
    train(run, *WORDS)
    for name in ("metrics.csv", "reconstructions.png", "codebook.png", "tokenizer/model.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (run / "metrics_1.csv").exists()


def test_values_stand_only_where_they_were_logged(whole):
    """R1 takes part in every second update."""
    rows = [row for row in csv.DictReader((whole / "metrics.csv").open()) if row["train/l2"]]
    assert [bool(row["train/r1"]) for row in rows] == [False, False, True, False]
    assert [bool(row["train/lecam"]) for row in rows] == [False, True, True, True]  # the adversary begins with update 1
