"""Names of runs: their data and the settings that differ from the defaults, as ``photos-simvq-lr0.001``.

A name has only letters and digits of ASCII and ``._-``, and at most ``LONGEST`` characters. Equal settings have equal
names, in whatever order they are given. Where a name leaves something out, it ends in a hash of all of it.
"""

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

LONGEST = 80  # characters
HASH = 6  # hexadecimal digits
# Nodes and keys that a resumed run may change: where and how long it runs, and what it reports.
EXCLUDED = ("run", "log", "logger", "trainer", "speed", "hydra", "data.num_workers", "data.timeout", "optim.updates")
DATA = ("data", "data.root", "data.urls", "data.val_urls", "experiment")  # the name begins with these
NODES = ("model.", "data.", "optim.", "optimizer.", "run.")  # their keys are known without them
VAGUE = ("", "train", "training", "images", "image", "img", "data", "val", "all")  # folders that do not name the images
RESOLVER = "job_name"  # in configs/train.yaml


class Setting(NamedTuple):
    """An argument of the command line."""

    key: str
    value: Any  # None for several
    swept: bool  # True for several values, of ``-m``


def run_name(config: DictConfig, overrides: Sequence[str]) -> str:
    """Name of a run: ``run.name`` if it is given, else that of the recipe or the data, followed by the overrides."""
    settings = read(overrides)
    if any(own.key == "run.name" for own in settings) and config.run.name is not None:
        return str(config.run.name)
    data = {name: OmegaConf.select(config, f"data.{name}", throw_on_missing=False) for name in ("root", "urls")}
    of_data = data_name(data["root"] or data["urls"]) or str(config.data.get("_target_", "data")).rpartition(".")[2]
    base = [str(config.run.name)] if config.run.name is not None else []
    if not base or of_data != "sample":
        base.append(of_data)
    debug = ["debug"] if config.run.debug else []
    return joined([*base, *map(label, kept(settings)), *debug], kept(settings, ()))


def sweep_name(arguments: Sequence[str]) -> str:
    """Name of a sweep, from the arguments that all of its jobs share."""
    settings = [own for own in read(arguments) if not own.swept]
    given = {own.key: own.value for own in settings}
    if given.get("run.name") is not None:
        return f"{clean(str(given['run.name']))}-sweep"
    base = [str(given[key]) for key in ("experiment",) if given.get(key)]
    if of_data := data_name(given.get("data.root") or given.get("data.urls")):
        base.append(of_data)
    return f"{joined([*(base or ['sample']), *map(label, kept(settings))], kept(settings, ()))}-sweep"


def job_name(overrides: Sequence[str], shared: Collection[str]) -> str:
    """Name of a job of a sweep: the overrides that it does not share with all others.

    Args:
        overrides: Overrides of the job.
        shared: Keys of the overrides that all jobs share.
    """
    own = [setting for setting in read(overrides) if setting.key not in shared]
    return joined([label(setting) for setting in own] or ["only"], own)


def shared_keys(arguments: Sequence[str]) -> list[str]:
    """Keys of the arguments of ``-m`` that have one value."""
    return [own.key for own in read(arguments) if not own.swept and not own.key.startswith("hydra")]


def register() -> None:
    """Makes ``${job_name:OVERRIDES,KEYS}`` known to configs."""
    if not OmegaConf.has_resolver(RESOLVER):
        OmegaConf.register_new_resolver(RESOLVER, _of_config)


def _of_config(overrides: ListConfig, shared: ListConfig) -> str:
    given, keys = (OmegaConf.to_container(own, resolve=False) for own in (overrides, shared))
    return job_name(list(map(str, given or ())), set(map(str, keys or ())))


def read(overrides: Iterable[str]) -> list[Setting]:
    """Settings by key, sorted; the last of several with one key counts. Options such as ``-m`` are none."""
    found = {}
    for text in overrides:
        if text.startswith("-"):
            continue
        try:
            parsed = OverridesParser.create().parse_override(text)
        except HydraException:
            key, _, value = text.partition("=")
            found[key] = Setting(key, value, False)
            continue
        key = f"~{parsed.get_key_element()}" if parsed.is_delete() else parsed.get_key_element()
        swept = parsed.is_sweep_override()
        found[key.lstrip("+")] = Setting(key.lstrip("+"), None if swept else parsed.value(), swept)
    return [found[key] for key in sorted(found, key=lambda key: ("." in key.partition("@")[0], key))]


def kept(settings: Iterable[Setting], also: Sequence[str] = DATA) -> list[Setting]:
    """Settings that distinguish runs: neither ``EXCLUDED`` nor below such a node, nor ``also``."""
    nodes = tuple(f"{name}." for name in EXCLUDED)
    return [own for own in settings if own.key not in (*EXCLUDED, *also) and not own.key.startswith(nodes)]


def label(setting: Setting) -> str:
    """A setting as a part of a name: ``simvq``, ``lr0.001``, ``flip``, ``no_clip``, ``decay_linear``."""
    key, _, package = setting.key.lstrip("~").partition("@")
    for node in NODES:
        key = key.removeprefix(node)
    if key.count(".") > 1:
        key = key.partition(".")[2]
    if setting.key.startswith("~"):
        return f"no_{key}"
    value = setting.value
    if "." not in setting.key.partition("@")[0] and isinstance(value, str):  # a choice of a group
        return f"{package.rpartition('.')[2]}_{value}" if package else value
    if value is None or isinstance(value, bool):
        return key if value else f"no_{key}"
    if isinstance(value, int | float):
        short = f"{value:g}"
        number = short if float(short) == value else str(value)
        return f"{key}_{number}" if key[-1:].isdigit() else f"{key}{number}"
    if isinstance(value, list | tuple) and not any(isinstance(own, list | tuple | dict) for own in value):
        return f"{key}_{'_'.join(map(str, value))}"
    return f"{key}_{PurePath(str(value)).name or value}"


def data_name(source: Any) -> str:
    """Readable part of ``data.root`` or ``data.urls``; empty if there is none."""
    if isinstance(source, Iterable) and not isinstance(source, str):
        source = next(iter(source), "")
    text = re.split(r"[{*\[]", str(source or ""))[0]
    parts = [part for part in PurePath(text.removeprefix("hf:")).parts if part not in ("/", ".", "..")]
    for ending in (r"(\.(tar|parquet|csv|tsv|jsonl|npz|gz))+$", r"[-_]*\d*$"):  # kinds of files, numbers of shards
        parts = [re.sub(ending, "", part) or part for part in parts[-2:]]
    if len(parts) > 1 and parts[-1].lower() not in VAGUE:
        parts = parts[-1:]
    return clean("-".join(parts))


def clean(text: str) -> str:
    """Text in the characters of names, without accents."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-")


def joined(parts: Sequence[str], settings: Sequence[Setting]) -> str:
    """A name of its parts; one that lost characters or parts ends in a hash of the settings."""
    cleaned = [clean(part) for part in parts]
    name = "-".join(part for part in cleaned if part)
    exact = all(part.strip("._-") == own for part, own in zip(parts, cleaned, strict=True))
    exact = exact and not any(isinstance(own.value, str | dict) and "/" in str(own.value) for own in kept(settings))
    if exact and len(name) <= LONGEST and name:
        return name
    exactly = "\n".join(sorted(f"{own.key}={own.value!r}" for own in settings))
    digest = hashlib.sha256(exactly.encode(errors="surrogatepass")).hexdigest()
    room = LONGEST - HASH - 1
    if len(name) > room:
        name = name[: room + 1].rpartition("-")[0] or name[:room]
    return f"{name.strip('._-') or 'run'}-{digest[:HASH]}"
