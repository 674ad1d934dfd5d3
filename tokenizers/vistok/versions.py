"""Versions of the software that numbers depend on."""

import platform

import torch

from vistok import __version__


def versions() -> dict[str, str]:
    """Versions of all software that numbers depend on besides data and weights."""
    return {"vistok": __version__, "torch": torch.__version__, "python": platform.python_version()}
