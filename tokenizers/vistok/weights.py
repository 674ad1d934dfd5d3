"""Pretrained weights of other networks (LPIPS trunks, Inception): downloaded by the libraries that know them."""

from collections.abc import Iterator
from contextlib import contextmanager


class WeightsUnavailable(RuntimeError):
    """Pretrained weights that are neither on disk nor to be downloaded; the message says what to do."""


@contextmanager
def downloading(what: str, instead: str) -> Iterator[None]:
    """Turn a failed download within the block into a ``WeightsUnavailable`` that names what is missing.

    Args:
        what: The weights, as a person would call them.
        instead: What to do without a network.
    """
    try:
        yield
    except OSError as error:  # urllib's URLError and requests' exceptions are OSErrors
        raise WeightsUnavailable(f"{what} could not be downloaded ({error}); {instead}") from error
