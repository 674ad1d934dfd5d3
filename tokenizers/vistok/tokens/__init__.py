"""Tokens on disk: written by ``python -m vistok tokenize``, read back by generators."""

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
