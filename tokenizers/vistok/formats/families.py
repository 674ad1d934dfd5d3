"""Families of published checkpoints, and the prefixes that wrappers and larger models put before their names.

A family is detected by names that no other family has (``FAMILIES``, first match), never by a file's name.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from vistok.formats.importers import (
    from_bsqvit,
    from_diffusers,
    from_dqvae,
    from_enhancing,
    from_fqgan,
    from_janus,
    from_llamagen,
    from_simvq,
    from_taming,
)
from vistok.formats.importers.key_map import Rule
from vistok.tokenizer import Tokenizer
from vistok.untrusted.bounded_json import one_line, short

AVERAGED = ("ema", "ema_state_dict", "state_dict_ema")  # keys of averaged weights in a torch file
PLAIN = ("model", "state_dict")
EVERYWHERE = ("module.", "_orig_mod.")  # prefixes that wrappers add to every name
WITHIN = {  # prefix of the tokenizer in a larger model, and prefixes of the parts that are not read
    "model.vqmodel.": ("model.", "lm_head."),
    "gen_vision_model.": ("language_model.", "vision_model.", "aligner.", "gen_"),
}


class Family(NamedTuple):
    """Published layout of checkpoints."""

    name: str
    has: tuple[str, ...]  # names that every file of the family has
    rules: tuple[Rule, ...] = ()
    build: Callable[..., Tokenizer] | None = None  # None if the family is detected but its head is not supported
    ignored: tuple[str, ...] = ()  # patterns of names that are not read, besides LOSSES
    also: tuple[str, ...] = ()  # other names for ``family=``


FIRST_BLOCK = "encoder.down.0.block.0.norm1.weight"
TABLE = "quantize.embedding.weight"
FVQ = ("fvq_vit", "fvq_dit", "fvq_vit_converted", "fvq_dit_converted")
FAMILIES = (
    Family("bsqvit", ("quant_embed.weight", "encoder.positional_embedding"), from_bsqvit.RULES, from_bsqvit.build,
           from_bsqvit.IGNORED),
    Family("titok", ("encoder.latent_token_positional_embedding",)),
    Family("var", ("quantize.quant_resi.qresi_ls.0.weight",), also=("var_vqvae",)),
    Family("rqvae", ("quantizer.codebooks.0.weight",)),
    Family("openmagvit2", ("decoder.adaptive.0.gamma.weight",), also=("openmagvit2_lfq",)),
    Family("maskgit", ("decoder.up.1.upsample_conv.weight",), also=("maskgit_vqgan",)),
    Family("gumbel", ("quantize.proj.weight", "quantize.embed.weight")),
    Family("fqgan_triple", ("quantize_sem_mid.embedding.weight",), from_fqgan.TRIPLE, from_fqgan.build,
           from_fqgan.IGNORED),
    Family("fqgan_dual", ("quantize_sem.embedding.weight",), from_fqgan.DUAL, from_fqgan.build, from_fqgan.IGNORED),
    Family("fvq", ("quantize.qbridge.x_embedder.proj.weight",), (*from_llamagen.RULES, *from_llamagen.BRIDGE),
           from_llamagen.build_fvq, from_llamagen.IGNORED, FVQ),
    Family("simvq", ("quantize.embedding_proj.weight", "encoder.mid_block.0.norm1.weight"), from_simvq.RULES,
           from_simvq.build),
    Family("dqvae_triple", ("quantize.codebook.weight", "encoder.conv_out_median.weight"), from_dqvae.TRIPLE,
           from_dqvae.build, also=("dqvae_triple_feat", "dqvae_triple_entropy")),
    Family("dqvae_dual", ("quantize.codebook.weight", "encoder.conv_out_coarse.weight"), from_dqvae.DUAL,
           from_dqvae.build, also=("dqvae_dual_feat", "dqvae_dual_entropy")),
    Family("enhancing", ("encoder.en_pos_embedding",), from_enhancing.RULES, from_enhancing.build,
           also=("enhancing_vitvqgan",)),
    Family("diffusers", ("encoder.down_blocks.0.resnets.0.norm1.weight", TABLE), from_diffusers.RULES,
           from_diffusers.build, also=("diffusers_vqmodel",)),
    Family("llamagen", ("encoder.conv_blocks.0.res.0.norm1.weight", TABLE), from_llamagen.RULES, from_llamagen.build,
           from_llamagen.IGNORED, ("llamagen_vq",)),
    Family("janus", (FIRST_BLOCK, TABLE, "decoder.up.0.upsample.conv.weight"), from_janus.RULES, from_janus.build,
           also=("janus_vqvae",)),
    Family("taming", (FIRST_BLOCK, TABLE, "decoder.conv_in.weight"), from_taming.RULES, from_taming.build,
           also=("taming_vqgan", "ldm_vq")),
    Family("ibq", (FIRST_BLOCK, TABLE, "decoder.conv_in.weight")),  # taming's names
)  # fmt: skip


def family_of(tensors: Mapping[str, Any]) -> str | None:
    """Family of a checkpoint by its names and the shape of its codebook, supported or not; None if unknown.

    Args:
        tensors: Tensors by name as in the file, or the whole content of the file.
    """
    try:
        tensors = averaged(state_of(tensors, "ema"), "ema")
    except ValueError:
        return None
    found = next((known for known in FAMILIES if all(name in tensors for name in known.has)), None)
    if found is None:
        return None
    table = tensors.get(TABLE)
    dim = table.shape[1] if isinstance(table, Tensor) and table.ndim == 2 else None
    if found.name == "llamagen" and dim in (256, 512):
        return "fvq"
    if found.name == "taming" and dim == 256 and "encoder.down.0.block.3.norm1.weight" in tensors:
        return "ibq"  # published with 4 blocks in each level, VQGAN with 2
    return found.name


def choose(tensors: Mapping[str, Any], family: str | None) -> Family:
    """Family as which a file is read.

    Raises:
        ValueError: ``family`` is unknown or contradicts the names, or the names belong to no family.
    """
    guess = family_of(tensors)
    if family is not None:
        named = next((known for known in FAMILIES if family in (known.name, *known.also)), None)
        if named is None:
            raise ValueError(f"family={family!r} is not known: {', '.join(known.name for known in FAMILIES)} are")
        same_names = {"fvq": ("llamagen",), "llamagen": ("fvq",), "taming": ("ibq",), "ibq": ("taming",)}
        if guess != named.name and guess not in same_names.get(named.name, ()):
            raise ValueError(f"family={family!r}, but its names are those of {guess or 'no known family'}")
        return named
    if guess is None:
        if FIRST_BLOCK in tensors and TABLE in tensors:
            raise ValueError("it has no decoder (as Chameleon's for transformers); take the original file")
        if "encoder.levels.0.blocks.0.norm1.weight" in tensors:
            raise ValueError("it is vistok's own: load the exported folder; train.py init= reads slim.safetensors")
        names = one_line(", ".join(sorted(name[:100] for name in tensors)[:4]))
        raise ValueError(f"its names ({names}, ...) are of no known family")
    return next(known for known in FAMILIES if known.name == guess)


def state_of(tree: Any, weights: str) -> dict[str, Any]:
    """State dict of a checkpoint, without the prefixes of wrappers and larger models.

    Raises:
        ValueError: The file has no state dict or lacks the requested weights, or a name belongs to no known part.
    """
    if not isinstance(tree, Mapping):
        raise ValueError(f"it holds a {type(tree).__name__}, not tensors by name")
    inner = [name for name in (*AVERAGED, *PLAIN) if isinstance(tree.get(name), Mapping)]
    if inner:
        wanted = [name for name in inner if name in PLAIN] if weights == "raw" else inner
        if not wanted:
            raise ValueError(f"weights='raw', but it has only {', '.join(inner)}")
        tree = tree[wanted[0]]
    if not any(isinstance(value, Tensor) for value in tree.values()):
        raise ValueError(f"it has no tensors under {', '.join(map(short, [*tree][:5])) or 'any name'}")
    state = {str(name): value for name, value in tree.items()}
    for prefix in EVERYWHERE * 2:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    for prefix, others in WITHIN.items():
        if any(name.startswith(prefix) for name in state):
            unknown = [name for name in state if not name.startswith((prefix, *others))]
            if unknown:
                raise ValueError(f"{one_line(unknown[0], 80)} is not part of a model with {prefix}*")
            state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return state


def averaged(state: dict[str, Any], weights: str) -> dict[str, Any]:
    """State dict in which ``model_ema.*`` replaces the averaged tensors, or is dropped.

    The averages have the names of the raw tensors without dots; frozen tensors (SimVQ's basis) have no average.

    Raises:
        ValueError: An average belongs to no tensor, or has another shape.
    """
    averages = {name: value for name, value in state.items() if name.startswith("model_ema.")}
    state = {name: value for name, value in state.items() if name not in averages}
    if not averages or weights == "raw":
        return state
    full = {f"model_ema.{name.replace('.', '')}": name for name in state}
    for name, value in averages.items():
        if name in ("model_ema.decay", "model_ema.num_updates") or name.startswith("model_ema.loss"):
            continue
        if name not in full or getattr(value, "shape", None) != getattr(state[full[name]], "shape", None):
            raise ValueError(f"{one_line(name, 80)} is the average of no tensor of it")
        state[full[name]] = value
    return state
