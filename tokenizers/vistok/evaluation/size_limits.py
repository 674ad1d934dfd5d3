"""Images that do not have a distance: too small ones, and those without three channels for a network or the luma."""

from collections.abc import Sequence

from vistok.evaluation.protocols import Protocol
from vistok.images.evaluation_crops import NATIVE
from vistok.images.rgb_view import RGBView
from vistok.metrics.distances import MS_SSIM_SMALLEST, SSIM_WINDOW

WINDOW = "its window has {} pixels a side"
LAYERS = "its network needs images of {} pixels"
SMALLEST = {  # short side in pixels, and the reason
    "ms_ssim": (MS_SSIM_SMALLEST, "its five scales need images of {} pixels"),
    **dict.fromkeys(("ssim_gauss11", "ssim_gauss11_inner", "ssim_gauss11_range2", "ssim_y"), (SSIM_WINDOW, WINDOW)),
    **dict.fromkeys(("ssim_skimage7", "ssim_skimage7_range2"), (7, WINDOW)),
    "lpips_alex": (31, LAYERS),
    "lpips_vgg": (16, LAYERS),
}
OF_COLOURS = ("psnr_y", "ssim_y", "lpips_alex", "lpips_vgg")


def defined_at(distance: str, height: int, width: int) -> bool:
    """True if images of this size have the distance."""
    return min(height, width) >= SMALLEST.get(distance, (1,))[0]


def reason_of(distance: str) -> str:
    """Reason for which small images do not have a distance."""
    smallest, reason = SMALLEST[distance]
    return reason.format(smallest)


def too_small(protocol: Protocol, image_size: int) -> dict[str, str]:
    """Distances of a protocol that its square crops of this size do not have, with the reason."""
    if protocol.crop == NATIVE:
        return {}  # known for each image only
    side = protocol.size or image_size
    names = [name for name in protocol.distances if not defined_at(name, side, side)]
    return {name: f"{reason_of(name)}, not {side}" for name in names}


def without_colours(view: RGBView) -> dict[str, str]:
    """Distances that look at colours, which these channels do not determine, with the reason."""
    if view.exists:
        return {}
    reason = f"it looks at red, green and blue: data.rgb_bands=[R, G, B] chooses them from {view.channels} channels"
    return dict.fromkeys(OF_COLOURS, reason)


def not_of_all(values: Sequence[tuple[str, str, int, int]]) -> dict[str, str]:
    """Distances that some images of native size do not have, with the number of images that do and the reason.

    Args:
        values: Name of a distance in reports, the distance, number of images that have it, number of all images.
    """
    return {
        name: f"of {having:,} of {total:,} images: {reason_of(distance)}"
        for name, distance, having, total in values
        if having < total
    }
