"""Messages about keys of the command line that the config does not have: renamed, misspelt, or of another choice."""

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vistok import configuration

KEY = re.compile(r"[+~]*([\w./:-]+)(?:@[\w.:]+)?(?:=|$)")
# Hydra's messages for an unknown key and for an unknown choice of a group.
NO_KEY = re.compile(r"Could not (?:override|delete from config\.|append to config\.) '([\w./@:-]+)'")
NO_CHOICE = re.compile(
    r"Could not (?:find|load) '([\w./-]+)/([\w.-]+)'(?: Available options in '[^']+': (.*?))?\.? Config search path"
)


def refuse_renamed(command: str, arguments: Sequence[str]) -> None:
    """Raises ``ValueError`` for keys that have been renamed; the message has the present name of each."""
    found = {}
    for argument in arguments:
        key = None if argument.startswith("-") else KEY.match(argument)
        if key and (present := configuration.renamed(command, key[1])):
            found[key[1]] = present
    if found:
        verb = " of python -m vistok estimate" if "estimate" in found else ""
        raise ValueError("; ".join(f"{key} is now {present}" for key, present in found.items()) + verb)


def explained(text: str, command: str, arguments: Sequence[str], configs: Path) -> str | None:
    """One line for Hydra's message about an unknown key or choice; None for its other messages.

    Args:
        text: The message.
        command: ``train`` or ``eval``.
        arguments: The arguments of the command line.
        configs: The folder of the configs.
    """
    if choice := NO_CHOICE.search(text):
        group, wanted = choice[1], choice[2]  # where a list of choices is asked for, Hydra does not say which there are
        choices = (choice[3] or " ".join(sorted(path.stem for path in (configs / group).glob("*.yaml")))).split()
        if former := configuration.FORMER_CHOICES.get(group, {}).get(wanted):
            return f"{group}={wanted} is now {former}"
        found = configuration.similar(wanted, choices)
        meant = f": did you mean {group}={found[0]}?" if found else ";"
        return f"there is no {group}={wanted}{meant} {group} may be {', '.join(choices)}"
    missing = NO_KEY.search(text)
    if missing is None:
        return None
    key = missing[1]
    others = [own for own in arguments if not own.startswith("-") and (KEY.match(own) or [""])[0].strip("+~=") != key]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(configs.resolve()), version_base="1.3"):
        for given in (others, []):
            try:
                return _about(key, hydra.compose(command, given), configs)
            except (HydraException, OmegaConfBaseException):  # another argument is wrong too
                continue
    return None


def _about(key: str, config: Any, configs: Path) -> str:
    """The message for a key that a composed config does not have."""
    group, _, inner = key.partition(".")
    loader = GlobalHydra.instance().config_loader()
    groups = [name for name in loader.list_groups("") if name != "hydra"]
    known = [*_keys(OmegaConf.to_container(config)), *groups]
    if inner and group in groups and _mentioned(key, configs / group) and not configuration.misspelt(key, known, 0.85):
        choices = loader.get_group_options(group, ObjectType.CONFIG)
        having = [f"{group}={choice}" for choice in choices if _has(f"{group}/{choice}", key)]
        if having:
            return f"{key} needs {' or '.join(having)}"
    return configuration.no_such_key(key, known)


def _mentioned(key: str, folder: Path) -> bool:
    """True if a YAML of a group mentions a key of that name; composing every choice would take half a second."""
    name = re.compile(rf"\b{re.escape(key.rpartition('.')[2])}:")
    return any(name.search(path.read_text(encoding="utf-8")) for path in folder.rglob("*.yaml"))


def _has(choice: str, key: str) -> bool:
    """True if the YAML of a group's choice has the key, or one that it builds on."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # alone it is no primary config
            config = hydra.compose(choice)
    except (HydraException, OmegaConfBaseException):  # it changes another group
        return False
    path, _, name = key.rpartition(".")
    node = OmegaConf.select(config, path)
    return OmegaConf.is_dict(node) and name in list(node)  # also a key without a value


def _keys(node: Any, path: str = "") -> Iterator[str]:
    """The dotted names of all keys in nested mappings."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield f"{path}{name}"
            yield from _keys(value, f"{path}{name}.")
