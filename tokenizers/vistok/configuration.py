"""Checks that a config's values are of the kind that they are given to, before anything is built or torch is imported.

The annotations say it: of the constructors and functions that ``_target_`` names, and of the keys that are read here.
"""

import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, ListConfig, OmegaConf

from vistok.signatures import Signature, signature_of

if TYPE_CHECKING:
    from vistok.tokenizer import Tokenizer

CONFIGS = Path(__file__).parent / "configs"
KIND_OF = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
SCALAR = (bool, int, float, str)
OURS = {"loss_weights": dict[str, float]}  # of a head's or a loss's node, at any depth: no argument of what is built
# Former names of keys, by command, and the present ones.
_IN_BOTH = {
    "take_over": "run.take_over",
    "seed": "run.seed",
    "image_size": "data.image_size",
    "batch_size": "data.batch_size",
    "family": "model.family",
    "family_config": "model.family_config",
}
RENAMED: dict[str, dict[str, str]] = {
    "train": {
        **_IN_BOTH,
        "name": "run.name",
        "run_dir": "run.dir",
        "ckpt": "run.resume",
        "estimate": "run.gpu_memory",
        "debug": "run.debug",
        "weights": "run.frozen_weights",
        "augmentation": "data",
        "latent_dim": "model.latent_dim",
        "codebook_size": "model.codebook_size",
        "init": "model.init",
        "trainable": "model.trainable",
        "updates": "optim.updates",
        "accumulate": "optim.accumulate",
        "clip": "optim.clip",
        "ema_decay": "optim.ema_decay",
        "adversarial_start": "optim.adversarial_start",
        "on_collapse": "optim.on_collapse",
        "log_every": "log.every",
        "val_every": "log.val_every",
        "save_every": "log.save_every",
        "keep_checkpoints": "log.keep_checkpoints",
        "reference": "log.loss_band",
        "loss.weights": "loss.loss_weights",
    },
    "eval": {
        **_IN_BOTH,
        "output": "run.out",
        "device": "run.device",
        "partial_every": "run.partial_every",
        "rate": "model.rate",
        "dinov2": "metrics.dinov2",
        "lpips": "metrics.lpips",
        "reference": "metrics.reference",
        "save_reference": "metrics.save_reference",
        "network": "feature_network",
    },
}
# Former choices of a group, and the present ones.
FORMER_CHOICES: dict[str, dict[str, str]] = {
    "protocol": {
        "seed": "protocol=openmagvit2 (SEED-Voken's evaluator with the configs of Open-MAGVIT2 and of pretrained IBQ) "
        "or protocol=ibq (the same with IBQ's ImageNet configs)",
    },
}


def composed(name: str, *overrides: str) -> DictConfig:
    """Config as ``train.py`` (``train``) or ``eval.py`` (``eval``) composes it from the arguments of a command line."""
    import hydra

    with hydra.initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        return hydra.compose(name, overrides=list(overrides))


def renamed(command: str, key: str) -> str | None:
    """The present name of a key that has been renamed, or is in a node that has; None for all others."""
    parts = key.split(".")
    for n in range(len(parts), 0, -1):
        if present := RENAMED[command].get(".".join(parts[:n])):
            return ".".join([present, *parts[n:]])
    return None


def misspelt(key: str, known: Iterable[str], likeness: float = 0.7) -> list[str]:
    """The known key of the same node whose name is the most like a misspelt one's; none where none is alike."""
    node, _, name = key.rpartition(".")
    names = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == node}
    return [names[close] for close in get_close_matches(name, names, 1, likeness)]


def similar(key: str, known: Iterable[str]) -> list[str]:
    """Up to three known keys that a misspelt one may stand for: in the same node, else of the same or a like name."""
    known = list(known)
    name = key.rpartition(".")[2]
    found = misspelt(key, known)
    found = found or [other for other in known if other.rpartition(".")[2] == name]
    known = [other for other in known if other.count(".") == key.count(".")]
    return (found or get_close_matches(key, known, 1, 0.85))[:3]


def no_such_key(key: str, known: Iterable[str]) -> str:
    """The message for a key that there is not, with the keys that may be meant."""
    known = list(known)
    node = key.rpartition(".")[0]
    there = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == node]
    if found := similar(key, known):
        return f"there is no key {key}: did you mean {' or '.join(found)}?"
    return f"there is no key {key}; " + (
        f"{node} has {', '.join(there)}" if node and there else "--help lists all keys"
    )


def check_keys(config: DictConfig, keys: Iterable[str], command: str) -> None:
    """Refuse keys that nothing reads, as a YAML of one's own or ``+key=value`` may bring them. Needs no torch.

    Args:
        config: The composed config.
        keys: The dotted names of those that are read by name.
        command: ``train`` or ``eval``.

    Raises:
        ValueError: The message has the key's present name, or the one that may be meant.
    """
    for key, present in RENAMED[command].items():
        path, _, name = key.rpartition(".")
        node = OmegaConf.select(config, path) if path else config
        if isinstance(node, DictConfig) and name in list(node):
            raise ValueError(f"{key} is now {present}")
    for path in dict.fromkeys(key.partition(".")[0] for key in keys if "." in key):
        for name in config[path] if path != "data" else ():  # whose own arguments are checked where it is built
            if f"{path}.{name}" not in keys:
                raise ValueError(no_such_key(f"{path}.{name}", keys))


def check(config: DictConfig, keys: Mapping[str, Any], given_to: Mapping[str, str]) -> None:
    """Refuse values of another kind, and arguments that there are not.

    Args:
        config: The composed config.
        keys: Annotations of the keys that are read by name, by their dotted names.
        given_to: What nodes without a ``_target_`` are given to as keyword arguments, by the nodes' names.

    Raises:
        ValueError: The message names the key that the user can set.
    """
    for key, hint in keys.items():
        path, _, name = key.rpartition(".")
        node = OmegaConf.select(config, path) if path else config
        if name in node:
            _check(node, path, name, hint)
    for path, node in nodes(config):
        target = node.get("_target_") or given_to.get(path)  # of the latter, others read the rest
        signature = signature_of(target) if isinstance(target, str) else None
        for name, hint in {**(signature.hints if signature else {}), **OURS}.items():
            if name in node:
                _check(node, path, name, hint)
        if signature and signature.closed and "_target_" in node:
            _refuse_unknown(node, path, signature, target)


def _refuse_unknown(node: DictConfig, path: str, signature: Signature, target: str) -> None:
    for name in map(str, node):
        if name not in signature.hints and name not in OURS and not re.fullmatch("_.*_", name):
            meant = get_close_matches(name, signature.hints, n=1)
            instead = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(signature.hints)}"
            raise ValueError(f"{path}.{name}: {target} has no such argument; {instead}")


def nodes(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every mapping in a config with its dotted name: where it is an interpolation, the name of what it stands for."""
    if isinstance(node, DictConfig):
        if path:
            yield path, node
        for name in node:
            if name != "hydra" and not OmegaConf.is_missing(node, name):
                yield from nodes(node[name], source(node, path, str(name)))
    elif isinstance(node, ListConfig):
        for i, member in enumerate(node):
            yield from nodes(member, f"{path}.{i}")


def source(node: DictConfig, path: str, name: str) -> str:
    """The dotted name of the key that a value comes from: ``data.image_size`` where it is ``${data.image_size}``."""
    value = node._get_node(name)
    text = value._value() if value is not None else None
    found = re.fullmatch(r"\$\{(\w[\w.]*)\}", text) if isinstance(text, str) else None
    if found is None:
        return f"{path}.{name}" if path else name
    parent, _, last = found[1].rpartition(".")
    above = OmegaConf.select(node._get_root(), parent) if parent else node._get_root()
    return source(above, parent, last) if isinstance(above, DictConfig) and last in above else found[1]


def _check(node: DictConfig, path: str, name: str, hint: Any) -> None:
    if OmegaConf.is_missing(node, name) or fits(node[name], hint):
        return
    value, key = node[name], source(node, path, name)
    if isinstance(value, DictConfig) and isinstance(get_origin(hint), type) and issubclass(get_origin(hint), Mapping):
        for own in value:
            _check(value, key, str(own), get_args(hint)[1])
    printed = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    quoted = f", in quotes: '{key}=\"{value}\"'" if isinstance(value, int | float) and fits("", hint) else ""
    raise ValueError(f"{key}={printed} must be {kind_of(hint)}{quoted}")


def fits(value: Any, hint: Any) -> bool:
    """True if a plain value fits an annotation, as far as a plain value shows it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if hint is None or hint is type(None):
        return value is None
    if hint in SCALAR:
        kinds = (int, float) if hint is float else hint
        return isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))
    kind = origin or hint
    if kind in (Any, object) or not isinstance(kind, type):  # the latter: a type variable
        return True
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping | DictConfig) and (
            not inner or all(fits(own, inner[1]) for own in value.values())
        )
    if issubclass(kind, Sequence) or kind in (set, frozenset):
        if not isinstance(value, list | tuple | ListConfig):
            return False
        if kind is tuple and inner and inner[-1] is not Ellipsis:
            return len(value) == len(inner) and all(map(fits, value, inner))
        return not inner or all(fits(own, inner[0]) for own in value)
    return isinstance(value, str) if issubclass(kind, PurePath) else not isinstance(value, SCALAR) and value is not None


def kind_of(hint: Any) -> str:
    """The kind of value that an annotation asks for, for messages."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(kind_of(one) for one in inner))
    if origin is Literal:
        return " or ".join(map(str, inner)) if len(inner) < 3 else f"one of {', '.join(map(str, inner))}"
    if hint is None or hint in KIND_OF:
        return KIND_OF[type(None) if hint is None else hint]
    kind = origin or hint
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "a mapping" + (f" to {kind_of(inner[1])}" if inner else "")
    if isinstance(kind, type) and (issubclass(kind, Sequence) or kind in (set, frozenset)):
        return "a list" + (f", each {kind_of(inner[0])}" if inner else "")
    return "text" if isinstance(kind, type) and issubclass(kind, PurePath) else getattr(kind, "__name__", str(kind))


def check_image_size(image_size: int, tokenizer: "Tokenizer") -> None:
    """Refuse images of a size that the tokenizer does not take."""
    tokenizer.grid(image_size, image_size, f"data.image_size={image_size}")


def check_channels(channels: int, tokenizer: "Tokenizer") -> None:
    """Refuse images of another number of channels than the tokenizer's."""
    takes = getattr(tokenizer.encoder, "in_channels", channels)  # a stranger's encoder may not say it
    gives = tokenizer.pixels.channels(getattr(tokenizer.decoder, "out_channels", channels))
    if (takes, gives) != (channels, channels):
        raise ValueError(
            f"data.channels={channels}, but the encoder takes images of {takes} channels and the decoder gives {gives}"
        )


def instantiate(node: DictConfig) -> Any:
    """Hydra's ``instantiate``, with plain dicts and lists for arguments. For our own YAML only, never for a file.

    What stands under ``loss_weights``, at any depth, is no argument: see the function of that name.
    """
    import hydra.utils

    if OmegaConf.is_config(node):
        parent, key = node._get_parent(), node._key()
        node = OmegaConf.create(_without_weights(OmegaConf.to_container(node, resolve=True)))
        node._set_parent(parent)  # so that a message names the full key
        node._set_key(key)
    return hydra.utils.instantiate(node, _convert_="all")


def _without_weights(node: Any) -> Any:
    """Nested mappings and lists without their ``loss_weights``."""
    if isinstance(node, list):
        return [_without_weights(member) for member in node]
    if not isinstance(node, dict):
        return node
    return {name: _without_weights(value) for name, value in node.items() if name != "loss_weights"}


def loss_weights(quantizer: DictConfig) -> dict[str, float]:
    """The weights of a head's loss terms by name, from the ``loss_weights`` of its YAML and of the heads in it.

    Where several have one for a term, the outer head's counts.

    Raises:
        ValueError: Heads beside each other have different ones, and no outer head decides.
    """
    plain = OmegaConf.to_container(quantizer, resolve=True) if OmegaConf.is_config(quantizer) else quantizer
    return _merged_weights(plain, "quantizer")


def _merged_weights(node: dict[str, Any], path: str) -> dict[str, float]:
    own = node.get("loss_weights") or {}
    lists = [(name, value if isinstance(value, list) else [value]) for name, value in node.items()]
    members = [(name, member) for name, found in lists for member in found if isinstance(member, dict)]
    merged: dict[str, float] = {}
    for name, member in members:
        inner = {} if name == "loss_weights" else _merged_weights(member, f"{path}.{name}")
        for term, weight in inner.items():
            if term not in own and merged.setdefault(term, weight) != weight:
                raise ValueError(
                    f"{path} has heads with loss_weights.{term} of {merged[term]} and {weight}, but the term is the "
                    f"sum of theirs: +{path}.loss_weights.{term}=... decides"
                )
    return merged | own


def refuse_below(config: DictConfig, least: int, names: Sequence[str]) -> None:
    """Raise ``ValueError`` for keys whose numbers are smaller."""
    for name in names:
        value = OmegaConf.select(config, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")


def random_weights(node: Any, path: str = "") -> list[str]:
    """The dotted paths of all that is called ``weights`` in nested mappings and is ``random``."""
    if not isinstance(node, dict | DictConfig):
        return []
    found = []
    for name, value in node.items():
        own = f"{path}.{name}" if path else name
        found += [own] if name == "weights" and value == "random" else random_weights(value, own)
    return found


def refuse_missing(config: DictConfig, also: Iterable[str] = ()) -> None:
    """Raise ``ValueError`` for values that only the command line can give, and for the keys in ``also``."""
    missing = {*OmegaConf.missing_keys(config), *also}
    if missing:
        raise ValueError(f"missing on the command line: {' '.join(f'{key}=...' for key in sorted(missing))}")
