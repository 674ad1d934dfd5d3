"""Heads with one learned table, in the form that published layouts store."""

from typing import Any, cast

import torch

from vistok.formats import plain
from vistok.quantizers import Quantizer, Table, VectorQuantizer


def as_learned(head: Quantizer, target: str, l2: bool = False, **arguments: Any) -> VectorQuantizer:
    """Head with the codewords of one that has a single table, before they are normalised for a cosine.

    Args:
        head: The head.
        target: Name of the layout, for messages.
        l2: True for a layout that compares by L2 alone: a cosine head's codewords then have unit length.
        arguments: Further arguments of ``VectorQuantizer``, whose tensors the layout stores.
    """
    plain.check_table(head, target)
    table = cast(Table, head.table(0))
    plain.refuse_two(head, table, target)
    cosine = table.metric == "cosine"
    own = VectorQuantizer(*table.values.shape, cosine=cosine and not l2, **arguments)
    stored = head.codewords if type(head) is VectorQuantizer and cosine == own.cosine else table.values
    with torch.no_grad():
        own.codewords.copy_(stored)
    return own.eval().requires_grad_(False)
