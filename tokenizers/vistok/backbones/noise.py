"""Noise beside the latent of a generative decoder, which WeTok (arXiv:2508.05599) draws anew for every image."""

import torch
from torch import Tensor

SEED = 0  # of the noise in evaluation


def drawn(latent: Tensor, given: Tensor | torch.Generator | None, training: bool) -> Tensor:
    """Standard normal noise (b, d, h, w) for a latent of these sizes.

    Args:
        latent: The latent.
        given: The noise itself, or the generator that draws it for the whole batch.
        training: What is drawn where nothing is given. True takes torch's global generator. False takes a generator of
            seed 0 on the CPU for each image, so that the noise of an image depends on its grid only: equal codes are
            decoded to equal images in every batch, process and program, on every device.

    Raises:
        ValueError: The given noise has other sizes.
    """
    if isinstance(given, Tensor):
        if given.shape != latent.shape:
            raise ValueError(f"context.noise has the sizes {list(given.shape)}, but the latent {list(latent.shape)}")
        return given.to(latent)
    if given is not None:
        return torch.randn(latent.shape, generator=given, device=given.device).to(latent)
    if training:
        return torch.randn_like(latent)
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(latent.shape[1:], generator=generator, device="cpu").to(latent).expand_as(latent)
