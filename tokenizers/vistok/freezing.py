"""Training codebooks alone, around networks that nothing changes (arXiv:2307.08265, section 3.2)."""

from typing import TYPE_CHECKING

from vistok.quantizers import RotationTrick, StraightThrough
from vistok.quantizers.base import single_heads

if TYPE_CHECKING:
    from vistok.losses import Adversary
    from vistok.tokenizer import Tokenizer


def leave_codebooks(tokenizer: "Tokenizer", adversary: "Adversary | None" = None) -> None:
    """Freeze all of a tokenizer but the heads' codebooks, in place.

    Parameters without gradients get into no optimizer, so neither weight decay nor moments move them; networks in
    evaluation mode update no statistics of batches and drop nothing out. Lightning keeps the mode of each module.

    Args:
        tokenizer: The tokenizer.
        adversary: Of the training, if any.

    Raises:
        ValueError: No codebook is learned by gradient, or the discriminator's gradient would reach none.
    """
    heads = single_heads(tokenizer.quantizer)
    tokenizer.requires_grad_(False).eval()
    for head in heads:
        head.requires_grad_(True).train()
        if not any(True for _ in head.parameters()):
            raise ValueError(
                f"trainable=codebook: this {type(head).__name__} has no codebook that is learned by gradient; take "
                "quantizer=vq"
            )
        estimator = getattr(head, "estimator", StraightThrough())
        if adversary is not None and isinstance(estimator, StraightThrough | RotationTrick):
            raise ValueError(
                f"trainable=codebook: the {type(estimator).__name__} estimator hands the decoder's gradient to the "
                "encoder, which is frozen; take estimator=codeword, or a loss without an adversary"
            )
