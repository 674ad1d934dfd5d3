"""Training losses. An image loss is ``loss(reconstruction, images)`` and returns an unweighted scalar."""

from vistok.losses.adversarial import Adversary
from vistok.losses.alignment import info_nce
from vistok.losses.patchgan import PatchGAN
from vistok.losses.perceptual import LPIPS

__all__ = ["LPIPS", "Adversary", "PatchGAN", "info_nce"]
