"""Sources of tokenizers: decides whether a path is a run, an exported folder, a published checkpoint or on the hub.

| source | tokenizer |
| --- | --- |
| ``sample`` | the tokenizer in the package, unless a path of this name exists |
| a folder with our ``config.json`` | an exported folder |
| a folder with ``tokenizer/config.json`` | a run, which has its exported folder there |
| a folder with another ``config.json`` and weights | a folder of diffusers or transformers |
| a file | a published checkpoint |
| ``user/repo``, ``user/repo/FILE`` | a folder or file on the Hugging Face hub, unless a path of this name exists |
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from vistok.pretrained import WeightsUnavailable
from vistok.untrusted.bounded_json import read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"  # of an exported folder
EXPORT = "tokenizer"  # name of the exported folder in a run
SLIM = Path("checkpoints") / "slim.safetensors"  # in a run: the weights with heads unfolded
PUBLISHED_WEIGHTS = ("diffusion_pytorch_model.safetensors", WEIGHTS)
SAMPLE = Path(__file__).parent / "sample"  # the tokenizer in the package
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(/[\w][\w./-]*)?")


class TokenizerPath(NamedTuple):
    """A tokenizer on disk."""

    path: Path  # an exported folder, or a published file
    config: dict[str, Any] | None = None  # settings in the folder of a published file; None for an exported folder


def find(source: str | Path) -> TokenizerPath:
    """Finds the tokenizer of a source, which is downloaded if it is on the hub.

    Raises:
        FileNotFoundError: ``source`` does not exist.
        WeightsUnavailable: The hub cannot be reached, or has no such file.
        ValueError: A folder has several files of weights.
    """
    path = shipped(source)
    if not path.exists() and HUB_ID.fullmatch(str(source)) and ".." not in str(source):
        path = download(str(source))
    if not path.exists():
        raise FileNotFoundError(f"{source} is not an exported tokenizer: there is no such folder or file")
    if not path.is_dir():
        return TokenizerPath(path, {})
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
    """The file of weights in a folder of diffusers or transformers; None for other folders.

    Raises:
        ValueError: It has several files of weights.
    """
    if not (folder / CONFIG).is_file():
        return None
    config = read_json(folder / CONFIG)
    if type(config) is not dict or "format" in config:  # ours, or a folder whose error message names its problem
        return None
    files = [folder / name for name in PUBLISHED_WEIGHTS if (folder / name).is_file()]
    files = files or [path for path in folder.glob("*.safetensors") if path.is_file()]
    if not files:
        return None
    if len(files) > 1:
        raise ValueError(f"{folder} has several files of weights: name one of {', '.join(p.name for p in files)}")
    return TokenizerPath(files[0], config if config.get("_class_name") == "VQModel" else {})


def weights_to_train(path: Path) -> Path:
    """The file that training starts from: the unfolded weights of a run, or the weights of another folder."""
    if not path.is_dir():
        return path
    published = published_folder(path)
    if published is not None:
        return published.path
    return path / (WEIGHTS if (path / WEIGHTS).is_file() else SLIM)


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
        patterns = [CONFIG, *PUBLISHED_WEIGHTS]
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=patterns))
    except (OSError, ValueError) as error:  # no network, no such repository or file, not a name
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsUnavailable(
            f"{source} is neither a local path nor available on the Hugging Face hub ({reason}); "
            "give the path of a file or folder"
        ) from error
