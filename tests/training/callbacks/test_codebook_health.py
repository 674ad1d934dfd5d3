"""Codebook health: every number by hand, collapses and their absence, and what is done about them."""

import copy
import math
import os
import subprocess
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

import vistok
from vistok import Tokenizer
from vistok.quantizers import (
    BinaryQuantizer,
    Context,
    FactorizedQuantizer,
    MultiScaleQuantizer,
    ResidualQuantizer,
    SimVQ,
    VectorQuantizer,
)
from vistok.training.callbacks.codebook_health import (
    CodebookHealth,
    CollapseDetector,
    CollapseRule,
    advice,
    kept_codes,
    relative_usage,
    tuple_counts,
)
from vistok.training.ema import AveragedTokenizer
from vistok.training.module import LitTokenizer
from vistok.training.schedules import Schedule

from ...conftest import quiet_trainer


def table(*codewords, **arguments):
    """A head with these codewords, numbers or lists."""
    codewords = torch.tensor(codewords, dtype=torch.float32).reshape(len(codewords), -1)
    head = VectorQuantizer(*codewords.shape, **arguments)
    with torch.no_grad():
        head.codewords.copy_(codewords)
    return head.train()


def latent(*vectors):
    """Vectors, numbers or lists, as one image's latent (1, d, 1, m)."""
    vectors = torch.tensor(vectors, dtype=torch.float32).reshape(len(vectors), -1)
    return vectors.T[None, :, None]


class Run:
    """Stand-in for training with one batch in each update; ``logged`` has the logged numbers."""

    def __init__(self, health, head, window=1, ema_decay=None):
        tokenizer = nn.Module()
        tokenizer.quantizer = head
        average = None if ema_decay is None else AveragedTokenizer(tokenizer, ema_decay)
        self.logged = []
        self.health, self.head = health, head
        self.trainer = SimpleNamespace(log_every_n_steps=window, is_global_zero=True)
        self.module = SimpleNamespace(
            tokenizer=tokenizer, average=average, device="cpu", updates=0, batches=0, log_dict=self.logged.append
        )

    def start(self, updates=0):
        self.module.updates = self.module.batches = updates
        self.health.on_train_start(self.trainer, self.module)
        return self

    def see(self, z, keep=None, times=1):
        for _ in range(times):
            codes = self.head(z).codes
            self.module.updates += 1
            self.module.batches += 1
            self.health.on_train_batch_end(self.trainer, self.module, {"codes": codes, "keep": keep}, None, 0)
        return {name.removeprefix("codebook/"): value for name, value in self.logged[-1].items()} if self.logged else {}


def test_a_window_worked_by_hand():
    run = Run(CodebookHealth(), table([1, 0], [2, 0], [3, 0], [0, 4], [0, 5]), window=2).start()
    run.see(latent([1, 0], [1, 0], [2, 0], [2.4, 0]))
    assert not run.logged
    assert run.see(latent([1, 0], [1, 0], [0, 4.2], [0, 4])) == {
        "usage": 3 / 5,
        "usage_ceiling": pytest.approx(1 - math.exp(-8 / 5)),
        "entropy_bits": pytest.approx(1.5),  # of (1/2, 1/4, 1/4)
        "perplexity": pytest.approx(2**1.5),
        "tokens": 8,
        "dead": 2,
        "dead_age": 2,
        "norm": 3,
        "norm_spread": pytest.approx(4.8 / 1.2),  # lengths 1 to 5, percentiles between neighbours
        "distance": pytest.approx(math.sqrt((0.4**2 + 0.2**2) / 8), rel=1e-5),
        "collapsed": 0,
    }
    run.see(latent([3, 0]))
    second = run.see(latent([3, 0]))  # nothing of the first window is left
    assert (second["usage"], second["perplexity"], second["tokens"], second["distance"]) == (1 / 5, 1, 2, 0)


def test_ages_over_three_windows():
    run = Run(CodebookHealth(), table(0, 10, 20), window=2).start()
    windows = [(latent(0, 10), 2.0), (latent(0), (2 + 4) / 2), (latent(20), (2 + 4) / 2)]
    for z, age in windows:
        assert run.see(z, times=2)["dead_age"] == age
    assert run.see(latent(0, 10, 20), times=2)["dead_age"] == 0


def test_a_resumed_run_knows_what_came_before(tmp_path):
    rule = CollapseRule(grace=0, patience=4)
    head = table(0, 10, 20)
    run = Run(CodebookHealth(rule=rule), head, window=2).start()
    run.see(latent(0, 10, 20), times=4)
    run.see(latent(0), times=2)
    torch.save(run.health.state_dict(), tmp_path / "state.pt")
    before = run.see(latent(0), times=2)
    again = CodebookHealth(rule=rule)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert Run(again, head, window=2).start(updates=6).see(latent(0), times=2) == before
    assert (before["dead_age"], before["collapsed"]) == (4, 1)


def two_heads():
    return FactorizedQuantizer([table(0, 10, 20), table(0, 5)], disentangle=False).train()


@pytest.mark.parametrize("make", [lambda: table(0, 10, 20), two_heads])
def test_a_window_goes_on_after_a_resume(make, tmp_path):
    """A checkpoint in the middle of one has what was counted so far: numbers and repairs are those without a break."""
    rule = CollapseRule(grace=0, patience=4)
    dim = make().dim
    batches = [
        latent(*[[x] * dim for x in xs]) for xs in ((0, 10), (1, 20, 3), (0, 1), (10, 2), (0,), (1,), (0,), (0,))
    ]

    def resumed_after(update):
        torch.manual_seed(0)
        run = Run(CodebookHealth("restart", rule=rule), make(), window=4).start()
        for i, z in enumerate(batches):
            if i == update:
                torch.save(run.health.state_dict(), tmp_path / "state.pt")
                run.health._remove_hooks()
                again, logged = CodebookHealth("restart", rule=rule), run.logged
                again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
                run = Run(again, run.head, window=4).start(updates=update)
                run.logged.extend(logged)
            run.see(z)
        return run

    whole = resumed_after(None)
    assert len(whole.logged) == 2
    for update in (2, 4, 5):
        run = resumed_after(update)
        assert run.logged == whole.logged
        assert all(torch.equal(tensor, whole.head.state_dict()[name]) for name, tensor in run.head.state_dict().items())


def test_a_window_of_two_ranks_goes_on_with_one():
    health = CodebookHealth()
    run = Run(health, table(0, 10), window=2).start()
    run.see(latent(0, 10))
    state = health.state_dict()
    state["window"]["errors"] = torch.cat([state["window"]["errors"]] * 2)
    again = CodebookHealth()
    again.load_state_dict(state)
    Run(again, run.head, window=2).start(updates=1)
    assert torch.equal(again.errors, 2 * health.errors) and torch.equal(again.usage.hits, health.usage.hits)
    again.load_state_dict({name: value for name, value in state.items() if name != "window"})  # an earlier checkpoint's
    Run(again, run.head, window=2).start(updates=1)
    assert again.start == 1 and not again.usage.hits.any()


def test_each_codebook_has_its_own_numbers():
    head = FactorizedQuantizer([table(0, 10), table(0, 3, 6)], disentangle=False).train()
    run = Run(CodebookHealth(), head).start()
    values = run.see(latent([0, 0], [0, 4], [10, 0], [10, 0]))
    names = ["usage", "usage_ceiling", "perplexity", "entropy_bits", "dead", "dead_age", "norm", "norm_spread"]
    names += ["distance", "collapsed"]
    of_product = {"tokens", "distinct_tuples", "tuple_entropy_bits"}
    assert values.keys() == {f"{name}_{i}" for name in names for i in (0, 1)} | of_product
    assert (values["usage_0"], values["usage_1"]) == (1, pytest.approx(2 / 3))
    assert (values["dead_0"], values["dead_1"]) == (0, 1)
    assert (values["distance_0"], values["distance_1"]) == (0, 0.5)
    assert (values["norm_0"], values["norm_1"]) == (5, 3)
    assert (values["tokens"], values["distinct_tuples"], values["tuple_entropy_bits"]) == (4, 3, 1.5)


def test_only_kept_positions_are_counted():
    head = FactorizedQuantizer([table(0, 10), table(0, 3, 6)], disentangle=False).train()
    run = Run(CodebookHealth(), head, window=2).start()
    run.see(latent([0, 0], [10, 6]), torch.tensor([[[True, False]]]))
    values = run.see(latent([0, 0], [0, 3]), torch.tensor([[[True, True]]]))
    assert (values["tokens"], values["usage_0"], values["distinct_tuples"]) == (3, 0.5, 2)
    nothing = run.see(latent([0, 0], [10, 6]), torch.tensor([[[False, False]]]), times=2)
    assert (nothing["tokens"], nothing["usage_0"], nothing["distinct_tuples"]) == (0, 0, 0)


def test_groups_of_bits_of_a_large_codebook():
    """36 bits are counted as 18 and 18; binary codewords have no lengths to tell."""
    z = torch.full((1, 36, 1, 3), -1.0)
    z[:, 35, :, 0] = z[:, 0, :, 1] = 1.0  # the last channel is the lowest bit
    values = Run(CodebookHealth(), BinaryQuantizer(36).train()).start().see(z)
    assert "norm_0" not in values and "usage_2" not in values
    assert values["usage_0"] == values["usage_1"] == 2 / 2**18
    assert (values["tokens"], values["distinct_tuples"], values["distance_1"]) == (3, 3, pytest.approx(0, abs=1e-6))
    assert values["tuple_entropy_bits"] == pytest.approx(math.log2(3))


def test_distance_weighs_positions_as_the_head_does():
    head = table(0, 10)
    run = Run(CodebookHealth(), head).start()
    head(latent(1, 12), Context(weight=torch.tensor([[[1.0, 0.25]]])))
    run.head = lambda z: SimpleNamespace(codes=torch.zeros(1, 1, 1, 1, dtype=torch.int64))
    assert run.see(None)["distance"] == pytest.approx(math.sqrt((1 + 0.25 * 4) / 1.25))


def test_validation_is_not_seen():
    head = table(0, 10)
    run = Run(CodebookHealth(), head).start()
    head.eval()(latent(4))
    head.train()
    assert run.see(latent(1))["distance"] == 1


def test_tuples_of_codebooks_whose_product_overflows():
    codes = torch.randint(2**18, (3, 9, 4, 4), dtype=torch.int32)
    codes[1] = codes[0]
    tuples = kept_codes(codes, None)
    assert tuples.shape == (48, 9) and torch.equal(tuples[17], codes[1, :, 0, 1])
    assert sorted(tuple_counts(tuples).tolist()) == [1] * 16 + [2] * 16


class NoWaiting(TorchDispatchMode):
    """Refuses what would wait for a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        assert not any(word in name for word in ("local_scalar", "nonzero", "unique", "bincount", "masked_select"))
        assert name != "aten::index.Tensor" or all(i is None or i.dtype != torch.bool for i in args[1])
        return func(*args, **(kwargs or {}))


def test_nothing_waits_within_a_window():
    head = FactorizedQuantizer([table(0, 10), table(0, 3, 6)], disentangle=False).train()
    run = Run(CodebookHealth("restart"), head, window=3).start()
    z, keep = latent([0, 0], [10, 6]), torch.tensor([[[True, False]]])
    with NoWaiting():
        run.see(z, keep, times=2)
    with NoWaiting(), pytest.raises(AssertionError):
        run.see(z, keep)


@pytest.mark.parametrize("counts, share", [
    ([5, 5, 5, 5], 1 / (1 - math.exp(-5))),
    ([0, 7, 0, 7], 0.5 / (1 - math.exp(-3.5))),
    ([0, 20], 0.0),
])  # fmt: skip
def test_relative_usage(counts, share):
    assert relative_usage(torch.tensor(counts)) == pytest.approx(share)


def flags(shares, window=20, **rule):
    """After how many updates a codebook with these windows counts as collapsed."""
    detector, collapsed = CollapseDetector(CollapseRule(**rule)), []
    for i, share in enumerate(shares):
        detector.observe(i * window, (i + 1) * window, share)
        collapsed += [(i + 1) * window] if detector.collapsed else []
    return collapsed


@pytest.mark.parametrize("window, first", [(1, 160), (20, 160), (30, 180), (40, 200), (50, 200), (100, 200)])
def test_a_codebook_that_is_never_used_is_flagged_by_update_200(window, first):
    assert flags([0.05] * (300 // window), window)[0] == first


@pytest.mark.parametrize("window, first", [(1, 1060), (20, 1060), (50, 1100), (100, 1100)])
def test_one_that_falls_out_of_use_is_flagged_within_200_updates(window, first):
    assert flags([0.8] * (1000 // window) + [0.39] * (200 // window), window)[0] == first


@pytest.mark.parametrize("shares", [
    [0.01] * 5 + [0.11] * 20,  # a bad start
    [1.0] * 5 + [0.3] * 20,  # a good one
    [0.8] * 20 + [0.3, 0.3, 0.8] * 9,  # odd images
    [0.4] * 20 + [1.0, 1.0, 0.4, 0.4] * 9,  # a high that does not last
    [0.8 - 0.004 * i for i in range(100)],  # a slow decline to half
])  # fmt: skip
def test_healthy_windows_are_not_flagged(shares):
    assert not flags(shares)


def test_a_collapse_is_over_when_usage_is_back_to_stay():
    low, high = [0.05] * 3, [0.8] * 3
    assert flags(high * 2 + [*low, 0.8, *low, 0.8, 0.8], grace=0) == [180 + 20 * i for i in range(7)]
    assert flags(high * 2 + low + high + low, grace=0) == [180, 200, 220, 300]


@pytest.mark.parametrize("size, tokens", [(16, 8), (16, 4096), (4096, 64), (2, 64)])
@pytest.mark.parametrize("window", [1, 20])
def test_small_codebooks_and_few_tokens_give_no_alarm(size, tokens, window):
    """Zipf's frequencies: few codewords take most tokens, as in photos."""
    torch.manual_seed(0)
    frequencies = 1 / torch.arange(1, size + 1)
    draws = (torch.multinomial(frequencies, tokens, replacement=True) for _ in range(1000 // window))
    assert not flags([relative_usage(draw.bincount(minlength=size)) for draw in draws], window)


QUICK = CollapseRule(grace=0, patience=4)
USED, UNUSED = latent(*range(0, 1000, 10)), latent(0, 0, 0, 0, 10, 10, 10, 10)


def collapsing(health, head, **arguments):
    """A run that uses a table of 100 codewords for 8 updates, and then two of them for 4."""
    run = Run(health, head, window=2, **arguments).start()
    run.see(USED, times=8)
    run.see(UNUSED, times=4)
    return run


def test_what_was_seen_is_said_once_for_each_collapse(capsys):
    run = collapsing(CodebookHealth(rule=QUICK), table(*range(0, 1000, 10)))
    said = capsys.readouterr().out
    assert said.startswith(
        "the codebook has collapsed: the 16 tokens of updates 11 to 12 chose 2 of its 100 codewords, 2.0% where "
        "uniform choices would reach 14.8%, with perplexity 2.0; since update 8 it has been below 58% of what uniform "
        "choices reach\n  what to try: restart=0.1"
    )
    assert run.see(UNUSED, times=20)["collapsed"] == 1 and capsys.readouterr().out == ""
    assert run.see(USED, times=4)["collapsed"] == 0 and capsys.readouterr().out == ""
    assert run.see(UNUSED, times=4)["collapsed"] == 1 and "collapsed" in capsys.readouterr().out


def test_only_the_first_rank_speaks(capsys):
    run = Run(CodebookHealth(rule=QUICK), table(0, 10)).start()
    run.trainer.is_global_zero = False
    assert run.see(latent(0), times=5)["collapsed"] == 1
    assert capsys.readouterr().out == ""


def test_one_of_several_codebooks(capsys):
    head = FactorizedQuantizer([table(0, 10), table(0, 3, 6)], disentangle=False).train()
    values = Run(CodebookHealth(rule=QUICK), head).start().see(latent([0, 0], [10, 0]), times=4)
    assert (values["collapsed_0"], values["collapsed_1"]) == (0, 1)
    assert capsys.readouterr().out.startswith("codebook 1 has collapsed")


@pytest.mark.parametrize("head, tried, not_tried", [
    (VectorQuantizer(8, 2), ["restart=0.1", "kmeans_updates", "vq_ema", "vq_cosine", "simvq"], []),
    (VectorQuantizer(8, 2, ema_decay=0.9), ["restart=0.1", "kmeans_updates"], ["vq_ema"]),
    (VectorQuantizer(8, 2, ema_decay=0.9, restart=0.1), ["simvq"], ["restart", "vq_ema"]),
    (SimVQ(8, 2), ["optimizer.lr", "schedule.warmup", "model.codebook_size"], ["restart", "kmeans", "simvq"]),
])  # fmt: skip
def test_advice_suits_the_head(head, tried, not_tried):
    said = advice(head)
    assert all(word in said for word in tried) and not any(word in said for word in not_tried)


@pytest.mark.parametrize("action", ["restart", "reinitialise"])
@pytest.mark.parametrize("arguments", [{}, {"ema_decay": 0.9}, {"restart": 0.1}, {"cosine": True}])
def test_an_action_moves_codewords_onto_latents(action, arguments, capsys):
    """Latents first cover a circle, as the codewords do, and then stay in one corner of it."""
    torch.manual_seed(0)
    head = table(*([math.cos(x / 20), math.sin(x / 20)] for x in range(100)), **arguments)
    run = Run(CodebookHealth(action, QUICK), FactorizedQuantizer([head], disentangle=False).train(), 2, 0.9).start()
    if head.ema_decay or head.restart:
        head.even = 3.0  # as an update with 300 tokens, over 100 codewords, leaves it
    run.see(latent(*head.codewords.tolist()), times=8)
    before = head.codewords.detach().clone()
    z = torch.rand(1, 2, 1, 300) * 0.02 + torch.tensor([2.0, 0.0]).view(1, 2, 1, 1)
    run.see(z, times=2)
    assert torch.equal(head.codewords, before)
    seen = run.see(z, times=2)
    moved = (head.codewords != before).any(1)
    assert seen["collapsed"] == 1 and moved.sum() == (seen["dead"] if action == "restart" else 100)
    assert f"{action}: {int(moved.sum())} codewords were moved" in capsys.readouterr().out
    vectors = (F.normalize(z, dim=1) if head.cosine else z)[0, :, 0].T
    assert torch.cdist(head.codewords[moved], vectors).min(1).values.max() < 1e-6
    averaged = run.module.average.tokenizer.quantizer.heads[0].codewords
    assert torch.equal(averaged, head.codewords if isinstance(head.codewords, nn.Parameter) else before)
    if head.ema_decay or head.restart:
        assert (head.ema_counts[moved] == 3).all()
    assert run.see(z, times=2)["usage"] > 0.5
    assert run.see(z, times=2)["collapsed"] == 0


def test_an_action_waits_before_it_is_repeated():
    head = table(*range(0, 1000, 10))
    run = collapsing(CodebookHealth("reinitialise", QUICK), head)
    changes = []
    for _ in range(8):
        before = head.codewords.detach().clone()
        run.see(torch.zeros(1, 1, 1, 8))
        changes.append(not torch.equal(head.codewords, before))
        head.codewords.data[0] = 0.0  # all choose it
    assert changes == [False, False, False, True] * 2


def test_an_action_is_only_for_codewords_that_are_free(capsys):
    run = Run(CodebookHealth("restart", QUICK), SimVQ(8, 2).train()).start()
    before = run.head.codebook()
    run.see(torch.ones(1, 2, 1, 8), times=5)
    assert "restart does not apply: a SimVQ has no codewords that are free to move" in capsys.readouterr().out
    assert torch.equal(run.head.codebook(), before)


def test_an_unknown_action():
    with pytest.raises(ValueError, match="on_collapse must be restart or reinitialise, or null .*, not 'revive'"):
        CodebookHealth("revive")


class Patches(nn.Module):
    """An encoder of patches of 4 x 4 pixels."""

    factor, dim = 4, 4

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4, 4)

    def forward(self, images):
        return self.conv(images)


class Pixels(nn.Module):
    """The decoder that goes with it."""

    factor, dim = 4, 4

    def __init__(self):
        super().__init__()
        self.last_layer = nn.ConvTranspose2d(4, 3, 4, 4)

    def forward(self, latent):
        return self.last_layer(latent)


def lit(head, updates, **arguments):
    torch.manual_seed(0)
    with torch.no_grad():
        nn.init.normal_(head.codewords)
    weights = {"l1": 1.0} | dict.fromkeys(head.loss_names, 0.25)
    tokenizer = Tokenizer(Patches(), head, Pixels())
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    return LitTokenizer(tokenizer, {"l1": nn.L1Loss()}, weights, optimizer, Schedule(updates), **arguments)


def fit(module, *callbacks, window=20):
    trainer = quiet_trainer(
        log_every_n_steps=window,
        callbacks=list(callbacks),
    )
    images = torch.rand(16, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    trainer.fit(module, DataLoader(images, batch_size=None))
    return trainer


class Break(pl.Callback):
    """Moves all codewords but one far away."""

    def __init__(self, update):
        self.update = update

    def on_train_batch_start(self, trainer, pl_module, *_):
        if pl_module.updates == self.update:
            pl_module.tokenizer.quantizer.codewords.data[1:] += 1000.0


class Record(pl.Callback):
    """The updates at whose end a codebook counts as collapsed, and the last usage."""

    def __init__(self):
        self.collapsed = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        if pl_module.batches % trainer.log_every_n_steps == 0:
            self.usage = float(trainer.callback_metrics["codebook/usage"])
            if trainer.callback_metrics["codebook/collapsed"]:
                self.collapsed.append(pl_module.updates)


@pytest.mark.parametrize("window", [20, 50])
def test_a_collapse_in_training_is_flagged_within_200_updates(window, capsys):
    module, record = lit(VectorQuantizer(32, 4), updates=400), Record()
    fit(module, Break(190), CodebookHealth(), record, window=window)
    assert record.collapsed and 190 < record.collapsed[0] <= 190 + 200 and record.usage < 0.1
    assert capsys.readouterr().out.count("has collapsed") == 1
    assert not module.tokenizer.quantizer._forward_hooks


def test_an_action_in_training_ends_the_collapse(capsys):
    module, record = lit(VectorQuantizer(32, 4), updates=400, ema_decay=0.9), Record()
    fit(module, Break(190), CodebookHealth("restart"), record)
    assert record.collapsed and record.collapsed[-1] < 380 and record.usage > 0.5
    assert capsys.readouterr().out.count("has collapsed") == 1
    assert module.average.tokenizer.quantizer.codewords.abs().max() < 100


@pytest.mark.parametrize("head", [
    VectorQuantizer(32, 4),
    VectorQuantizer(32, 4, ema_decay=0.9, restart=0.1),
    VectorQuantizer(16, 4, cosine=True),
])  # fmt: skip
def test_healthy_training_gives_no_alarm(head, capsys):
    record = Record()
    fit(lit(head, updates=300), CodebookHealth(), record)
    assert not record.collapsed and "collapsed" not in capsys.readouterr().out


def test_the_hooks_do_not_outlive_an_error():
    class Fail(pl.Callback):
        def on_train_batch_end(self, *_):
            raise RuntimeError

    module = lit(VectorQuantizer(32, 4), updates=2)
    with pytest.raises(RuntimeError):
        fit(module, CodebookHealth(), Fail())
    assert not module.tokenizer.quantizer._forward_hooks


RANK = """
import sys
import torch
from torch import distributed
from types import SimpleNamespace
from vistok.training.callbacks.codebook_health import CodebookHealth, CollapseRule
from vistok.quantizers import FactorizedQuantizer, VectorQuantizer

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
torch.manual_seed(0)
head = FactorizedQuantizer([VectorQuantizer(8, 2), VectorQuantizer(5, 2)]).train()
torch.manual_seed(rank)
logged = []
module = SimpleNamespace(
    tokenizer=SimpleNamespace(quantizer=head), average=None, device="cpu", updates=0, batches=0, log_dict=logged.append
)
trainer = SimpleNamespace(log_every_n_steps=2, is_global_zero=rank == 0)
health = CodebookHealth("reinitialise", CollapseRule(grace=0, patience=4, floor=2.0))  # always collapsed
health.on_train_start(trainer, module)
batches = torch.load(f"{folder}/batches.pt")[rank]
for z in batches:
    module.batches += 1
    module.updates += 1
    health.on_train_batch_end(trainer, module, {"codes": head(z).codes, "keep": None}, None, 0)
torch.save((logged, head.state_dict()), f"{folder}/{rank}.pt")
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_see_what_one_would(python, tmp_path):
    torch.manual_seed(0)
    head = FactorizedQuantizer([VectorQuantizer(8, 2), VectorQuantizer(5, 2)]).train()
    batches = torch.randn(2, 4, 3, 4, 2, 2)  # of each rank
    torch.save(batches, tmp_path / "batches.pt")
    environment = os.environ | {"PYTHONPATH": str(Path(vistok.__file__).parents[1])}
    ranks = [subprocess.Popen([python, "-c", RANK, str(rank), str(tmp_path)], env=environment) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    alone = Run(CodebookHealth(rule=CollapseRule(grace=0, patience=4, floor=2.0)), head, window=2).start()
    for z in torch.cat(list(batches), dim=1):
        alone.see(z)
    (first, table_of_first), (second, table_of_second) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first == second == [pytest.approx(logged) for logged in alone.logged] and len(first) == 2
    for name, moved in table_of_first.items():
        assert torch.equal(moved, table_of_second[name]) and not torch.equal(moved, head.state_dict()[name])
    latents = batches[:, -1].movedim(2, -1).reshape(-1, 4)  # the last batch of both
    assert torch.cdist(table_of_first["heads.1.table"], latents[:, 2:]).min(1).values.max() < 1e-6


def test_a_codebook_of_several_depths_is_one(capsys):
    """Usage is that of each depth, collapse and repair those of the codebook: what any depth chose is not moved."""
    head = ResidualQuantizer([table(0, 8, 1, 20, 30, 40)], 2)
    run = Run(CodebookHealth("restart", rule=CollapseRule(grace=0, patience=2, floor=0.9)), head).start()
    z = latent(8, 9.1, 8, 9.1)  # codeword 1 in the first depth, 0 and 2 in the second
    values = run.see(z)
    assert (values["usage_0"], values["usage_1"], values["tokens"]) == (1 / 6, 2 / 6, 4)
    assert values["distance_0"] == values["distance_1"] == pytest.approx(math.sqrt((1.1**2 + 0.1**2) / 4), rel=1e-5)
    for _ in range(4):
        before = head.heads[0].codewords.detach().flatten().clone()
        values = run.see(z)
        if values["collapsed_0"]:
            break
    after = head.heads[0].codewords.detach().flatten()
    assert values["collapsed_1"] == 1 and before.tolist() == [0, 8, 1, 20, 30, 40]
    assert after[:3].tolist() == [0, 8, 1] and not set(after[3:].tolist()) & {20, 30, 40}
    latents = torch.tensor([8, 9.1, 0, 1.1])  # of both depths
    assert all((latents - own).abs().min() < 0.1 for own in after[3:])
    said = capsys.readouterr()
    assert (said.out + said.err).count("codebook 0, which 2 depths share, has collapsed") == 1


def test_usage_at_each_scale():
    """Of scales of 1 and 4 positions: the mean, then what is left. A window has two batches, with a resume between."""
    head = MultiScaleQuantizer(table(0, 10, 1, -1, 50), (1, 2), phi=0).train()
    first, second = (
        torch.tensor(own, dtype=torch.float32).view(1, 1, 2, 2) for own in ([9, 11, 10, 10], [1, -1, 1, -1])
    )
    health = CodebookHealth()
    run = Run(health, head, window=2)
    other_head = copy.deepcopy(head)
    run.start()
    with NoWaiting():
        run.see(first)
    stored = health.state_dict()
    assert [own.sum().item() for own in stored["window"]["scales"]] == [1, 4]
    resumed = CodebookHealth()
    resumed.load_state_dict(stored)
    other = Run(resumed, other_head, window=2)
    values = run.see(second)
    assert {name: value for name, value in values.items() if "scale" in name} == {
        "usage_scale0": 2 / 5,  # 10 and 0
        "usage_ceiling_scale0": pytest.approx(1 - math.exp(-2 / 5)),
        "perplexity_scale0": pytest.approx(2),
        "tokens_scale0": 2,
        "usage_scale1": 3 / 5,  # -1 1 0 0, then 1 -1 1 -1
        "usage_ceiling_scale1": pytest.approx(1 - math.exp(-8 / 5)),
        "perplexity_scale1": pytest.approx(2 ** (0.5 + 0.75 * math.log2(8 / 3))),  # of 1/4, 3/8, 3/8
        "tokens_scale1": 8,
    }
    assert other.start(1).see(second) == values and values["tokens"] == 10
    run.see(second)
    assert run.see(second)["tokens_scale0"] == 2  # nothing of the first window is left


def test_a_head_of_one_scale_has_no_numbers_of_scales():
    assert not any("scale" in name for name in Run(CodebookHealth(), table(0, 10)).start().see(latent(0, 10)))
