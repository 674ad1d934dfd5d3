"""DICOM files of radiology, read by pydicom: rescaled values of one frame, as they are meant to be displayed."""

import io
from collections.abc import Sequence

import numpy as np

from vistok.images.rgb import UnreadableImage


def is_dicom(data: bytes) -> bool:
    """True for the bytes of a DICOM file."""
    return data[128:132] == b"DICM"


def values_of(data: bytes, max_pixels: int, argument: str) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Values (H, W, k) and the window, both after the rescale slope and intercept; MONOCHROME1 is inverted.

    Values of CT are in Hounsfield units. Several frames of grey are bands. Where the file has no window, it is the
    range of the stored bits, for unsigned values without a rescale.

    Raises:
        ImportError: pydicom is not installed.
        UnreadableImage: It has more pixels.
        Exception: The file is damaged, or compressed in a way that pydicom cannot read; pydicom raises anything.
    """
    try:
        import pydicom
        from pydicom.pixels import apply_rescale
    except ImportError as error:
        raise ImportError("DICOM files need pydicom: pip install 'vistok[dicom]'") from error

    dataset = pydicom.dcmread(io.BytesIO(data))
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    count = dataset.Rows * dataset.Columns * frames
    if count > max_pixels:
        raise UnreadableImage(f"it has {count:,} pixels, more than {argument}={max_pixels}")
    levels = dataset.pixel_array
    if dataset.get("SamplesPerPixel", 1) > 1:
        if frames > 1:
            raise UnreadableImage(f"it has {frames} frames in colour; only one is read")
        return levels, None
    levels = levels[None] if frames == 1 else levels
    levels = np.moveaxis(apply_rescale(levels, dataset), 0, -1)
    window = _window(dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        low, high = _range(dataset)
        levels, window = low + high - levels, window and (low + high - window[1], low + high - window[0])
    return levels, window


def _range(dataset) -> tuple[float, float]:
    """Range of the stored bits after the rescale."""
    low = -(2 ** (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    return low * slope + intercept, (low + 2**dataset.BitsStored - 1) * slope + intercept


def _window(dataset) -> tuple[float, float] | None:
    """Values that are displayed as black and as white (DICOM PS3.3, C.11.2.1.2), by the first window of the file."""
    centre, width = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if centre is None or width is None:
        rescaled = "RescaleSlope" in dataset or dataset.PixelRepresentation
        return None if rescaled else _range(dataset)
    centre, width = (float(value[0] if isinstance(value, Sequence) else value) for value in (centre, width))
    return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
