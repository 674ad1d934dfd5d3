"""Detection of the launcher that started this process: torchrun, SLURM's srun, or submitit with its requeued jobs."""

import os
import signal
import zlib
from typing import Any, NamedTuple

from lightning_fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment
from pytorch_lightning.utilities import rank_zero_only


class Started(NamedTuple):
    """The launcher that started this process and its peers."""

    by: str
    processes: int


def started() -> Started | None:
    """Returns the launcher that started this process as one of several; None for a plain ``python train.py``."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return Started("torchrun", int(os.environ["WORLD_SIZE"]))
    if "SUBMITIT_EXECUTOR" in os.environ:
        import submitit

        return Started("submitit", submitit.JobEnvironment().num_tasks)
    if SLURMEnvironment.detect():
        return Started("srun", int(os.environ["SLURM_NTASKS"]))
    return None


def environment(devices: Any, num_nodes: int) -> list[ClusterEnvironment]:
    """Returns Lightning's ``plugins`` for launchers that Lightning does not support by itself.

    Args:
        devices: ``trainer.devices``; values such as -1 mean all GPUs of the machine.
        num_nodes: ``trainer.num_nodes``.

    Raises:
        ValueError: The number of processes differs from the config's: each would train separately, into the same
            folder.
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
    # Lightning's own requeueing saves and restores separate files, in the middle of an update.
    return [SLURMEnvironment(auto_requeue=False)] if found.by == "srun" else []


class SubmititEnvironment(ClusterEnvironment):
    """Ranks of the tasks of a submitit job, on SLURM or on this machine."""

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
        """Port that is the same for all tasks of a job and unlikely to be that of another job."""
        return int(os.environ.setdefault("MASTER_PORT", str(15000 + zlib.crc32(self.job.job_id.encode()) % 15000)))

    @staticmethod
    def detect() -> bool:
        return "SUBMITIT_EXECUTOR" in os.environ

    def world_size(self) -> int:
        return self.job.num_tasks

    def set_world_size(self, size: int) -> None:
        """Does nothing: the job sets it."""

    def global_rank(self) -> int:
        return self.job.global_rank

    def set_global_rank(self, rank: int) -> None:
        """Does nothing: the job sets it."""

    def local_rank(self) -> int:
        return self.job.local_rank

    def node_rank(self) -> int:
        return self.job.node


def hand_on(number: int) -> None:
    """Passes a signal, after the run was saved, to the handler that was installed before training.

    submitit's handler requeues the job and ends the process.
    """
    handler = signal.getsignal(number)
    if callable(handler) and handler is not signal.default_int_handler:
        handler(number, None)
