"""Tokens on disk: written by ``python -m vistok tokenize``, read by generators."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vistok.tokens.dataset import TokenDataset, TokenItem
    from vistok.tokens.extract import tokenize
    from vistok.tokens.header import Header
    from vistok.tokens.layouts import deinterleave, interleave
    from vistok.tokens.protocol import TokenProtocol
    from vistok.tokens.store import TokenStore

__all__ = [
    "Header",
    "TokenProtocol",
    "TokenDataset",
    "TokenItem",
    "TokenStore",
    "deinterleave",
    "interleave",
    "tokenize",
]

_HOMES = {  # imported when they are first used; ``tokenize`` alone needs Lightning, for its images
    "Header": "vistok.tokens.header",
    "TokenProtocol": "vistok.tokens.protocol",
    "TokenDataset": "vistok.tokens.dataset",
    "TokenItem": "vistok.tokens.dataset",
    "TokenStore": "vistok.tokens.store",
    "deinterleave": "vistok.tokens.layouts",
    "interleave": "vistok.tokens.layouts",
    "tokenize": "vistok.tokens.extract",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vistok.tokens' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
