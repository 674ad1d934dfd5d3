"""Signatures of classes and functions, read from their source: nothing is imported to check a config against them.

Importing torch and Lightning takes seconds of CPU time, parsing the files that a config names takes a tenth of a
second.
"""

import ast
import importlib
import sys
import typing
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

# Decorators that do not change the arguments; with any other one a function may accept arguments that it does not name.
TRANSPARENT = {"_defaults_from_env_vars", "no_type_check", "contextmanager"}
DEPTH = 20  # longest chain of names that refer to other names


class Signature(NamedTuple):
    """The arguments that a class or a function takes by keyword."""

    hints: dict[str, Any]  # annotations by name; ``Any`` where there is none or it is not understood
    closed: bool  # True if it accepts no other arguments


class _Module(NamedTuple):
    """A module's source."""

    name: str
    spec: ModuleSpec
    names: dict[str, ast.stmt]  # the statement that binds each name
    stars: list[str]  # modules all of whose names are imported

    @property
    def package(self) -> str:
        return self.name if self.spec.submodule_search_locations is not None else self.name.rpartition(".")[0]


class _Definition(NamedTuple):
    """A statement that defines a name, and its module."""

    module: _Module
    node: ast.stmt


def signature_of(target: str) -> Signature | None:
    """The signature of the class or function with a dotted name; None if its source cannot be found or read.

    Args:
        target: Its dotted name, as in ``_target_``: ``torch.nn.Conv2d``.
    """
    module, _, name = target.rpartition(".")
    try:
        found = _find(module, name)
        return _signature(found) if isinstance(found, _Definition) else None
    except (OSError, SyntaxError, ValueError, RecursionError, ImportError):
        return None  # instantiation reports the error


def _signature(found: _Definition) -> Signature | None:
    if isinstance(found.node, ast.FunctionDef):
        return _of_function(found.module, found.node)
    if not isinstance(found.node, ast.ClassDef):
        return None
    fields: dict[str, Any] = {}
    known = True
    for definition in _with_bases(found):
        if definition is None:
            known = False
            continue
        module, node = definition
        if isinstance(node, ast.ClassDef):
            own = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
            if own:
                return _of_function(module, own[0])
            if any(_name_of(decorator) == "dataclass" for decorator in node.decorator_list):
                annotated = [part for part in node.body if isinstance(part, ast.AnnAssign)]
                fields |= {
                    part.target.id: _evaluated(module, part.annotation)
                    for part in annotated
                    if isinstance(part.target, ast.Name) and part.target.id not in fields
                }
    return Signature(fields, closed=True) if fields or known else None


def _with_bases(found: _Definition, depth: int = 0) -> Iterator[_Definition | None]:
    """A class and its bases, in the order of simple inheritance; None in place of an unknown base."""
    yield found
    for base in found.node.bases if isinstance(found.node, ast.ClassDef) and depth < DEPTH else ():
        above = _referenced(found.module, base)
        if isinstance(above, _Definition):
            yield from _with_bases(above, depth + 1)
        else:
            yield None


def _of_function(module: _Module, node: ast.FunctionDef) -> Signature:
    arguments = node.args
    named = [*arguments.args, *arguments.kwonlyargs]
    hints = {
        argument.arg: _evaluated(module, argument.annotation) if argument.annotation else Any
        for argument in named
        if argument.arg != "self"
    }
    decorated = any(_name_of(decorator) not in TRANSPARENT for decorator in node.decorator_list)
    return Signature(hints, closed=arguments.kwarg is None and not decorated)


def _name_of(node: ast.expr) -> str:
    """The last part of the name of a decorator."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


@cache
def _module(name: str) -> _Module | None:
    """A module by its dotted name, found as by Python, but without an import of the packages that contain it."""
    above, _, last = name.rpartition(".")
    if above:
        package = _module(above)
        places = package.spec.submodule_search_locations if package else None
        spec = PathFinder.find_spec(name, places) if places is not None else None
    else:
        spec = find_spec(last) if last else None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    module = _Module(name, spec, {}, [])
    if name != "torch":  # 3,000 lines, and its classes are no plain values
        _collect(module, ast.parse(Path(spec.origin).read_bytes()).body)
    return module


def _collect(module: _Module, statements: list[ast.stmt]) -> None:
    for node in statements:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name == "*":
                    module.stars.append(_origin(module, node))
                else:
                    module.names[alias.asname or alias.name] = node
        elif isinstance(node, ast.Import):
            for alias in node.names:
                module.names[alias.asname or alias.name.partition(".")[0]] = node
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            module.names[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    module.names[target.id] = node
        elif isinstance(node, ast.If | ast.Try | ast.With):
            _collect(module, [*getattr(node, "orelse", []), *getattr(node, "finalbody", []), *node.body])


def _origin(module: _Module, node: ast.ImportFrom) -> str:
    """The absolute name of the module that a statement imports from."""
    if not node.level:
        return node.module or ""
    parts = module.package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _find(module_name: str, name: str, depth: int = 0) -> Any:
    """A ``_Definition``, an object of the standard library, or None."""
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        return getattr(importlib.import_module(module_name), name, None)
    module = _module(module_name)
    return _bound(module, name, depth) if module and depth < DEPTH else None


def _bound(module: _Module, name: str, depth: int = 0) -> Any:
    """The definition or object that a name refers to in a module."""
    node = module.names.get(name)
    if isinstance(node, ast.ImportFrom):
        (alias,) = [alias for alias in node.names if (alias.asname or alias.name) == name]
        return _find(_origin(module, node), alias.name, depth + 1)
    if node is None:
        found = (_find(star, name, depth + 1) for star in module.stars)
        return next((one for one in found if one is not None), None)
    return None if isinstance(node, ast.Import) else _Definition(module, node)


def _referenced(module: _Module, node: ast.expr) -> Any:
    """The definition or object that an expression of names and dots refers to."""
    if isinstance(node, ast.Subscript):
        return _referenced(module, node.value)
    if isinstance(node, ast.Name):
        return _bound(module, node.id)
    if not isinstance(node, ast.Attribute):
        return None
    first, *between, last = ast.unparse(node).split(".")
    imported = module.names.get(first)
    if not isinstance(imported, ast.Import | ast.ImportFrom):
        return None
    prefix = next((alias.name for alias in imported.names if (alias.asname or alias.name) == first), first)
    above = f"{_origin(module, imported)}." if isinstance(imported, ast.ImportFrom) else ""
    return _find(".".join([f"{above}{prefix}", *between]), last)


def _evaluated(module: _Module, node: ast.expr, depth: int = 0) -> Any:
    """An annotation, with an empty class in place of each class from outside the standard library."""
    if depth > DEPTH:
        return Any
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _evaluated(module, ast.parse(node.value, mode="eval").body, depth + 1)
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return typing.Union[_evaluated(module, node.left, depth + 1), _evaluated(module, node.right, depth + 1)]  # noqa: UP007
    if isinstance(node, ast.Subscript):
        return _subscripted(module, node, depth + 1)
    if isinstance(node, ast.List):
        return [_evaluated(module, element, depth + 1) for element in node.elts]
    if not isinstance(node, ast.Name | ast.Attribute):
        return Any
    plain = {"None": None, "int": int, "float": float, "bool": bool, "str": str, "bytes": bytes, "object": object}
    plain |= {"dict": dict, "list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "type": type}
    if isinstance(node, ast.Name) and node.id in plain and node.id not in module.names:
        return plain[node.id]
    found = _referenced(module, node)
    if not isinstance(found, _Definition):
        last = node.attr if isinstance(node, ast.Attribute) else node.id
        return found if found is not None else type(last, (), {}) if last in ("Tensor", "Module") else Any
    if isinstance(found.node, ast.ClassDef):
        return type(found.node.name, (), {})
    if isinstance(found.node, ast.Assign | ast.AnnAssign) and found.node.value is not None:
        return _alias(found.module, found.node.value, depth + 1)
    return Any


@cache
def _variable(module: str, name: str) -> Any:
    return TypeVar(name)


def _alias(module: _Module, value: ast.expr, depth: int) -> Any:
    """The annotation that a type alias or TypeVar stands for."""
    if isinstance(value, ast.Call):
        called = _name_of(value)
        name = value.args[0].value if value.args and isinstance(value.args[0], ast.Constant) else ""
        return _variable(module.name, str(name)) if called == "TypeVar" else Any
    return _evaluated(module, value, depth)


def _subscripted(module: _Module, node: ast.Subscript, depth: int) -> Any:
    inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    outside = _evaluated(module, node.value, depth)
    if outside is typing.Literal:
        values = tuple(ast.literal_eval(element) for element in inside)
        return typing.Literal[values]
    if outside is Any or isinstance(outside, type) and not hasattr(outside, "__class_getitem__"):
        return outside
    arguments = tuple(_evaluated(module, element, depth) for element in inside)
    try:
        return outside[arguments if len(arguments) > 1 else arguments[0]]
    except TypeError:
        return Any
