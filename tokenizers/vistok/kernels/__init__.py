"""Kernels of the quantizers' most expensive operations."""

from vistok.kernels.nearest import largest_product, nearest_code
from vistok.kernels.propagation import propagated
from vistok.kernels.soft_assignment import soft_assignment

__all__ = ["largest_product", "nearest_code", "propagated", "soft_assignment"]
