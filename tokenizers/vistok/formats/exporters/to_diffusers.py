"""Export to diffusers' ``VQModel``: a folder that ``VQModel.from_pretrained`` loads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from einops import rearrange
from torch import Tensor

from vistok.files import atomic_folder
from vistok.formats import model_card, plain
from vistok.formats.exporters.parity import Encoded, Parity, check, sizes_of
from vistok.formats.importers import from_diffusers as layout
from vistok.formats.importers.key_map import to_theirs
from vistok.tokenizer import Tokenizer

TARGET = "diffusers' VQModel"
USAGE = """
from diffusers import VQModel

model = VQModel.from_pretrained("FOLDER").eval()
latents = model.encode(images).latents  # before quantization, (b, d, h, w)
codes = model.quantize(latents)[2][2].view(len(latents), *latents.shape[2:])  # (b, h, w)
b, h, w = codes.shape
images = model.decode(codes.flatten(), force_not_quantize=True, shape=(b, h, w, latents.shape[1])).sample
"""


def save(
    tokenizer: Tokenizer, folder: str | Path, about: Mapping[str, Any] | None = None, image_size: int | None = None
) -> Parity:
    """Writes a tokenizer for diffusers, checks it there, then renames its folder.

    The head is folded, so that VQModel's distances to the table select the same codes, except for near ties in float32,
    since it computes distances differently. VQModel searches the table of a cosine head by L2, which gives latents near
    zero other codes; the result of the check states their number.

    Args:
        tokenizer: VQGAN's networks with any head that folds into one table.
        folder: Path of the folder, which must not exist.
        about: Facts for the model card.
        image_size: Side in pixels of the training images, for ``sample_size``; diffusers accepts any size.

    Raises:
        ValueError: VQModel cannot represent this tokenizer; the message names a target that can.
        ParityError: The written model differs from the tokenizer.
    """
    try:
        from diffusers.models.autoencoders.vq_model import VQModel
    except ImportError as error:
        raise ImportError(f"{TARGET} needs diffusers: pip install 'vistok[export]'") from error

    folded = plain.vqgan(tokenizer, TARGET)
    config = config_of(folded, image_size)
    model = VQModel(**config).eval()
    model.load_state_dict(to_theirs(layout.RULES, plain.state_of(folded)))
    with atomic_folder(folder) as partial:
        model.save_pretrained(partial)
        model = VQModel.from_pretrained(partial, low_cpu_mem_usage=False, local_files_only=True).eval()

        def encode(images: Tensor) -> Encoded:
            latent = model.encode(images).latents
            b, _, h, w = latent.shape
            return Encoded(rearrange(model.quantize(latent)[2][2], "(b h w) -> b 1 h w", b=b, h=h, w=w), latent)

        def decode(codes: Tensor, size: tuple[int, int]) -> Tensor:
            shape = (len(codes), *codes.shape[2:], folded.quantizer.dim)
            return model.decode(codes.flatten(), force_not_quantize=True, shape=shape).sample  # pyright: ignore[reportAttributeAccessIssue] no tensor

        parity = check(plain.by_l2(folded), encode, decode, sizes_of(folded), original=folded)
        model_card.write(partial, folded, about, USAGE, "diffusers", str(parity))
    return parity


def config_of(tokenizer: Tokenizer, image_size: int | None = None) -> dict[str, Any]:
    """Arguments of ``VQModel`` for this tokenizer's networks."""
    (encoder, decoder), head = plain.networks(tokenizer), tokenizer.quantizer
    wide = encoder.sizes.widths
    plain.refuse_two_tables(tokenizer, TARGET)
    if wide[0] != encoder.sizes.channels:
        raise plain.refuse(TARGET, f"multipliers={encoder.sizes.multipliers}, only for those that begin with 1")
    if decoder.sizes.widths != wide:
        raise plain.refuse(TARGET, f"levels of {wide} channels in the encoder, {decoder.sizes.widths} in the decoder")
    levels = range(len(wide))
    down = ["AttnDownEncoderBlock2D" if i in encoder.sizes.attention else "DownEncoderBlock2D" for i in levels]
    up = ["AttnUpDecoderBlock2D" if i in decoder.sizes.attention else "UpDecoderBlock2D" for i in reversed(levels)]
    return {
        "in_channels": encoder.in_channels,
        "out_channels": decoder.out_channels,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": wide,
        "layers_per_block": encoder.sizes.num_blocks,
        "latent_channels": encoder.dim,
        "sample_size": image_size or 256,
        "num_vq_embeddings": head.codebook_sizes[0],
        "norm_num_groups": plain.norm_groups(tokenizer, TARGET),
        "vq_embed_dim": head.dim,
        "scaling_factor": 1.0,
        "mid_block_add_attention": encoder.sizes.mid_attention,
        "lookup_from_codebook": True,  # so that decode takes codes
    }
