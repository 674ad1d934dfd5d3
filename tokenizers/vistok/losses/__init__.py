"""Training losses: ``loss(reconstruction, images)``, or ``loss(latent, images)``, to an unweighted scalar."""

from vistok.losses.adversarial import Adversary
from vistok.losses.alignment import ContrastiveAlignment, FeaturePrediction, PatchAlignment, info_nce
from vistok.losses.logit_laplace import LogitLaplace
from vistok.losses.patchgan import PatchGAN
from vistok.losses.perceptual import LPIPS
from vistok.losses.teachers import Teacher

__all__ = [
    "LPIPS",
    "Adversary",
    "ContrastiveAlignment",
    "FeaturePrediction",
    "LogitLaplace",
    "PatchAlignment",
    "PatchGAN",
    "Teacher",
    "info_nce",
]
