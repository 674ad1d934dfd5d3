"""Checkpoints of other models that are given as tokenizers by mistake, recognised by the names of their tensors."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vistok.untrusted.bounded_json import one_line
from vistok.untrusted.safe_pickle import Stub

OPTIMIZER = re.compile(
    r"(.*\.)?(step|exp_avg(_sq)?|momentum_buffer|max_exp_avg_sq|fp32_flat_groups|single_partition_of_fp32_groups)(\..*)?"
)
LORA = re.compile(r".*(\.lora_(A|B|down|up|embedding_A)\b|lora_unet_|\.hada_w1|\.lokr_w).*")
TABLES = re.compile(r".*(quanti[sz]e|codebook|vq_layer|embedding\.weight).*", re.IGNORECASE)
GENERATOR = re.compile(
    r"(.*\.)?(tok_emb\w*|word_embed|transformer\.h\.0|layers\.0\.attention|cls_embedding|blocks\.0)\b.*"
)
DIFFUSION = re.compile(r"(.*\.)?(diffusion_model|time_embed(ding)?|x_embedder|t_embedder)\..*")
OUR_ENCODER = "encoder.levels.0.blocks.0.norm1.weight"
CONTINUOUS = "it is a continuous autoencoder (KL): it has no codebook, so its images have no codes; take a VQ model"


def other_model(tensors: Mapping[str, Tensor]) -> str | None:
    """Description of a checkpoint without a known tokenizer, and what to do; None if nothing is known of it.

    Args:
        tensors: Its tensors by name.
    """
    names = list(tensors)
    if any(map(LORA.fullmatch, names)):
        return "it is a LoRA, small changes of another model: merge it into that model's weights, and give these"
    if all(map(OPTIMIZER.fullmatch, names)):
        return (
            "it has only an optimizer's state, no weights: they are in another file of the same run (DeepSpeed: "
            "*model_states.pt)"
        )
    if any(name.endswith(OUR_ENCODER) for name in names):
        return "it is vistok's own: load the exported folder; train.py init= reads slim.safetensors"
    coded = any(map(TABLES.fullmatch, names))
    latent = next((name for name in names if re.fullmatch(r"(.*\.)?encoder\.conv_out\.weight", name)), None)
    decoder = next((name for name in names if re.fullmatch(r"(.*\.)?decoder\.conv_in\.weight", name)), None)
    if coded and latent is not None and decoder is None and not any("decoder" in name for name in names):
        return "it has no decoder (as Chameleon's for transformers); take the original file"
    if coded and latent is None and decoder is not None:
        return "it has a decoder and no encoder; take the original file"
    if not coded and latent is not None and decoder is not None and _doubled(tensors, latent, decoder):
        return CONTINUOUS
    if latent is None and decoder is None:
        if any(map(DIFFUSION.fullmatch, names)):
            return "it is a diffusion model without its tokenizer: give the file of the tokenizer"
        if any(map(GENERATOR.fullmatch, names)):
            return "it is a generator of codes (a transformer) without its tokenizer: give the file of the tokenizer"
    return None


def without_tensors(tree: Any) -> str | None:
    """Description of a checkpoint without tensors by name, and what to do; None if nothing is known of it."""
    if isinstance(tree, Stub):
        return (
            f"it holds a whole object of {one_line(tree.name, 80)}, which only its own code can make: where you trust "
            "it, load it with that code and save its state_dict()"
        )
    if isinstance(tree, Mapping):
        complete = [key for key, value in tree.items() if isinstance(value, Stub)]
        if complete:
            stub = tree[complete[0]]
            return (
                f"its {one_line(complete[0], 80)} is a whole object of {one_line(stub.name, 80)}: load it, "
                "if you trust it, with its own code and save its state_dict()"
            )
    return None


def _doubled(tensors: Mapping[str, Tensor], latent: str, decoder: str) -> bool:
    """True if the encoder's maps have twice the channels that the decoder takes: means and variances."""
    conv = latent.removesuffix("encoder.conv_out.weight") + "quant_conv.weight"
    before = tensors[conv if conv in tensors else latent]
    after = tensors.get(latent.removesuffix("encoder.conv_out.weight") + "post_quant_conv.weight", tensors[decoder])
    return before.ndim == after.ndim == 4 and before.shape[0] == 2 * after.shape[1]
