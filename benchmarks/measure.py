"""Measurements of the benchmarks: CPU time in turns, bytes of torch's allocator, and claims with targets."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch

MIB = 2**20
SHORTEST = 20  # milliseconds of a sample
Run = Callable[[], object]


def milliseconds(runs: Mapping[str, Run], samples: int = 5) -> dict[str, float]:
    """CPU milliseconds of each run by name: the median of so many, taken in turns after some for warmth.

    CPU time of the whole process does not see what else the machine does, but for caches shared with it. A sample of a
    short run is the mean of as many as fit in ``SHORTEST``.
    """
    for run in runs.values():
        run()
    calls = {name: max(1, round(SHORTEST / _of_calls(run, 1))) for name, run in runs.items()}
    spent = {name: [] for name in runs}
    for _ in range(samples):
        for name, run in runs.items():
            spent[name].append(_of_calls(run, calls[name]))
    return {name: statistics.median(times) for name, times in spent.items()}


def _of_calls(run: Run, calls: int) -> float:
    began = time.process_time()
    for _ in range(calls):
        run()
    return 1000 * (time.process_time() - began) / calls


def gpu_milliseconds(run: Run, samples: int = 5, warm: int = 1) -> float:
    """Milliseconds of a run on the GPU by CUDA events: the median of so many after some for warmth."""
    times = []
    for _ in range(warm + samples):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        run()
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended))
    return statistics.median(times[warm:])


def allocated(run: Run) -> int:
    """The most bytes that torch's CPU allocator had handed out at once during a run, beyond what there was before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


def table(columns: list[str]) -> None:
    """Print the head of a Markdown table."""
    line(columns)
    line(["---"] * len(columns))


def line(cells: list[object]) -> None:
    """Print a row of it."""
    sys.stdout.write(f"| {' | '.join(f'{cell:.3g}' if isinstance(cell, float) else str(cell) for cell in cells)} |\n")
    sys.stdout.flush()


class Claims:
    """Targets that measured numbers must reach."""

    def __init__(self) -> None:
        self.unreached = 0

    def at_most(self, what: str, value: float, target: float) -> None:
        self._say(what, value, "at most", target, value <= target)

    def at_least(self, what: str, value: float, target: float) -> None:
        self._say(what, value, "at least", target, value >= target)

    def _say(self, what: str, value: float, relation: str, target: float, kept: bool) -> None:
        self.unreached += not kept
        sys.stdout.write(f"{'reached' if kept else 'NOT REACHED'}: {what}: {value:.4g}, {relation} {target:g}\n")
        sys.stdout.flush()

    def finish(self, gate: bool) -> None:
        """End the process with status 1 if a target was not reached and ``gate`` is set."""
        if gate and self.unreached:
            sys.exit(1)
