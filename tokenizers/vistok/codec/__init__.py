"""Image compression to very few bits: codes of a tokenizer in a checked file (after arXiv:2307.08265)."""

from vistok.codec.coder import Codec

__all__ = ["Codec"]
