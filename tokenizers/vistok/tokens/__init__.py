"""Tokens on disk: written by ``python -m vistok tokenize``, read by generators."""

from typing import TYPE_CHECKING, Any

from vistok.tokens.dataset import TokenDataset, TokenItem
from vistok.tokens.header import Header
from vistok.tokens.layouts import deinterleave, interleave
from vistok.tokens.protocol import TokenProtocol
from vistok.tokens.store import TokenStore

if TYPE_CHECKING:
    from vistok.tokens.extract import tokenize

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


def __getattr__(name: str) -> Any:
    if name != "tokenize":
        raise AttributeError(f"module 'vistok.tokens' has no attribute {name!r}")
    from vistok.tokens.extract import tokenize  # it reads images, and that is Lightning's; a generator needs neither

    return tokenize
