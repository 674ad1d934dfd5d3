"""Processes that something else started: torchrun, SLURM's srun, or submitit, whose jobs come back when preempted."""

import os
import signal
import zlib
from typing import Any, NamedTuple

from lightning_fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment
from pytorch_lightning.utilities import rank_zero_only


class Started(NamedTuple):
    """Who started this process and those beside it."""

    by: str
    processes: int


def started() -> Started | None:
    """Who started this process as one of several; None for a plain ``python train.py``."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return Started("torchrun", int(os.environ["WORLD_SIZE"]))
    if "SUBMITIT_EXECUTOR" in os.environ:
        import submitit

        return Started("submitit", submitit.JobEnvironment().num_tasks)
    if SLURMEnvironment.detect():
        return Started("srun", int(os.environ["SLURM_NTASKS"]))
    return None


def environment(devices: Any, num_nodes: int) -> list[ClusterEnvironment]:
    """For Lightning's ``plugins``: where this process finds the others. What Lightning detects itself needs none.

    Args:
        devices: ``trainer.devices``; -1 and the like are all GPUs of the machine.
        num_nodes: ``trainer.num_nodes``.

    Raises:
        ValueError: So many processes were not asked for: each would train on its own, into the same folder.
    """
    found = started()
    if found is None:
        return []
    if isinstance(devices, int) and devices > 0 and found.processes != devices * num_nodes:
        count = f"{found.processes} process{'es' * (found.processes > 1)}"
        raise ValueError(
            f"{found.by} started {count}, but trainer.devices={devices} trainer.num_nodes={num_nodes} are "
            f"{devices * num_nodes}; trainer=ddp is for several"
        )
    if found.by == "submitit":
        return [SubmititEnvironment()]
    # Lightning's own way to requeue saves and restores files of its own, in the middle of an update.
    return [SLURMEnvironment(auto_requeue=False)] if found.by == "srun" else []


class SubmititEnvironment(ClusterEnvironment):
    """The tasks of a submitit job, on SLURM or on this machine, are the ranks."""

    def __init__(self):
        import submitit

        super().__init__()
        self.job = submitit.JobEnvironment()
        rank_zero_only.rank = self.job.global_rank

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ.setdefault("MASTER_ADDR", self.job.hostnames[0])

    @property
    def main_port(self) -> int:
        """The same for all tasks of a job, and hardly ever that of another job."""
        return int(os.environ.setdefault("MASTER_PORT", str(15000 + zlib.crc32(self.job.job_id.encode()) % 15000)))

    @staticmethod
    def detect() -> bool:
        return "SUBMITIT_EXECUTOR" in os.environ

    def world_size(self) -> int:
        return self.job.num_tasks

    def set_world_size(self, size: int) -> None:
        """The job has it."""

    def global_rank(self) -> int:
        return self.job.global_rank

    def set_global_rank(self, rank: int) -> None:
        """The job has it."""

    def local_rank(self) -> int:
        return self.job.local_rank

    def node_rank(self) -> int:
        return self.job.node


def hand_on(number: int) -> None:
    """Give a signal, once the run is saved, to whoever handled it before the training.

    For submitit's that is its function that requeues the job and ends the process.
    """
    handler = signal.getsignal(number)
    if callable(handler) and handler is not signal.default_int_handler:
        handler(number, None)
