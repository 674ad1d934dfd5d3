"""The health of codebooks in training: what is logged, when one has collapsed, and what is then said and done."""

from functools import partial
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from einops import rearrange
from torch import Tensor

from vistok.distributed.collectives import cat_over_ranks, gather_objects, rank_and_size, sum_over_ranks
from vistok.metrics import CodebookUsage
from vistok.metrics.usage import entropy_bits, split, usage_of
from vistok.quantizers import Context, Quantized, Quantizer, Table
from vistok.quantizers.base import owners, sample
from vistok.terminal import say

ACTIONS = ("restart", "reinitialise")


class CollapseRule(NamedTuple):
    """A codebook has collapsed when its relative usage is below a limit in every window of ``patience`` updates.

    Relative usage is ``usage / usage_ceiling``, so that few tokens are not held against a large codebook; it is 0 where
    one codeword takes all tokens, which tells nothing however small the codebook. The limit is ``floor``, for codebooks
    that never come into use, or ``drop`` times the best so far where that is more, for those that fall out of use. The
    best is what relative usage kept to for ``patience`` updates. So a window of odd images, the brief high after
    codewords were set from data, and the noise of short windows are not enough for an alarm. A collapse is over once
    relative usage is not below the limit for ``patience`` updates.

    In windows of 20, 50 or 100 updates a codebook that is never used is flagged by update 200, and in any of up to 100
    updates one that falls out of use is flagged within 200.

    Args:
        grace: Windows that begin before so many updates are not judged, since most codebooks start badly or too well.
        patience: Updates.
        floor: Least relative usage.
        drop: Least share of the best relative usage so far.
    """

    grace: int = 100
    patience: int = 60
    floor: float = 0.1
    drop: float = 0.5


class Watch:
    """A ``CollapseRule`` applied to the windows of one codebook.

    Attributes:
        collapsed: Whether the codebook counts as collapsed.
        best: The most that relative usage kept to for ``patience`` updates.
        recent: First update and relative usage of the last windows, as many as make up ``patience`` updates.
    """

    def __init__(self, rule: CollapseRule):
        self.rule, self.collapsed, self.best = rule, False, 0.0
        self.recent: list[tuple[int, float]] = []

    @property
    def limit(self) -> float:
        """The relative usage that is too low."""
        return max(self.rule.floor, self.rule.drop * self.best)

    def see(self, first: int, last: int, share: float) -> bool:
        """Judge a window.

        Args:
            first: Updates before it.
            last: Updates after it.
            share: Its relative usage.

        Returns:
            Whether usage has been too low for ``patience`` updates.
        """
        if first < self.rule.grace:
            return False
        self.recent.append((first, share))
        while len(self.recent) > 1 and last - self.recent[1][0] >= self.rule.patience:
            self.recent.pop(0)
        if last - self.recent[0][0] < self.rule.patience:
            return False
        lowest, highest = min(share for _, share in self.recent), max(share for _, share in self.recent)
        low = highest < self.limit
        self.collapsed = low or (self.collapsed and lowest < self.limit)
        self.best = max(self.best, lowest)
        return low

    def state_dict(self) -> dict[str, Any]:
        return {"collapsed": self.collapsed, "best": self.best, "recent": list(self.recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.collapsed, self.best, self.recent = state["collapsed"], state["best"], list(state["recent"])


class CodebookHealth(pl.Callback):
    """Logs the health of every codebook, says so once when one collapses, and repairs it where asked to.

    Each logging interval (``trainer.log_every_n_steps`` batches) is a window, counted exactly and over all ranks; a
    checkpoint in the middle of one has what was counted so far. Nothing waits for the GPU except the end of a window,
    and a checkpoint. Under ``codebook/`` stand:

    * ``usage``, ``usage_ceiling``, ``perplexity``, ``entropy_bits``, ``tokens``: see ``CodebookUsage``.
    * ``dead``: codewords not chosen in the window.
    * ``dead_age``: updates since each of these was last chosen, the mean, counted from the end of that window, or from
      the start of the run; 0 if none is dead.
    * ``norm``, ``norm_spread``: the median length of codewords; their 95th percentile over their 5th. Not of heads
      without a table, such as binary codes.
    * ``distance``: the root of the mean squared L2 distance from latents to their codewords, as the head compares them
      (by cosine, unit vectors) and as a context weighs positions.
    * ``collapsed``: 0 or 1, see ``CollapseRule``.

    With several codebooks all but ``tokens`` end in ``_0``, ``_1`` and so on; so they do of one with more than 2²²
    codewords, of which groups of bits are counted (``metrics.usage.parts_of``). Of their product there are

    * ``distinct_tuples``: how many different tuples of codes were chosen.
    * ``tuple_entropy_bits``: plug-in entropy of the tuples' frequencies, at most log₂ of the tokens.

    Args:
        on_collapse: What to do each time that a codebook's usage has been too low for the rule's ``patience``:
            ``restart`` moves the codewords not chosen in the window onto random latents of the last batch of all ranks,
            ``reinitialise`` moves all; None leaves them. Heads whose codewords are not free to move stay as they are.
        rule: When a codebook counts as collapsed.
    """

    def __init__(self, on_collapse: str | None = None, rule: CollapseRule = CollapseRule()):
        if on_collapse is not None and on_collapse not in ACTIONS:
            raise ValueError(f"on_collapse must be {' or '.join(ACTIONS)}, or null for neither, not {on_collapse!r}")
        self.on_collapse, self.rule = on_collapse, rule
        self.watches: list[Watch] = []
        self.last_chosen: list[Tensor] = []  # of each part (n,) int64: after how many updates
        self.resumed: dict[str, Any] | None = None  # the window that a checkpoint was in
        self.hooks: list[torch.utils.hooks.RemovableHandle] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        quantizer, device = pl_module.tokenizer.quantizer, pl_module.device
        self.quantizer, self.owners = quantizer, owners(quantizer)
        self.heads = list(dict.fromkeys(self.owners))
        self.usage = CodebookUsage(quantizer.codebook_sizes).to(device)
        self.parts = self.usage.parts
        self.suffixes = [f"_{i}" for i in range(len(self.parts))] if len(self.parts) > 1 else [""]
        self.errors = torch.zeros(len(self.heads), 2, dtype=torch.float64, device=device)  # sum of squares, of weights
        self.codes: list[tuple[Tensor, Tensor | None]] = []  # of several codebooks, with what to keep
        self.latents: dict[int, Tensor] = {}  # (b, d, h, w) of the last batch, where an action may need them
        self.start = pl_module.updates
        if not self.watches:  # else resumed
            self.watches = [Watch(self.rule) for _ in self.parts]
            self.last_chosen = [torch.full((part.size,), self.start) for part in self.parts]
        if self.resumed:
            self._go_on(self.resumed)
            self.resumed = None
        self.hooks = [head.register_forward_hook(partial(self._observe, i)) for i, head in enumerate(self.heads)]

    def _observe(self, i: int, head: Quantizer, inputs: tuple[Any, ...], quantized: Quantized) -> None:
        if not head.training:
            return
        z, context = inputs[0].detach(), inputs[1] if len(inputs) > 1 else Context()
        chosen = quantized.latent if quantized.codewords is None else quantized.codewords
        if z.shape == chosen.shape:
            errors = (head.compared(z.float()) - chosen.detach()).square().sum(1)  # (b, h, w)
            weight = torch.ones_like(errors) if context.weight is None else context.weight
            self.errors[i] += torch.stack([(errors * weight).sum(), weight.sum()])
        if self.on_collapse:
            self.latents[i] = z

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: dict[str, Tensor], batch: Tensor, index: int
    ) -> None:
        self.usage.update(outputs["codes"], outputs["keep"])
        if len(self.parts) > 1:
            self.codes.append((split(outputs["codes"], self.parts).int(), outputs["keep"]))
        if pl_module.batches % trainer.log_every_n_steps == 0:
            self._end_window(trainer, pl_module)

    @torch.no_grad()
    def _end_window(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        hits, errors = sum_over_ranks(self.usage.hits).cpu(), sum_over_ranks(self.errors).cpu()
        values = {"tokens": hits[0].sum()}
        for i, (part, suffix) in enumerate(zip(self.parts, self.suffixes, strict=True)):
            counts = hits[i, : part.size]
            self.last_chosen[i][counts > 0] = module.updates
            ages = module.updates - self.last_chosen[i][counts == 0].double()
            lengths = norms(self.quantizer.table(part.codebook))  # before a repair changes them
            total, weight = errors[self.heads.index(self.owners[part.codebook])]
            if values["tokens"]:
                self._judge(i, counts, trainer, module)
            own = usage_of(counts) | {
                "dead": len(ages),
                "dead_age": ages.sum() / max(len(ages), 1),
                **lengths,
                "distance": (total / weight).sqrt(),
                "collapsed": self.watches[i].collapsed,
            }
            values |= {f"{name}{suffix}": value for name, value in own.items()}
        if len(self.parts) > 1:
            counts = tuple_counts(torch.cat([kept(codes, keep) for codes, keep in self.codes]))
            values |= {"distinct_tuples": len(counts), "tuple_entropy_bits": entropy_bits(counts)}
        module.log_dict({f"codebook/{name}": float(value) for name, value in values.items()})
        self.usage.hits.zero_()
        self.errors.zero_()
        self.codes, self.start = [], module.updates

    def _judge(self, i: int, counts: Tensor, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Show the window of a codebook, or a part of one, to its watch, then do and say what is called for."""
        watch, was_collapsed = self.watches[i], self.watches[i].collapsed
        low = watch.see(self.start, module.updates, relative_usage(counts))
        done = self._repair(i, counts, module) if low and self.on_collapse else None
        if watch.collapsed and not was_collapsed and trainer.is_global_zero:
            name = self.parts[i].name or "the codebook"
            lines = [seen(name, counts, watch, self.start, module.updates), done, advice(self.quantizer)]
            text = "\n  ".join(line for line in lines if line)
            say(text, "yellow")
        if done:
            watch.recent.clear()  # what was seen before says nothing of the codebook as it is now

    def _repair(self, i: int, counts: Tensor, module: pl.LightningModule) -> str:
        """Move codewords onto latents of the last batch, and say what was done."""
        codebook = self.parts[i].codebook  # all of it: what is free to move is no more than a table holds
        owner, table, moved = self.owners[codebook], self.quantizer.table(codebook), {}
        if table is not None:
            vectors = rearrange(self.latents[self.heads.index(owner)], "b d h w -> (b h w) d").float()
            vectors = sum_over_ranks(sample(vectors, len(table.search)))
            rows = (counts == 0).to(vectors.device) | (self.on_collapse == "reinitialise")
            moved = self.quantizer.revive(codebook, rows, vectors)
        if not moved:
            return f"{self.on_collapse} does not apply: a {type(owner).__name__} has no codewords that are free to move"
        if module.average is not None:
            module.average.copy_rows(module.tokenizer, {f"quantizer.{name}": own for name, own in moved.items()})
        return f"{self.on_collapse}: {int(rows.sum()):,} codewords were moved onto latents of the last batch"

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._remove_hooks()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._remove_hooks()

    def _remove_hooks(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks = []

    def _window(self) -> dict[str, Any]:
        """The counts since the last window ended, for a checkpoint: all ranks have to ask for them."""
        own = [kept(codes, keep) for codes, keep in self.codes]
        tuples = gather_objects(torch.cat(own).cpu()) if own else []  # all ranks have had as many batches
        return {
            "start": self.start,
            "hits": sum_over_ranks(self.usage.hits.clone()).cpu(),
            "errors": cat_over_ranks(self.errors[None].clone()).cpu(),  # of each rank: float sums depend on their order
            "tuples": torch.cat(tuples) if tuples else None,
        }

    def _go_on(self, window: dict[str, Any]) -> None:
        """Count on from there: rank 0 for all, but for sums that each rank goes on with if they are as many."""
        (rank, size), errors = rank_and_size(), window["errors"].to(self.errors.device)
        self.start = window["start"]
        if len(errors) == size:
            self.errors += errors[rank]
        elif rank == 0:
            self.errors += errors.sum(0)
        if rank == 0:
            self.usage.hits += window["hits"].to(self.usage.hits.device)
            if window["tuples"] is not None:
                self.codes = [(window["tuples"].to(self.errors.device), None)]

    def state_dict(self) -> dict[str, Any]:
        watches = [watch.state_dict() for watch in self.watches]
        return {"last_chosen": self.last_chosen, "watches": watches, "window": self._window()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.resumed = state_dict.get("window")  # earlier checkpoints have none
        self.last_chosen = [last.cpu() for last in state_dict["last_chosen"]]
        self.watches = [Watch(self.rule) for _ in self.last_chosen]
        for watch, state in zip(self.watches, state_dict["watches"], strict=True):
            watch.load_state_dict(state)


def norms(table: Table | None) -> dict[str, Tensor]:
    """The lengths of a table's codewords: their median, and their 95th percentile over their 5th."""
    if table is None:
        return {}
    low, median, high = table.values.norm(dim=1).cpu().quantile(torch.tensor([0.05, 0.5, 0.95]))
    return {"norm": median, "norm_spread": high / low}


def relative_usage(counts: Tensor) -> float:
    """Usage over its ceiling, for codewords chosen ``counts`` (n,) times, not all 0; 0 where only one was."""
    usage = usage_of(counts)
    return float(usage["usage"] / usage["usage_ceiling"]) if (counts > 0).sum() > 1 else 0.0


def kept(codes: Tensor, keep: Tensor | None) -> Tensor:
    """Codes (b, k, *positions) as tuples (m, k): all of them, or where ``keep`` (b, *positions) bool says so."""
    tuples = rearrange(codes, "b k ... -> (b ...) k")
    return tuples if keep is None else tuples[keep.flatten()]


def tuple_counts(tuples: Tensor) -> Tensor:
    """How often each distinct one of the tuples (m, k) of all ranks was chosen: int64, on all ranks."""
    distinct, counts = tuples.unique(dim=0, return_counts=True)
    parts = gather_objects(torch.cat([distinct, counts[:, None]], dim=1).cpu())
    if len(parts) > 1:
        everywhere = torch.cat(parts)
        distinct, place = everywhere[:, :-1].unique(dim=0, return_inverse=True)
        counts = torch.zeros_like(everywhere[: len(distinct), -1]).index_add_(0, place, everywhere[:, -1])
    return counts


def seen(name: str, counts: Tensor, watch: Watch, first: int, last: int) -> str:
    """What the window of updates ``first`` to ``last`` shows of a collapsed codebook."""
    values, tokens = usage_of(counts), int(counts.sum())
    return (
        f"{name} has collapsed: the {tokens:,} tokens of updates {first + 1:,} to {last:,} chose "
        f"{int((counts > 0).sum()):,} of its {len(counts):,} codewords, {values['usage']:.1%} where even choices "
        f"would reach {values['usage_ceiling']:.1%}, with perplexity {values['perplexity']:.1f}; since update "
        f"{watch.recent[0][0]:,} it has been below {watch.limit:.0%} of what even choices reach"
    )


def advice(quantizer: Quantizer) -> str:
    """What to try for a head of which a codebook has collapsed."""
    return f"what to try: {'; '.join(quantizer.advice())}"
