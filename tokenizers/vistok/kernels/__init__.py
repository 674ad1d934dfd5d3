"""The searches that quantizers spend their time in."""

from vistok.kernels.nearest import nearest_code

__all__ = ["nearest_code"]
