"""A tokenizer in a published layout, and the files in which the layout's authors read it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vistok.formats import plain
from vistok.formats.importers.key_map import Rule
from vistok.tokenizer import Tokenizer

RESOLUTION = 256  # of configurations that name levels by their resolution; the networks accept images of any size


class Published(NamedTuple):
    """A tokenizer in the form that a layout has."""

    tokenizer: Tokenizer  # copy for inference: folded, with convolutions where the layout has them
    config: Mapping[str, Any]  # the authors' settings, with which ``vistok.load`` reads the file too
    extra: Mapping[str, Tensor] = {}  # tensors of the layout that ours does not hold, by their published names
    rules: Sequence[Rule] = ()  # table of names, where it is not the family's


class Container(NamedTuple):
    """Files in which the authors' code reads a family."""

    file: str  # name of the file of weights; safetensors where it ends so, else torch's
    within: str | None  # key of the tensors in a torch file; None if they are its whole content
    settings: Callable[[Mapping[str, Any]], Mapping[str, Any]]  # configuration files by name: .yaml or .json
    usage: str  # Python code that loads the files with the authors' code; FOLDER stands for the folder
    prefix: str = ""  # of all names


def averages(theirs: Mapping[str, Tensor], frozen: Collection[str] = ()) -> dict[str, Tensor]:
    """Averaged weights as ``LitEma`` stores them: ``model_ema`` and the names without dots; here equal to the weights.

    Args:
        theirs: The weights by their published names.
        frozen: Names without an average.
    """
    own = {f"model_ema.{name.replace('.', '')}": tensor for name, tensor in theirs.items() if name not in frozen}
    return {**own, "model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(-1, dtype=torch.int32)}


def ddconfig(tokenizer: Tokenizer, target: str) -> dict[str, Any]:
    """Arguments of VQGAN's ``Encoder`` and ``Decoder`` in taming-transformers and its descendants.

    Levels with attention are named by their resolution in images of 256 pixels.

    Args:
        tokenizer: VQGAN's networks, from ``plain.vqgan``.
        target: Name of the layout, for messages.

    Raises:
        ValueError: The layout has the same arguments for both networks, and these differ.
    """
    (encoder, decoder), sizes = plain.networks(tokenizer), plain.networks(tokenizer)[0].sizes
    plain.same_levels(tokenizer, target)
    plain.norms_of_32(tokenizer, target)
    resolution = max(RESOLUTION, encoder.factor)
    config = {
        "double_z": False,
        "z_channels": encoder.dim,
        "resolution": resolution,
        "in_channels": encoder.in_channels,
        "out_ch": decoder.out_channels,
        "ch": sizes.channels,
        "ch_mult": list(sizes.multipliers),
        "num_res_blocks": sizes.num_blocks,
        "attn_resolutions": [resolution >> level for level in sorted(sizes.attention)],
        "dropout": 0.0,
    }
    if not sizes.mid_attention:
        if sizes.attention:
            raise plain.refuse(target, "attention in levels but not between the middle blocks")
        config["attn_type"] = "none"
    return config


def attending(tokenizer: Tokenizer, target: str) -> dict[str, Any]:
    """The same for layouts whose networks always have attention between the middle blocks."""
    config = ddconfig(tokenizer, target)
    if "attn_type" in config:
        raise plain.refuse(target, "mid_attention=False")
    return config
