"""Training of codebooks alone, with frozen networks (arXiv:2307.08265, section 3.2), or of the decoder alone."""

from typing import TYPE_CHECKING

import torch

from vistok.quantizers.base import Quantizer, single_heads

if TYPE_CHECKING:
    from vistok.losses import Adversary
    from vistok.tokenizer import Tokenizer


def leave_codebooks(tokenizer: "Tokenizer", adversary: "Adversary | None" = None) -> None:
    """Freezes all of a tokenizer except the heads' codebooks, in place.

    Parameters without gradients are in no optimizer, so neither weight decay nor moments change them; networks in
    evaluation mode update no batch statistics and apply no dropout. Lightning keeps the mode of each module.

    Args:
        tokenizer: The tokenizer.
        adversary: Adversary of the training, or None.

    Raises:
        ValueError: No codebook is learned by gradient, or the discriminator's gradient would reach none.
    """
    heads = single_heads(tokenizer.quantizer)
    tokenizer.requires_grad_(False).eval()
    for head in heads:
        head.requires_grad_(True).train()
        if not any(True for _ in head.parameters()):
            raise ValueError(
                f"model.trainable=codebook: this {type(head).__name__} has no codebook that is learned by gradient; "
                "take quantizer=vq"
            )
        if adversary is not None and not decoder_teaches(head):
            name = type(head.estimator).__name__
            raise ValueError(
                f"model.trainable=codebook: the {name} estimator passes the decoder's gradient to the encoder, which "
                "is frozen; take estimator=codeword, or a loss without an adversary"
            )


def leave_decoder(tokenizer: "Tokenizer") -> None:
    """Freezes all of a tokenizer before its decoder, in place, so that images keep their codes.

    A head in evaluation mode returns no statistics, so its moving averages stand still as well.
    """
    for part in (tokenizer.encoder, tokenizer.to_latent, tokenizer.quantizer):
        part.requires_grad_(False).eval()


def decoder_teaches(head: Quantizer) -> bool:
    """True if a gradient at a head's latent reaches the head's parameters."""
    parameters = list(head.parameters())
    with torch.random.fork_rng(devices=[]):
        z = torch.zeros(1, head.input_dim or head.dim, *head.example_grid)
        latent = head(z.to(parameters[0].device)).latent
    if not latent.requires_grad:
        return False
    gradients = torch.autograd.grad(latent.sum(), parameters, allow_unused=True)
    return any(gradient is not None for gradient in gradients)
