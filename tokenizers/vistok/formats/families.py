"""Families of published checkpoints.

A family is detected by names that no other family has (``FAMILIES``, first match), never by a file's name.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from vistok.formats.containers import Unwrapped, prefixes, unwrap
from vistok.formats.importers import (
    from_bsqvit,
    from_diffusers,
    from_dqvae,
    from_enhancing,
    from_fqgan,
    from_gumbel,
    from_ibq,
    from_infinity,
    from_janus,
    from_llamagen,
    from_maskgit,
    from_openmagvit2,
    from_put,
    from_rqvae,
    from_simvq,
    from_taming,
    from_taming_ema,
    from_titok,
    from_var,
    from_wetok,
    write_dqvae,
    write_infinity,
)
from vistok.formats.importers.key_map import Rule
from vistok.formats.importers.published import Container, Published
from vistok.formats.other_models import other_model
from vistok.tokenizer import Tokenizer
from vistok.untrusted.bounded_json import one_line


class Family(NamedTuple):
    """Published layout of checkpoints."""

    name: str
    has: tuple[str, ...]  # names that every file of the family has
    rules: tuple[Rule, ...]
    build: Callable[..., Tokenizer]
    ignored: tuple[str, ...] = ()  # patterns of names that are not read, besides LOSSES
    also: tuple[str, ...] = ()  # other names for ``family=``
    write: Callable[[Tokenizer], Published] | None = None  # the tokenizer in this layout; None if it is not written
    container: Container | None = None  # files that are written
    prepare: Callable[[dict[str, Tensor], Mapping[str, Any]], dict[str, Any]] | None = None  # removes tensors that are
    #   none of ours, or splits them, and returns further arguments of ``build``; also gets the caller's settings


FIRST_BLOCK = "encoder.down.0.block.0.norm1.weight"
TABLE = "quantize.embedding.weight"
FVQ = ("fvq_vit", "fvq_dit", "fvq_vit_converted", "fvq_dit_converted")
BITWISE = ("openmagvit2", "wetok", "bitdance")  # one network, with one code of all bits or with several
FAMILIES = (
    Family("bsqvit", ("quant_embed.weight", "encoder.positional_embedding"), from_bsqvit.RULES, from_bsqvit.build,
           from_bsqvit.IGNORED, write=from_bsqvit.write, container=from_bsqvit.CONTAINER),
    Family("infinity", ("encoder.conv_in.conv.weight", "decoder.norm_out.norm.weight"), from_infinity.RULES,
           from_infinity.build, from_infinity.IGNORED, ("infinity_bsq",), write=write_infinity.write,
           container=write_infinity.CONTAINER),
    Family("titok", ("encoder.latent_token_positional_embedding", "latent_tokens"), from_titok.RULES, from_titok.build,
           from_titok.IGNORED, ("titok_onestage", "tatitok", "one_d_piece", "one_d_piece_stage1"),
           from_titok.write, from_titok.CONTAINER),
    Family("var", ("encoder.mid.attn_1.qkv.weight", TABLE), from_var.RULES, from_var.build, also=("var_vqvae",),
           write=from_var.write, container=from_var.CONTAINER, prepare=from_var.prepare),
    Family("rqvae", ("quantizer.codebooks.0.weight",), from_rqvae.RULES, from_rqvae.build, write=from_rqvae.write,
           container=from_rqvae.CONTAINER, prepare=from_rqvae.prepare),
    Family("openmagvit2", ("decoder.adaptive.0.gamma.weight",), from_openmagvit2.RULES, from_openmagvit2.build,
           from_openmagvit2.IGNORED, ("openmagvit2_lfq",), from_openmagvit2.write, from_openmagvit2.CONTAINER),
    Family("wetok", ("decoder.adaptive.0.gamma.weight",), from_wetok.RULES, from_wetok.build, from_wetok.IGNORED,
           ("wetok_gan",), write=from_wetok.write, container=from_wetok.CONTAINER),  # Open-MAGVIT2's names
    Family("bitdance", ("decoder.adaptive.0.gamma.weight",), from_wetok.RULES, from_wetok.build, from_wetok.IGNORED,
           ("bitdance_ae", "bitdance_ae_gan"), write=from_wetok.write_bitdance,
           container=from_wetok.BITDANCE_CONTAINER),  # the same
    Family("put", ("quantize.embedding", "decoder.encoder.layers.0.weight"), from_put.RULES, from_put.build,
           also=("put_pvqvae", "put_pvqvae_tpami"), prepare=from_put.prepare, write=from_put.write,
           container=from_put.CONTAINER),
    Family("maskgit", ("decoder.up.1.upsample_conv.weight", TABLE), from_maskgit.RULES, from_maskgit.build,
           also=("maskgit_vqgan",), write=from_maskgit.write, container=from_maskgit.CONTAINER),
    Family("gumbel", ("quantize.proj.weight", "quantize.embed.weight"), from_gumbel.RULES, from_gumbel.build,
           also=("taming_gumbel",), write=from_gumbel.write, container=from_gumbel.CONTAINER),
    Family("fqgan_triple", ("quantize_sem_mid.embedding.weight",), from_fqgan.TRIPLE, from_fqgan.build,
           from_fqgan.IGNORED, write=from_fqgan.TRIPLE_WRITTEN, container=from_fqgan.CONTAINER),
    Family("fqgan_dual", ("quantize_sem.embedding.weight",), from_fqgan.DUAL, from_fqgan.build, from_fqgan.IGNORED,
           write=from_fqgan.DUAL_WRITTEN, container=from_fqgan.CONTAINER),
    Family("fvq", ("quantize.qbridge.x_embedder.proj.weight",), (*from_llamagen.RULES, *from_llamagen.BRIDGE),
           from_llamagen.build_fvq, from_llamagen.IGNORED, FVQ,
           write=from_llamagen.write_fvq, container=from_llamagen.CONTAINER),
    Family("simvq", ("quantize.embedding_proj.weight", "encoder.mid_block.0.norm1.weight"), from_simvq.RULES,
           from_simvq.build, write=from_simvq.write, container=from_simvq.CONTAINER),
    Family("dqvae_triple", ("quantize.codebook.weight", "encoder.conv_out_median.weight"), from_dqvae.TRIPLE,
           from_dqvae.build, also=("dqvae_triple_feat", "dqvae_triple_entropy"),
           write=write_dqvae.TRIPLE, container=write_dqvae.CONTAINER),
    Family("dqvae_dual", ("quantize.codebook.weight", "encoder.conv_out_coarse.weight"), from_dqvae.DUAL,
           from_dqvae.build, also=("dqvae_dual_feat", "dqvae_dual_entropy"),
           write=write_dqvae.DUAL, container=write_dqvae.CONTAINER),
    Family("enhancing", ("encoder.en_pos_embedding",), from_enhancing.RULES, from_enhancing.build,
           also=("enhancing_vitvqgan",), prepare=from_enhancing.prepare, write=from_enhancing.write,
           container=from_enhancing.CONTAINER),
    Family("diffusers", ("encoder.down_blocks.0.resnets.0.norm1.weight", TABLE), from_diffusers.RULES,
           from_diffusers.build, also=("diffusers_vqmodel",)),
    Family("llamagen", ("encoder.conv_blocks.0.res.0.norm1.weight", TABLE), from_llamagen.RULES, from_llamagen.build,
           from_llamagen.IGNORED, ("llamagen_vq",)),
    Family("janus", (FIRST_BLOCK, TABLE, "decoder.up.0.upsample.conv.weight"), from_janus.RULES, from_janus.build,
           also=("janus_vqvae",)),
    Family("taming_ema", ("quantize.embedding.cluster_size", FIRST_BLOCK), from_taming_ema.RULES, from_taming_ema.build,
           also=("taming_emavq",), write=from_taming_ema.write, container=from_taming_ema.CONTAINER),
    Family("taming", (FIRST_BLOCK, TABLE, "decoder.conv_in.weight"), from_taming.RULES, from_taming.build,
           also=("taming_vqgan", "ldm_vq"), write=from_taming.write, container=from_taming.CONTAINER),
    Family("ibq", (FIRST_BLOCK, TABLE, "decoder.conv_in.weight"), from_ibq.RULES, from_ibq.build,
           also=("emu3_5", "emu3.5"), write=from_ibq.write, container=from_ibq.CONTAINER),  # taming's names
)  # fmt: skip


def unwrapped(tree: Any, weights: str = "ema", part: str | None = None) -> Unwrapped:
    """The tokenizer of a known family within a checkpoint. Arguments and errors as for ``containers.unwrap``."""
    return unwrap(tree, [known.has for known in FAMILIES], weights, part)


def of_tokenizers(names: Collection[str]) -> set[str]:
    """Names that belong to tokenizers, or are averages; of a larger model the others need not be read."""
    found = tuple(prefixes(names, [known.has for known in FAMILIES]))
    return {name for name in names if name.startswith(found) or "ema" in name[:200].lower()} if found else set()


def family_of(tree: Mapping[str, Any]) -> str | None:
    """Family of a checkpoint by its names and the shape of its codebook, supported or not; None if unknown.

    Args:
        tree: The whole content of the file, or tensors by name.
    """
    try:
        return guessed(unwrapped(tree).tensors)
    except ValueError:
        return None


def guessed(tensors: Mapping[str, Any]) -> str | None:
    """Family of a tokenizer's tensors under their published names; None if unknown."""
    found = next((known for known in FAMILIES if all(name in tensors for name in known.has)), None)
    if found is None:
        return None
    table = tensors.get(TABLE)
    dim = table.shape[1] if isinstance(table, Tensor) and table.ndim == 2 else None
    if found.name == "llamagen" and dim in (256, 512):
        return "fvq"
    if found.name == "taming" and from_ibq.published(tensors):
        return "ibq"
    if found.name == "openmagvit2" and from_wetok.recognised(tensors):
        return "wetok"
    return found.name


def choose(tensors: Mapping[str, Any], family: str | None, config: Mapping[str, Any] = {}) -> Family:
    """Family as which a file is read.

    Args:
        tensors: Tensors by name.
        family: The caller's family; None for that of the names and sizes, and of ``config`` where they leave it open.
        config: The caller's settings. Of the families of bits only WeTok and BitDance have ``num_codebooks``.

    Raises:
        ValueError: ``family`` is unknown or contradicts the names, or the names belong to no family.
    """
    guess = guessed(tensors)
    if family is not None:
        named = next((known for known in FAMILIES if family in (known.name, *known.also)), None)
        if named is None:
            raise ValueError(f"family={family!r} is not known: {', '.join(known.name for known in FAMILIES)} are")
        same_names = {"fvq": ("llamagen",), "llamagen": ("fvq",), "taming": ("ibq",), "ibq": ("taming",)}
        same_names |= dict.fromkeys(BITWISE, BITWISE)
        if guess != named.name and guess not in same_names.get(named.name, ()):
            instead = f": {known}" if guess is None and (known := other_model(tensors)) is not None else ""
            raise ValueError(f"family={family!r}, but its names are those of {guess or 'no known family'}{instead}")
        return named
    if guess is None:
        known = other_model(tensors)
        if known is not None:
            raise ValueError(known)
        names = one_line(", ".join(sorted(name[:100] for name in tensors)[:4]))
        raise ValueError(f"its names ({names}, ...) are of no known family")
    if guess == "openmagvit2" and config.get("num_codebooks") is not None:
        guess = "wetok"
    return next(known for known in FAMILIES if known.name == guess)
