"""Waiting policy of OpenMP threads on a machine that also runs other programs."""

import os
from collections.abc import MutableMapping
from pathlib import Path

SPINS = "1000"  # benchmarks/busy_machine.py; docs/performance.md has its table
OWN = ("OMP_", "GOMP_", "KMP_")  # prefixes of OpenMP's variables
GPUS = ("/dev/nvidiactl", "/dev/kfd")


def share_cores(variables: MutableMapping[str, str] = os.environ) -> None:
    """Lets waiting threads sleep early, so that their core is free for other work. Call it before torch is imported.

    On Linux torch computes with libgomp, whose waiting threads first count to 300,000. If another program holds the
    core of the thread that they wait for, that time is lost for all programs. Nothing is changed where the user has set
    any OpenMP variable, nor on a machine with a GPU.

    Args:
        variables: Environment variables to change.
    """
    if not any(name.startswith(OWN) for name in variables) and not any(Path(gpu).exists() for gpu in GPUS):
        variables["GOMP_SPINCOUNT"] = SPINS
