"""Packages that setuptools builds, and the files for hosted CI, releases, commits and issues."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import vistok
from vistok.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent
TEST = "tests/test_packaging.py"  # not part of a package
BUILT_FROM = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CITATION.cff", "constraints.txt", TEST)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
BUILD = """
import sys
from setuptools import build_meta
out, *kinds = sys.argv[1:]
for kind in kinds:
    getattr(build_meta, f"build_{kind}")(out)
"""


def build(source, out, *kinds):
    """Builds packages of the folder ``source``, without a network: setuptools is here already."""
    command = [sys.executable, "-c", BUILD, str(out), *kinds]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def files_of(wheel):
    return {entry.filename: entry.CRC for entry in zipfile.ZipFile(wheel).infolist()}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder with the source package and the wheel of this tree, and a copy of the tree."""
    folder = tmp_path_factory.mktemp("packages")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("configs", "tokenizers"):  # the link vistok/configs stays one
        shutil.copytree(ROOT / name, source / name, ignore=ignored, symlinks=True)
    (source / "tests").mkdir()
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, source / name)
    build(source, folder, "sdist", "wheel")
    return folder


def test_the_wheel_has_the_package_and_nothing_else(packages):
    (wheel,) = packages.glob("*.whl")
    assert wheel.name == f"vistok-{vistok.__version__}-py3-none-any.whl"
    names = set(files_of(wheel))
    assert {name.partition("/")[0] for name in names} == {"vistok", f"vistok-{vistok.__version__}.dist-info"}
    package = ROOT / "tokenizers"
    code = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    configs = {f"vistok/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    sample = {f"vistok/formats/sample/{name}" for name in ("config.json", "model.safetensors", "README.md")}
    report = {f"vistok/evaluation/report/{path.name}" for path in package.rglob("report/*.[cj]s*")}
    found = {name for name in names if name.startswith("vistok/")}
    assert found == code | configs | sample | report | {"vistok/py.typed"} and len(configs) > 100
    (licence,) = [name for name in names if name.endswith("/licenses/LICENSE")]
    assert zipfile.ZipFile(wheel).read(licence) == (ROOT / "LICENSE").read_bytes()


def test_the_source_package_builds_the_same_wheel(packages, tmp_path):
    (archive,), (wheel,) = packages.glob("*.tar.gz"), packages.glob("*.whl")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
        opened.extractall(tmp_path, filter="data")
    assert {"pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "constraints.txt"} <= names
    assert not [name for name in names if name.startswith("tests")]
    build(tmp_path / archive.name.removesuffix(".tar.gz"), tmp_path, "wheel")
    (again,) = tmp_path.glob("*.whl")
    assert files_of(again) == files_of(wheel)


def test_the_installed_wheel_runs_without_the_tree(packages, tmp_path):
    """Its configs are found, and the tokenizer that comes with it."""
    zipfile.ZipFile(next(packages.glob("*.whl"))).extractall(tmp_path)
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import vistok; from pathlib import Path\n"
        "from vistok.__main__ import main; from vistok.formats.tokenizer_paths import SAMPLE\n"
        "print(vistok.__file__, (Path(SAMPLE) / 'config.json').is_file()); main(sys.argv[1:])"
    )
    words = [sys.executable, "-I", "-c", program, str(tmp_path), "train", "--help"]
    said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    first, _, rest = said.stdout.partition("\n")
    assert first == f"{tmp_path / 'vistok' / '__init__.py'} True" and "  quantizer: " in rest, said.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows(path):
    """Actions have versions, jobs an end and no right to write, and commands are those of the Makefile."""
    content = yaml.safe_load(path.read_text())
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert content["permissions"] == {"contents": "read"} and "secrets." not in path.read_text()
    for job in content["jobs"].values():
        assert job["timeout-minutes"] <= 60 and job["runs-on"] == "ubuntu-latest"
        for step in job["steps"]:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) if "uses" in step else step["run"]
            for command in re.findall(r"make (\S+)", step.get("run", "")):
                assert command in targets
            for verb in re.findall(r"-m vistok (\S+)", step.get("run", "")):
                assert verb in COMMANDS


def test_versions_of_python_agree():
    project = (ROOT / "pyproject.toml").read_text()
    (oldest,) = re.findall(r'^requires-python = ">=([\d.]+)"$', project, re.MULTILINE)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert versions[0] == oldest and len(versions) >= 2 and all(isinstance(version, str) for version in versions)
    assert f'\npythonVersion = "{oldest}"\n' in project
    assert f"sys.version_info < ({oldest.replace('.', ', ')})" in (ROOT / "Makefile").read_text()


def test_hooks_before_a_commit_have_the_version_of_the_tests():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (ruff,) = [repo for repo in hooks if repo["repo"].endswith("/ruff-pre-commit")]
    assert f"\nruff=={ruff['rev'].removeprefix('v')}\n" in (ROOT / "constraints.txt").read_text()
    assert [hook["id"] for hook in ruff["hooks"]] == ["ruff-check", "ruff-format"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms(path):
    form = yaml.safe_load(path.read_text())
    assert form["name"] and form["description"]
    fields = [element for element in form["body"] if element["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert all(field["attributes"]["label"] for field in fields)
    for page in re.findall(r"\.\./blob/main/([\w./-]+)", path.read_text()):
        assert (ROOT / page).is_file()
    for verb in re.findall(r"-m vistok (\w+)", path.read_text()):
        assert verb in COMMANDS
    assert path.stem != "bug" or "`python -m vistok env`" in path.read_text()
