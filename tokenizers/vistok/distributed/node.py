"""Processes of a launch that run on the same node, by the launcher's environment variables alone."""

import os
import sys
from hashlib import blake2b
from typing import NamedTuple

MADE_IN = "VISTOK_NODE_FOLDER"  # variable that hands a folder on to the processes that Lightning starts


class NodePeer(NamedTuple):
    """A process of several on a node."""

    launch: str  # text that is the same in all processes of this launch on this node, and in no others
    first: bool  # True in one of them


def peer() -> NodePeer | None:
    """This process as one of several that an external launcher started on this node; None if there is none.

    Lightning's own launcher starts the other processes from the first one, when that has built the data: see
    ``is_child``.
    """
    variables = os.environ
    if "TORCHELASTIC_RUN_ID" in variables:
        attempt = os.path.dirname(os.path.dirname(variables.get("TORCHELASTIC_ERROR_FILE", "")))
        names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")
        return _peer(variables["LOCAL_RANK"], [attempt or str(os.getppid()), *_values(names)])
    if "SUBMITIT_EXECUTOR" in variables:
        import submitit

        job = submitit.JobEnvironment()
        return _peer(str(job.local_rank), ["submitit", job.job_id, str(job.node), *_values(("SLURM_RESTART_COUNT",))])
    if "SLURM_NTASKS" in variables:
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

        if SLURMEnvironment.detect():
            names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "SLURM_NODEID")
            return _peer(variables.get("SLURM_LOCALID", "0"), [os.getcwd(), *sys.argv, *_values(names)])
    return None


def is_child() -> bool:
    """True in a process that Lightning's own launcher started, which finds what the first process made before."""
    return peer() is None and os.environ.get("LOCAL_RANK", "0") != "0" and MADE_IN in os.environ


def _peer(local_rank: str, parts: list[str]) -> NodePeer:
    return NodePeer(blake2b("\0".join(parts).encode(errors="replace"), digest_size=16).hexdigest(), local_rank == "0")


def _values(names: tuple[str, ...]) -> list[str]:
    return [os.environ.get(name, "") for name in names]
