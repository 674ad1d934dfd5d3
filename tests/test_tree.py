"""The tree: import contracts, names, and the page that lists it."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from vistok.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tokenizers" / "vistok"
MODULES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py" and "configs" not in path.relative_to(PACKAGE).parts
)
WINGS = {path.parent for path in PACKAGE.rglob("__init__.py")} - {PACKAGE}


def test_import_contracts(capsys):
    importlinter = pytest.importorskip("importlinter.cli")  # needs Python 3.11
    broken = importlinter.lint_imports(str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True)
    assert not broken, capsys.readouterr().out


def test_the_page_lists_every_module():
    page = (ROOT / "docs" / "architecture.md").read_text()
    (tree,) = re.findall(r"```\nvistok/\n(.*?)```", page, re.DOTALL)
    found, above = [], []
    for line in filter(None, tree.splitlines()):
        indent, name, slash = re.match(r"( +)(\w+)(/?)", line).groups()
        above = above[: len(indent) // 2 - 1]
        if slash:
            above.append(name)
        else:
            found.append("/".join([*above, name]))
    assert sorted(found) == sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in MODULES)


def test_no_two_modules_or_classes_share_a_name():
    modules, classes = defaultdict(list), defaultdict(list)
    for name, path in [*((path.stem, path) for path in MODULES), *((wing.name, wing) for wing in WINGS)]:
        modules[name].append(path)
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].append(path)
    assert [paths for paths in [*modules.values(), *classes.values()] if len(paths) > 1] == []


def test_no_command_is_imported():
    commands = {module.partition(":")[0] for module, _ in COMMANDS.values()}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not commands & {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}, path


def test_no_module_is_named_after_a_library_it_imports():
    for path in MODULES:
        imported = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
        assert path.stem not in imported, path


def test_few_modules_lie_beside_the_wings():
    beside = {path.stem for path in MODULES if path.parent == PACKAGE} - {"__main__"}
    assert len(beside) <= 9, sorted(beside)


def test_the_tests_mirror_the_package():
    own = {ROOT / "tests" / "golden", ROOT / "tests" / "standins"}  # values and programs, no tests
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")} - {ROOT / "tests"} - own
    strays = [folder for folder in folders if PACKAGE / folder.relative_to(ROOT / "tests") not in WINGS]
    assert strays == []
