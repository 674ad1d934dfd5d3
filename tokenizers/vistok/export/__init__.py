"""Tokenizers as files."""

from vistok.export.checkpoints import load
from vistok.export.hub import save

__all__ = ["load", "save"]
