"""Containers of published tensors: dicts of a training run, and the prefixes of wrappers and of larger models."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vistok.untrusted.bounded_json import one_line, short

AVERAGED = ("ema", "ema_state_dict", "state_dict_ema")  # keys of averaged weights in a torch file
PLAIN = ("model", "state_dict")
EVERYWHERE = ("module.", "_orig_mod.")  # prefixes that wrappers add to every name
WITHIN = {  # prefix of the tokenizer in a larger model, and prefixes of the parts that are not read
    "model.vqmodel.": ("model.", "lm_head."),
    "gen_vision_model.": ("language_model.", "vision_model.", "aligner.", "gen_"),
}


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
