"""Kernels of the most expensive operations of quantizers and networks."""

from vistok.kernels.feature_distance import normalised_distances
from vistok.kernels.group_norm import conv_norm_act, forked_norm_act, norm_act
from vistok.kernels.nearest import largest_product, nearest_code
from vistok.kernels.propagation import propagated, propagated_and_assigned
from vistok.kernels.soft_assignment import soft_assignment

__all__ = [
    "conv_norm_act",
    "forked_norm_act",
    "largest_product",
    "nearest_code",
    "norm_act",
    "normalised_distances",
    "propagated",
    "propagated_and_assigned",
    "soft_assignment",
]
