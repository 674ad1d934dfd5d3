"""Sources of tokenizers: decides whether a path is a run, an exported folder, a published checkpoint or on the hub.

| source | tokenizer |
| --- | --- |
| ``sample`` | the tokenizer in the package, unless a path of this name exists |
| a folder with our ``config.json`` | an exported folder |
| a folder with ``tokenizer/config.json`` | a run, which has its exported folder there |
| another folder with weights | a published checkpoint, such as a folder of diffusers or transformers |
| a file, or the index of several | a published checkpoint |
| ``user/repo``, ``user/repo/PATH`` | a folder or file on the Hugging Face hub, unless a path of this name exists |
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from vistok.formats.weight_files import INDEX, STEMS, files_of, other_kinds, weights_in
from vistok.pretrained import WeightsUnavailable
from vistok.untrusted.bounded_json import read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"  # of an exported folder
SETTINGS = "vistok.json"  # beside weights in a published layout: their file, family and the settings of it
EXPORT = "tokenizer"  # name of the exported folder in a run
SLIM = Path("checkpoints") / "slim.safetensors"  # in a run: the weights with heads unfolded
HUB_WEIGHTS = tuple(  # what is downloaded of a repository
    f"{stem}{end}"
    for stem in ("diffusion_pytorch_model", "model")
    for end in (".safetensors", ".safetensors.index.json", "-*-of-*.safetensors")
)
SAMPLE = Path(__file__).parent / "sample"  # the tokenizer in the package
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(/[\w][\w./-]*)?")


class TokenizerPath(NamedTuple):
    """A tokenizer on disk."""

    path: Path  # an exported folder, a published file, or the index of several
    config: dict[str, Any] | None = None  # settings in the folder of a published file; None for an exported folder
    family: str | None = None  # of a published file that vistok wrote


def find(source: str | Path) -> TokenizerPath:
    """Finds the tokenizer of a source, which is downloaded if it is on the hub.

    Raises:
        FileNotFoundError: ``source`` does not exist.
        WeightsUnavailable: The hub cannot be reached, or has no such file.
        ValueError: A folder has several files of weights, or a configuration that is no JSON.
    """
    path = shipped(source)
    if not path.exists() and HUB_ID.fullmatch(str(source)) and ".." not in str(source):
        path = download(str(source))
    if not path.exists():
        raise FileNotFoundError(f"{source} is not an exported tokenizer: there is no such folder or file")
    if not path.is_dir():
        return with_settings(path)
    return published_folder(path) or TokenizerPath(exported_folder(path))


def shipped(source: str | Path) -> Path:
    """Path of a source: ``sample`` is the tokenizer in the package, unless a path of this name exists."""
    path = Path(source)
    return SAMPLE if str(source) == SAMPLE.name and not path.exists() else path


def exported_folder(folder: Path) -> Path:
    """The exported folder: a folder itself or, of a run, the one in it."""
    inner = folder / EXPORT
    return inner if not (folder / CONFIG).is_file() and (inner / CONFIG).is_file() else folder


def published_folder(folder: Path) -> TokenizerPath | None:
    """The file of weights in a published folder; None for a folder of vistok's.

    Raises:
        ValueError: It has no weights, or several files of them, or its ``config.json`` is no JSON.
    """
    if exported_folder(folder) != folder:
        return None
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if type(config) is not dict or "format" in config:  # ours, or a folder whose error message names its problem
        return None
    weights = weights_in(folder)
    if weights is None:
        if (folder / CONFIG).is_file() or not (instead := other_kinds(folder)):
            return None
        raise ValueError(f"{folder} has no weights that can be read{instead}")
    return with_settings(weights)


def with_settings(weights: Path) -> TokenizerPath:
    """A published file with its settings: those that were exported with it, or of diffusers.

    Raises:
        ValueError: They are no JSON.
    """
    beside = weights.parent / SETTINGS
    if beside.is_file():
        content = read_json(beside)
        content = content if type(content) is dict and content.get("weights") == weights.name else {}
        family, config = content.get("family"), content.get("config")
        if type(family) is str and type(config) is dict:
            return TokenizerPath(weights, config, family)
    return TokenizerPath(weights, config_of(weights))


def config_of(weights: Path) -> dict[str, Any]:
    """Settings beside a published file: the ``config.json`` of diffusers' VQModel; an empty dict for others.

    Raises:
        ValueError: It is no JSON.
    """
    beside = weights.parent / CONFIG
    if not weights.name.startswith(STEMS) or not beside.is_file():
        return {}
    config = read_json(beside)
    return config if type(config) is dict and config.get("_class_name") == "VQModel" else {}


def weights_to_train(path: Path) -> Path:
    """The file that training starts from: the unfolded weights of a run, or the weights of another folder."""
    if not path.is_dir():
        return path
    published = published_folder(path)
    if published is not None:
        return published.path
    return path / (WEIGHTS if (path / WEIGHTS).is_file() else SLIM)


def download(source: str) -> Path:
    """Downloads ``user/repo`` or ``user/repo/FOLDER`` from the hub: config and weights; or ``user/repo/FILE``.

    An index is downloaded with its files. Code is never downloaded.

    Raises:
        WeightsUnavailable: The hub cannot be reached, or has no such repository or file.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(f"{source} is on the hub: pip install huggingface_hub") from error

    user, name, *rest = source.split("/", 2)
    repo, inner = f"{user}/{name}", rest[0] if rest else ""
    try:
        if inner and "." in inner.rpartition("/")[2]:
            path = Path(huggingface_hub.hf_hub_download(repo, inner))
            if path.name.endswith(INDEX):
                above = inner.rpartition("/")[0]
                for file in files_of(path):
                    huggingface_hub.hf_hub_download(repo, f"{above}/{file}" if above else file)
            return path
        patterns = [f"{inner}/{own}" if inner else own for own in (CONFIG, *HUB_WEIGHTS)]
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=patterns)) / inner
    except (OSError, ValueError) as error:  # no network, no such repository or file, not a name
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsUnavailable(
            f"{source} is neither a local path nor available on the Hugging Face hub ({reason}); "
            "give the path of a file or folder"
        ) from error
