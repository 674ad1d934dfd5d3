"""The waiting of OpenMP's threads for each other, on a machine where other programs run too."""

import os
from collections.abc import MutableMapping
from pathlib import Path

SPINS = "1000"  # benchmarks/busy_machine.py; docs/performance.md has its table
OWN = ("OMP_", "GOMP_", "KMP_")  # how OpenMP's variables begin
GPUS = ("/dev/nvidiactl", "/dev/kfd")


def share_cores(variables: MutableMapping[str, str] = os.environ) -> None:
    """Let threads that wait for others go to sleep soon, and leave their core to whoever has work.

    On Linux torch computes with libgomp, whose waiting threads count to 300,000 first: where another program holds the
    core of the thread that they wait for, that time is lost to all. To be called before torch is imported. Nothing is
    changed where the user has set any of OpenMP's variables, nor on a machine with a GPU.

    Args:
        variables: Of the environment.
    """
    if not any(name.startswith(OWN) for name in variables) and not any(Path(gpu).exists() for gpu in GPUS):
        variables["GOMP_SPINCOUNT"] = SPINS
