"""Import of published checkpoints: detection of their family, and its names of tensors in terms of ours.

A family is detected by names that no other family has (``FAMILIES``, first match), never by a file's name. The sizes of
tensors determine all other settings; a file whose settings remain unknown is refused.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vistok.formats import native
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
from vistok.formats.importers.hyperparameters import Unknown, get
from vistok.formats.importers.key_map import Rule, to_ours
from vistok.images.ranges import PixelMap
from vistok.pretrained import WeightsUnavailable
from vistok.tokenizer import Tokenizer
from vistok.untrusted.bounded_json import one_line, read_json, short
from vistok.untrusted.bounded_network import Bounded, refuse_shared
from vistok.untrusted.torch_files import read_tensors

KINDS = ("ema", "raw")
AVERAGED = ("ema", "ema_state_dict", "state_dict_ema")  # keys of averaged weights in a torch file
PLAIN = ("model", "state_dict")
EVERYWHERE = ("module.", "_orig_mod.")  # prefixes that wrappers add to every name
WITHIN = {  # prefix of the tokenizer in a larger model, and prefixes of the parts that are not read
    "model.vqmodel.": ("model.", "lm_head."),
    "gen_vision_model.": ("language_model.", "vision_model.", "aligner.", "gen_"),
}
LOSSES = r"loss\..*"
FOLDER_WEIGHTS = ("diffusion_pytorch_model.safetensors", "model.safetensors")
SAMPLE = Path(__file__).parent / "sample"  # the tokenizer in the package
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(/[\w][\w./-]*)?")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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


def load(
    source: str | Path,
    family: str | None = None,
    config: Mapping[str, Any] | None = None,
    weights: str = "ema",
) -> Tokenizer:
    """Loads a tokenizer for inference from a file, a folder or the Hugging Face hub, without executing code from it.

    Heads of published files keep their training parameters (SimVQ's map, VQBridge's bridge), so that they can be
    trained further; ``Tokenizer.fold`` removes these.

    Args:
        source: A folder that ``save`` or a training run wrote, a published checkpoint, a folder of diffusers or
            transformers, ``user/repo`` or ``user/repo/FILE`` on the hub, or ``sample``, which is part of the package.
        family: Family of a published file whose keys do not determine it.
        config: Settings that its keys do not determine, by the names in its authors' configuration; see
            ``docs/import.md``.
        weights: ``ema`` for averaged weights where the file has them, ``raw`` for the weights without averaging.

    Raises:
        FileNotFoundError: ``source`` does not exist.
        WeightsUnavailable: The hub cannot be reached, or has no such file.
        ValueError: The file is unreadable or of no known family, or a setting is missing; the message lists what is
            needed.
    """
    if weights not in KINDS:
        raise ValueError(f"weights must be one of {', '.join(KINDS)}, not {weights!r}")
    path = shipped(source)
    if not path.exists() and HUB_ID.fullmatch(str(source)) and ".." not in str(source):
        path = download(str(source))
    if not path.exists():
        raise FileNotFoundError(f"{source} is not an exported tokenizer: there is no such folder or file")
    if path.is_dir():
        path, folder_config = published_folder(path)
        if folder_config is None:
            return native.load(path)
        config = {**folder_config, **(config or {})}
    return load_file(path, family, config, weights)


def shipped(source: str | Path) -> Path:
    """Path of a source: ``sample`` is the tokenizer in the package, unless a path of this name exists."""
    path = Path(source)
    return SAMPLE if str(source) == SAMPLE.name and not path.exists() else path


def load_file(
    path: str | Path, family: str | None = None, config: Mapping[str, Any] | None = None, weights: str = "ema"
) -> Tokenizer:
    """Loads the tokenizer of a published checkpoint. Arguments as for ``load``."""
    tree = read_tensors(path).tree
    try:
        return tokenizer_of(tree, family, config or {}, weights)
    except Unknown as error:
        raise Unknown(f"{path}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be imported: {error}") from error


def tokenizer_of(tree: Any, family: str | None, config: Mapping[str, Any], weights: str) -> Tokenizer:
    """Tokenizer from the content of a checkpoint: nested dicts of tensors."""
    tensors = averaged(state_of(tree, weights), weights)
    found = choose(tensors, family)
    if found.build is None:
        raise ValueError(f"recognised as {found.name}: its head is not in vistok yet")
    ignored = re.compile("|".join((LOSSES, *found.ignored)))
    read = {name: tensor for name, tensor in tensors.items() if not ignored.fullmatch(name)}
    wrong = [name for name, tensor in read.items() if not isinstance(tensor, Tensor) or tensor.dtype not in FLOATS]
    if wrong:
        raise ValueError(f"{one_line(wrong[0], 80)} is not a tensor of floats")
    empty = [name for name, tensor in read.items() if not tensor.numel()]
    if empty:
        raise ValueError(f"{one_line(empty[0], 80)} has no values")
    bounded, extra = Bounded(read.values()), {}
    refuse_shared(read)
    if found.name == "enhancing":
        missing = [name for name in from_enhancing.POSITIONS if name not in read]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        extra = {"positions": tuple(read.pop(name) for name in from_enhancing.POSITIONS)}
    levels = [int(match[1]) for name in read if (match := re.match(r"decoder\.up\.(\d{1,5})\.", name))]
    try:
        ours = to_ours(found.rules, read, max(levels, default=-1) + 1)
        shapes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
        with torch.device("meta"), bounded:  # memory is allocated only after the tensors are known to fit
            tokenizer = found.build(shapes, config, family is not None, **extra)
        state = {name: tensor.float().clone(memory_format=torch.contiguous_format) for name, tensor in ours.items()}
        tokenizer.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError, IndexError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"as {found.name} its tensors do not fit together: {one_line(error)}") from error
    low_high = get(config, "input_range")
    if low_high is not None:
        tokenizer.pixels = pixels_of(low_high)
    return tokenizer.eval().requires_grad_(False)


def pixels_of(low_high: Any) -> PixelMap:
    """Pixel map of a network whose pixels are in [0, 1] or [-1, 1]."""
    if not isinstance(low_high, Sequence) or list(low_high) not in ([0, 1], [-1, 1]):
        raise ValueError(f"config's input_range must be [0, 1] or [-1, 1], not {short(low_high)}")
    return PixelMap(0.5, 0.5) if low_high[0] == 0 else PixelMap()


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


def published_folder(folder: Path) -> tuple[Path, dict[str, Any] | None]:
    """Path and settings to read from a folder.

    For our format they are the folder itself and None; for others a file and its config.
    """
    config = folder / "config.json"
    if not config.is_file() or (folder / "tokenizer" / "config.json").is_file():
        return folder, None  # a run folder, or a folder whose error message names the missing file
    content = read_json(config)
    if not isinstance(content, dict) or "format" in content:
        return folder, None
    files = [folder / name for name in FOLDER_WEIGHTS if (folder / name).is_file()]
    files = files or [path for path in folder.glob("*.safetensors") if path.is_file()]
    if not files:
        return folder, None
    if len(files) > 1:
        raise ValueError(f"{folder} has several files of weights: name one of {', '.join(p.name for p in files)}")
    is_vqmodel = content.get("_class_name") == "VQModel"
    return files[0], content if is_vqmodel else {}


def download(source: str) -> Path:
    """Downloads ``user/repo`` from the hub as a folder of config and weights, or ``user/repo/FILE`` as that file.

    Code is never downloaded.

    Raises:
        WeightsUnavailable: The hub cannot be reached, or has no such repository or file.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(f"{source} is on the hub: pip install huggingface_hub") from error

    user, name, *rest = source.split("/", 2)
    try:
        if rest:
            return Path(huggingface_hub.hf_hub_download(f"{user}/{name}", rest[0]))
        patterns = ["config.json", *FOLDER_WEIGHTS]
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=patterns))
    except (OSError, ValueError) as error:  # no network, no such repository or file, not a name
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsUnavailable(
            f"{source} is neither here nor to be had from the Hugging Face hub ({reason}); "
            "give the path of a file or folder"
        ) from error
