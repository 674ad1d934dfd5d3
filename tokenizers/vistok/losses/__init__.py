"""Training losses. An image loss is ``loss(reconstruction, images)`` and returns an unweighted scalar."""

from vistok.losses.adversarial import Adversary
from vistok.losses.alignment import info_nce
from vistok.losses.diffaug import DiffAug
from vistok.losses.dino_discriminator import DINODiscriminator
from vistok.losses.features import FeatureLoss
from vistok.losses.lecam import LeCam
from vistok.losses.patchgan import PatchGAN
from vistok.losses.perceptual import LPIPS
from vistok.losses.r1 import R1
from vistok.losses.stlpips import STLPIPS
from vistok.losses.stylegan import StyleGAN

__all__ = [
    "LPIPS",
    "R1",
    "STLPIPS",
    "Adversary",
    "DINODiscriminator",
    "DiffAug",
    "FeatureLoss",
    "LeCam",
    "PatchGAN",
    "StyleGAN",
    "info_nce",
]
