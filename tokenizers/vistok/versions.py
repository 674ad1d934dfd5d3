"""Versions of the software that numbers depend on."""

import platform

import torch

from vistok import __version__


def versions() -> dict[str, str]:
    """What a number depends on besides data and weights."""
    return {"vistok": __version__, "torch": torch.__version__, "python": platform.python_version()}
