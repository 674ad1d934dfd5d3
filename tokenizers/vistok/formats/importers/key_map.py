"""Tables that map a published model's tensor names to ours, in both directions.

In a name ``{i}`` and ``{j}`` stand for integers and ``{p}`` for ``weight`` or ``bias``. ``{~i}`` in our name counts the
levels from the other end. ``name#0``, ``name#1`` and so on are parts of one tensor, concatenated along its first
dimension: of ours, or of theirs.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vistok.untrusted.bounded_json import one_line

PLACES = {"{i}": r"(?P<i>0|[1-9]\d{0,4})", "{j}": r"(?P<j>0|[1-9]\d{0,4})", "{p}": r"(?P<p>weight|bias)"}
PLACES["{~i}"] = PLACES["{i}"]


def same(tensor: Tensor) -> Tensor:
    return tensor


class Rule(NamedTuple):
    """One line of a table."""

    theirs: str
    ours: str
    into: Callable[[Tensor], Tensor] = same  # converts their tensor to ours
    back: Callable[[Tensor], Tensor] = same  # converts ours to theirs


def linear(rule: Rule) -> Rule:
    """Rule for a weight that is a linear map (out, in) there and a 1x1 convolution (out, in, 1, 1) here."""
    return rule._replace(
        into=lambda t: t[:, :, None, None] if t.ndim == 2 else t,
        back=lambda t: t[:, :, 0, 0] if t.ndim == 4 else t,
    )


def under(theirs: str, ours: str, names: Mapping[str, str]) -> list[Rule]:
    """Rules for the weights and biases of the layers of one module, from names there to names here."""
    return [Rule(f"{theirs}.{a}.{{p}}", f"{ours}.{b}.{{p}}") for a, b in names.items()]


def to_ours(rules: Sequence[Rule], tensors: Mapping[str, Tensor], levels: int = 0) -> dict[str, Tensor]:
    """Published tensors under our names.

    Args:
        rules: The table of names.
        tensors: Published tensors by name.
        levels: Number of levels, for ``{~i}``.

    Raises:
        ValueError: No rule matches a name, or two tensors have the same name of ours.
    """
    complete: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    patterns = [(_pattern(rule.theirs.partition("#")[0]), rule) for rule in rules]
    unknown = []
    for name, tensor in tensors.items():
        rule, values = _find(patterns, name)
        if rule is None:
            unknown.append(name)
            continue
        for own, piece in _pieces(rules, rule, name, tensor):
            ours, _, part = _fill(own.ours, values, levels).partition("#")
            if part:
                parts.setdefault(ours, {})[int(part)] = own.into(piece)
            elif ours in complete:
                raise ValueError(f"two of its tensors are our {ours}; one of them is {one_line(name, 80)}")
            else:
                complete[ours] = own.into(piece)
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        first = ", ".join(one_line(name, 80) for name in sorted(unknown)[:5])
        raise ValueError(f"its table of names has no {first}{more}")
    for ours, pieces in parts.items():
        complete[ours] = torch.cat([pieces[k] for k in sorted(pieces)])
    return complete


def to_theirs(rules: Sequence[Rule], tensors: Mapping[str, Tensor], levels: int | None = None) -> dict[str, Tensor]:
    """Our tensors under published names, by the first rule that matches each; the inverse of ``to_ours``.

    Args:
        rules: The table of names.
        tensors: Our tensors by name.
        levels: Number of levels, for ``{~i}``; None for the number of the decoder's.

    Raises:
        ValueError: No rule matches a name.
    """
    theirs: dict[str, Tensor] = {}
    fused: dict[str, dict[int, Tensor]] = {}
    levels = levels_of(tensors) if levels is None else levels
    complete = [(_pattern(rule.ours), rule) for rule in rules if "#" not in rule.ours]
    split = [rule for rule in rules if "#" in rule.ours]
    for name, tensor in tensors.items():
        rule, values = _find(complete, name)
        if rule is not None:
            their_name, _, part = _fill(rule.theirs, values, levels, rule.ours).partition("#")
            if part:
                fused.setdefault(their_name, {})[int(part)] = rule.back(tensor)
            else:
                theirs[their_name] = rule.back(tensor)
            continue
        found = [(pattern.fullmatch(name), part) for part in split
                 for pattern in [_pattern(part.ours.partition("#")[0])]]  # fmt: skip
        found = [(match, part) for match, part in found if match]
        if not found:
            raise ValueError(f"the layout has no name for our {name}")
        for piece, (match, part) in zip(tensor.chunk(len(found)), found, strict=True):
            theirs[_fill(part.theirs, match.groupdict(), levels)] = part.back(piece)
    return theirs | {name: torch.cat([pieces[k] for k in sorted(pieces)]) for name, pieces in fused.items()}


def _pieces(rules: Sequence[Rule], rule: Rule, name: str, tensor: Tensor) -> list[tuple[Rule, Tensor]]:
    """Rules for a tensor of theirs with the part of it that each is for: the first, or all for a concatenation."""
    base, _, part = rule.theirs.partition("#")
    if not part:
        return [(rule, tensor)]
    found = [own for own in rules if own.theirs.partition("#")[0] == base]
    if not tensor.ndim or len(tensor) % len(found):
        raise ValueError(f"{one_line(name, 80)} of the sizes {list(tensor.shape)} is not {len(found)} tensors in one")
    return list(zip(found, tensor.chunk(len(found)), strict=True))


def levels_of(ours: Iterable[str]) -> int:
    """Number of the decoder's levels, by our names; 0 if it has none."""
    found = [re.match(r"(?:pixels\.)?decoder\.(?:decoder\.)?levels\.(\d+)\.", name) for name in ours]
    return max((int(match[1]) for match in found if match), default=-1) + 1


def _pattern(template: str) -> re.Pattern[str]:
    pieces = re.split(r"(\{~?[ijp]\})", template)
    return re.compile("".join(PLACES.get(piece, re.escape(piece)) for piece in pieces))


def _find(patterns: list[tuple[re.Pattern[str], Rule]], name: str) -> tuple[Rule | None, dict[str, str]]:
    for pattern, rule in patterns:
        match = pattern.fullmatch(name)
        if match:
            return rule, match.groupdict()
    return None, {}


def _fill(template: str, values: Mapping[str, str], levels: int, source: str = "") -> str:
    for place, value in values.items():
        flip = f"{{~{place}}}" in template or f"{{~{place}}}" in source
        value = str(levels - 1 - int(value)) if flip else value
        template = template.replace(f"{{~{place}}}", value).replace(f"{{{place}}}", value)
    return template
