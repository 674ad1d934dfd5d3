"""Kernels of the quantizers' most expensive operations."""

from vistok.kernels.nearest import largest_product, nearest_code
from vistok.kernels.propagation import propagated, propagated_and_assigned
from vistok.kernels.soft_assignment import soft_assignment

__all__ = ["largest_product", "nearest_code", "propagated", "propagated_and_assigned", "soft_assignment"]
