"""Export to transformers' ``JanusVQVAE``, its port of LlamaGen's VQ model: a folder that ``from_pretrained`` loads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from vistok.files import atomic_folder
from vistok.formats import model_card, plain
from vistok.formats.exporters.parity import Encoded, Parity, check
from vistok.formats.importers import from_janus as layout
from vistok.formats.importers.key_map import to_theirs
from vistok.tokenizer import Tokenizer

TARGET = "transformers' JanusVQVAE"
IMAGE_SIZE = 256
USAGE = """
from transformers import JanusVQVAE

model = JanusVQVAE.from_pretrained("FOLDER").eval()
codes = model.encode(images).image_tokens.view(len(images), -1)  # (b, h * w)
images = model.decode(codes)  # of the one size that config.num_patches says
"""


def save(
    tokenizer: Tokenizer, folder: str | Path, about: Mapping[str, Any] | None = None, image_size: int | None = None
) -> Parity:
    """Writes a tokenizer for transformers, checks it there, then renames its folder.

    JanusVQVAE decodes codewords at unit length but selects codes by the distance to the unnormalised table. Both agree
    only for a table of unit codewords, that of a cosine head. JanusVQVAE searches it by L2, which gives latents near
    zero other codes; the result of the check states their number.

    Args:
        tokenizer: LlamaGen's networks with a cosine head, or a tokenizer imported from Janus.
        folder: Path of the folder, which must not exist.
        about: Facts for the model card.
        image_size: Side in pixels of the square images that it decodes; None for 256.

    Raises:
        ValueError: JanusVQVAE cannot represent this tokenizer; the message names a target that can.
        ParityError: The written model differs from the tokenizer.
    """
    try:
        from transformers import JanusVQVAE, JanusVQVAEConfig
    except ImportError as error:
        raise ImportError(f"{TARGET} needs transformers: pip install 'vistok[export]'") from error

    image_size = image_size or IMAGE_SIZE
    folded = plain.vqgan(tokenizer, TARGET)
    model = JanusVQVAE(JanusVQVAEConfig(**config_of(folded, image_size))).eval()
    model.load_state_dict(to_theirs(layout.RULES, plain.state_of(folded)))
    with atomic_folder(folder) as partial:
        model.save_pretrained(partial)
        model = JanusVQVAE.from_pretrained(partial, local_files_only=True).eval()

        def encode(images: Tensor) -> Encoded:
            encoded = model.encode(cast(Any, images), return_dict=True)
            latent = model.quant_conv(encoded.last_hidden_state)
            b, _, h, w = latent.shape
            codes = cast(Tensor, encoded.image_tokens).flatten()
            return Encoded(rearrange(codes, "(b h w) -> b 1 h w", b=b, h=h, w=w), latent)

        def decode(codes: Tensor, size: tuple[int, int]) -> Tensor:
            return model.decode(cast(Any, rearrange(codes, "b 1 h w -> b (h w)")))

        parity = check(plain.by_l2(folded), encode, decode, [(image_size, image_size)], original=folded)
        model_card.write(partial, folded, about, USAGE, "transformers", str(parity))
    return parity


def config_of(tokenizer: Tokenizer, image_size: int) -> dict[str, Any]:
    """Arguments of ``JanusVQVAEConfig`` for this tokenizer's networks."""
    (encoder, decoder), head = plain.networks(tokenizer), tokenizer.quantizer
    plain.check_llamagen(tokenizer, TARGET)
    table = plain.table_of(tokenizer)
    if not torch.equal(table.search, table.values):
        if not torch.allclose(table.values, F.normalize(table.search), rtol=0, atol=1e-5):
            plain.refuse_two_tables(tokenizer, TARGET)
    elif not plain.codewords_are_unit(tokenizer):
        raise plain.refuse(TARGET, "codewords of other than unit length: it would decode them at unit length")
    wide = encoder.sizes.widths
    if decoder.sizes.widths != wide:
        raise plain.refuse(TARGET, f"levels of {wide} channels in the encoder, {decoder.sizes.widths} in the decoder")
    side, _ = tokenizer.grid(image_size, image_size, f"image_size={image_size}")
    return {
        "embed_dim": head.dim,
        "num_embeddings": head.codebook_sizes[0],
        "double_latent": False,
        "latent_channels": encoder.dim,
        "num_patches": side,
        "in_channels": encoder.in_channels,
        "out_channels": decoder.out_channels,
        "base_channels": encoder.sizes.channels,
        "channel_multiplier": list(encoder.sizes.multipliers),
        "num_res_blocks": encoder.sizes.num_blocks,
    }
