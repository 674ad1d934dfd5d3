"""Training losses: ``loss(reconstruction, images)``, or ``loss(latent, images)``, to an unweighted scalar."""

from vistok.losses.adversarial import Adversary
from vistok.losses.alignment import ContrastiveAlignment, FeaturePrediction, PatchAlignment, info_nce
from vistok.losses.blurpool import BlurPoolDiscriminator
from vistok.losses.diffaug import DiffAug
from vistok.losses.dino_discriminator import DINODiscriminator
from vistok.losses.feature_loss import FeatureLoss
from vistok.losses.layer_alignment import LayerAlignment
from vistok.losses.lecam import LeCam
from vistok.losses.logit_laplace import LogitLaplace
from vistok.losses.patchgan import PatchGAN
from vistok.losses.perceptual import LPIPS
from vistok.losses.r1 import R1
from vistok.losses.stlpips import STLPIPS
from vistok.losses.stylegan import StyleGAN
from vistok.losses.teachers import Teacher

__all__ = [
    "LPIPS",
    "R1",
    "STLPIPS",
    "Adversary",
    "BlurPoolDiscriminator",
    "ContrastiveAlignment",
    "DINODiscriminator",
    "DiffAug",
    "FeatureLoss",
    "FeaturePrediction",
    "LayerAlignment",
    "LeCam",
    "LogitLaplace",
    "PatchAlignment",
    "PatchGAN",
    "StyleGAN",
    "Teacher",
    "info_nce",
]
