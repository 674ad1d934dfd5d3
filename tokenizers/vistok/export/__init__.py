"""Tokenizers as files."""

from vistok.export.hub import load, save

__all__ = ["load", "save"]
