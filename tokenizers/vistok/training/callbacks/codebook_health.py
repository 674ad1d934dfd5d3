"""Codebook statistics during training, and the detection and repair of collapsed codebooks."""

from copy import deepcopy
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from einops import rearrange
from torch import Tensor

from vistok.distributed.collectives import cat_over_ranks, gather_objects, rank_and_size, sum_over_ranks
from vistok.metrics import CodebookUsage
from vistok.metrics.usage import entropy_bits, split, usage_of
from vistok.metrics.usage_by_scale import UsageByScale
from vistok.quantizers import Context, Quantized, Quantizer, Table
from vistok.quantizers.code_statistics import sample
from vistok.terminal import say
from vistok.training.collapse import CollapseDetector, CollapseRule, relative_usage

ACTIONS = ("restart", "reinitialise")


class CodebookHealth(pl.Callback):
    """Logs statistics of every codebook, warns once when a codebook collapses, and optionally repairs it.

    Each logging interval (``trainer.log_every_n_steps`` batches) is a window. Codes are counted exactly and over all
    ranks; a checkpoint in the middle of a window saves the counts so far. Only the end of a window and a checkpoint
    wait for the GPU. The logged values, under ``codebook/``, are:

    * ``usage``, ``usage_ceiling``, ``perplexity``, ``entropy_bits``, ``tokens``: see ``CodebookUsage``.
    * ``dead``: number of codewords that were not chosen in the window.
    * ``dead_age``: mean number of updates since the dead codewords were last chosen, counted from the end of that
      window, or from the start of the run; 0 if no codeword is dead.
    * ``norm``, ``norm_spread``: median L2 norm of the codewords; their 95th percentile divided by their 5th. Heads
      without a table, such as binary codes, have neither.
    * ``distance``: root of the mean squared L2 distance from latents to their codewords, as the head compares them
      (unit vectors under cosine similarity), weighted by the context's weights of positions.
    * ``collapsed``: 0 or 1, see ``CollapseRule``.

    A multi-scale head also has ``usage_scale0``, ``usage_ceiling_scale0``, ``perplexity_scale0`` and ``tokens_scale0``
    of its first scale, then ``usage_scale1`` and so on. The codebooks of a residual head are its depths.

    A codebook that several depths share has these values for each depth, but it collapses, and is repaired, as one: by
    the codes of all depths.

    With several codebooks all names but ``tokens`` end in ``_0``, ``_1`` and so on. So they do for one codebook of more
    than 2²² codewords, whose codes are counted in groups of bits (``metrics.usage.parts_of``). Their product adds

    * ``distinct_tuples``: number of different tuples of codes that were chosen.
    * ``tuple_entropy_bits``: plug-in entropy of the tuple frequencies in bits, at most log₂ of the number of tokens.

    Args:
        on_collapse: Action each time that relative usage has been too low for the rule's ``patience``: ``restart``
            moves the codewords that were not chosen in the window onto random latents of the last batch of all ranks,
            ``reinitialise`` moves all codewords, None does nothing. A head whose codewords cannot be moved is left
            unchanged.
        rule: Thresholds by which a codebook counts as collapsed.
    """

    def __init__(self, on_collapse: str | None = None, rule: CollapseRule = CollapseRule()):
        if on_collapse is not None and on_collapse not in ACTIONS:
            raise ValueError(
                f"optim.on_collapse must be {' or '.join(ACTIONS)}, or null for neither, not {on_collapse!r}"
            )
        self.on_collapse, self.rule = on_collapse, rule
        self.detectors: list[CollapseDetector] = []
        self.last_chosen: list[Tensor] = []  # (n,) int64 for each part: updates at the end of the last window with it
        self.resumed: dict[str, Any] | None = None  # the unfinished window of a checkpoint
        self.hooks: list[torch.utils.hooks.RemovableHandle] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        quantizer, device = pl_module.tokenizer.quantizer, pl_module.device
        self.quantizer = quantizer
        tables = [quantizer.owner(i) for i in range(len(quantizer.codebook_sizes))]
        self.owners = [head for head, _ in tables]
        self.heads = list(dict.fromkeys(self.owners))
        self.usage = CodebookUsage(quantizer.codebook_sizes).to(device)
        self.by_scale = UsageByScale(quantizer.codebook_sizes).to(device)
        self.parts = self.usage.parts
        keys = [(tables[part.codebook], part.shift) for part in self.parts]
        self.same = [[j for j, other in enumerate(keys) if other == key] for key in keys]  # parts of one codebook
        self.suffixes = [f"_{i}" for i in range(len(self.parts))] if len(self.parts) > 1 else [""]
        self.errors = torch.zeros(len(self.heads), 2, dtype=torch.float64, device=device)  # sums: squares, weights
        self.codes: list[tuple[Tensor, Tensor | None]] = []  # codes of several codebooks, with ``keep``
        self.latents: dict[int, list[Tensor]] = {}  # (b, d, h, w) of the last batch, where an action may need them
        self.start = pl_module.updates
        if not self.detectors:  # else resumed
            self.detectors = [CollapseDetector(self.rule) for _ in self.parts]
            self.last_chosen = [torch.full((part.size,), self.start) for part in self.parts]
        if self.resumed:
            self._resume_window(self.resumed)
            self.resumed = None
        self.hooks = [head.register_forward_hook(partial(self._observe, i)) for i, head in enumerate(self.heads)]
        if len(quantizer.layout(*quantizer.example_grid).grids) > 1:
            self.hooks.append(quantizer.register_forward_hook(self._count_scales))

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
            self.latents.setdefault(i, []).append(z)

    def _count_scales(self, head: Quantizer, inputs: tuple[Any, ...], quantized: Quantized) -> None:
        if head.training:
            self.by_scale.update(head.layout(*inputs[0].shape[2:]).split(quantized.codes))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: dict[str, Tensor], batch: Tensor, index: int
    ) -> None:
        self.usage.update(outputs["codes"], outputs["keep"])
        if len(self.parts) > 1:
            self.codes.append((split(outputs["codes"], self.parts).int(), outputs["keep"]))
        if pl_module.batches % trainer.log_every_n_steps == 0:
            self._end_window(trainer, pl_module)
        self.latents.clear()

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
            first = self.same[i][0]
            if values["tokens"] and first == i:
                self._check_window(i, hits[self.same[i], : part.size].sum(0), trainer, module)
            own = usage_of(counts) | {
                "dead": len(ages),
                "dead_age": ages.sum() / max(len(ages), 1),
                **lengths,
                "distance": (total / weight).sqrt(),
                "collapsed": self.detectors[first].collapsed,
            }
            values |= {f"{name}{suffix}": value for name, value in own.items()}
        of_scales = self.by_scale.gather().compute() if self.by_scale.scales else []
        for i, own in enumerate(of_scales):
            values |= {f"{name}_scale{i}": value for name, value in own.items()}
        if len(self.parts) > 1:
            counts = tuple_counts(torch.cat([kept_codes(codes, keep) for codes, keep in self.codes]))
            values |= {"distinct_tuples": len(counts), "tuple_entropy_bits": entropy_bits(counts)}
        module.log_dict({f"codebook/{name}": float(value) for name, value in values.items()})
        self.usage.hits.zero_()
        self.by_scale.clear()
        self.errors.zero_()
        self.codes, self.start = [], module.updates

    def _check_window(self, i: int, counts: Tensor, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Passes the window of a codebook, or of a part of it, to its detector; then repairs and reports."""
        detector, was_collapsed = self.detectors[i], self.detectors[i].collapsed
        low = detector.observe(self.start, module.updates, relative_usage(counts))
        done = self._repair(i, counts, module) if low and self.on_collapse else None
        if detector.collapsed and not was_collapsed and trainer.is_global_zero:
            name = self.parts[i].name or "the codebook"
            name += f", which {len(self.same[i])} depths share," if len(self.same[i]) > 1 else ""
            lines = [collapse_message(name, counts, detector, self.start, module.updates), done, advice(self.quantizer)]
            text = "\n  ".join(line for line in lines if line)
            say(text, "yellow")
        if done:
            detector.recent.clear()  # earlier windows do not describe the repaired codebook

    def _repair(self, i: int, counts: Tensor, module: pl.LightningModule) -> str:
        """Moves codewords onto latents of the last batch; returns a sentence about it for the user."""
        codebook = self.parts[i].codebook  # all of its parts: only codebooks with a table can move
        owner, table, moved = self.owners[codebook], self.quantizer.table(codebook), {}
        if table is not None:
            latents = self.latents[self.heads.index(owner)]
            vectors = torch.cat([rearrange(z, "b d h w -> (b h w) d") for z in latents]).float()
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
        """Counts since the end of the last window, for a checkpoint. A collective: every rank has to call it."""
        own = [kept_codes(codes, keep) for codes, keep in self.codes]
        tuples = gather_objects(torch.cat(own).cpu()) if own else []  # every rank has had the same number of batches
        return {
            "start": self.start,
            "hits": sum_over_ranks(self.usage.hits.clone()).cpu(),
            "scales": [own.hits.cpu() for own in deepcopy(self.by_scale).gather().scales],
            "errors": cat_over_ranks(self.errors[None].clone()).cpu(),  # one per rank: float sums depend on the order
            "tuples": torch.cat(tuples) if tuples else None,
        }

    def _resume_window(self, window: dict[str, Any]) -> None:
        """Resumes an unfinished window.

        Rank 0 takes all counts; each rank takes its own sums if the world size is equal.
        """
        (rank, size), errors = rank_and_size(), window["errors"].to(self.errors.device)
        self.start = window["start"]
        if len(errors) == size:
            self.errors += errors[rank]
        elif rank == 0:
            self.errors += errors.sum(0)
        if rank == 0:
            self.usage.hits += window["hits"].to(self.usage.hits.device)
            self.by_scale.add(window.get("scales", ()))  # earlier checkpoints have none
            if window["tuples"] is not None:
                self.codes = [(window["tuples"].to(self.errors.device), None)]

    def state_dict(self) -> dict[str, Any]:
        detectors = [detector.state_dict() for detector in self.detectors]
        return {"last_chosen": self.last_chosen, "watches": detectors, "window": self._window()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.resumed = state_dict.get("window")  # earlier checkpoints have none
        self.last_chosen = [last.cpu() for last in state_dict["last_chosen"]]
        self.detectors = [CollapseDetector(self.rule) for _ in self.last_chosen]
        for detector, state in zip(self.detectors, state_dict["watches"], strict=True):
            detector.load_state_dict(state)


def norms(table: Table | None) -> dict[str, Tensor]:
    """Median L2 norm of a table's codewords, and their 95th percentile divided by their 5th."""
    if table is None:
        return {}
    low, median, high = table.values.norm(dim=1).cpu().quantile(torch.tensor([0.05, 0.5, 0.95]))
    return {"norm": median, "norm_spread": high / low}


def kept_codes(codes: Tensor, keep: Tensor | None) -> Tensor:
    """Codes (b, k, *positions) as tuples (m, k): all, or those where ``keep`` (b, *positions) bool is True."""
    tuples = rearrange(codes, "b k ... -> (b ...) k")
    return tuples if keep is None else tuples[keep.flatten()]


def tuple_counts(tuples: Tensor) -> Tensor:
    """Count of each distinct tuple among the tuples (m, k) of all ranks: int64, the same on every rank."""
    distinct, counts = tuples.unique(dim=0, return_counts=True)
    parts = gather_objects(torch.cat([distinct, counts[:, None]], dim=1).cpu())
    if len(parts) > 1:
        everywhere = torch.cat(parts)
        distinct, place = everywhere[:, :-1].unique(dim=0, return_inverse=True)
        counts = torch.zeros_like(everywhere[: len(distinct), -1]).index_add_(0, place, everywhere[:, -1])
    return counts


def collapse_message(name: str, counts: Tensor, detector: CollapseDetector, first: int, last: int) -> str:
    """Message about a collapsed codebook, from the counts of the window between updates ``first`` and ``last``."""
    values, tokens = usage_of(counts), int(counts.sum())
    return (
        f"{name} has collapsed: the {tokens:,} tokens of updates {first + 1:,} to {last:,} chose "
        f"{int((counts > 0).sum()):,} of its {len(counts):,} codewords, {values['usage']:.1%} where uniform choices "
        f"would reach {values['usage_ceiling']:.1%}, with perplexity {values['perplexity']:.1f}; since update "
        f"{detector.recent[0][0]:,} it has been below {detector.limit:.0%} of what uniform choices reach"
    )


def advice(quantizer: Quantizer) -> str:
    """Advice for a head with a collapsed codebook."""
    return f"what to try: {'; '.join(quantizer.advice())}"
