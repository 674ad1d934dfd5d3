"""Kernels of the quantizers' most expensive operations."""

from vistok.kernels.nearest import nearest_code
from vistok.kernels.soft_assignment import soft_assignment

__all__ = ["nearest_code", "soft_assignment"]
