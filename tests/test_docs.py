"""README and docs: commands are ones that there are, Python runs, links lead somewhere, the site builds."""

import argparse
import ast
import importlib
import inspect
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import vistok
from vistok import __main__ as program
from vistok import configuration
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.files import write_json
from vistok.formats import native
from vistok.quantizers import DynamicQuantizer, FeatureRouter, VectorQuantizer

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)(?: title=\"(.*?)\")?\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
OWN_HEAD = "docs/own-head.md"
NOT_RUN = {  # page, number among its Python blocks: why; what they call is checked against its signature
    ("docs/import.md", 0): "published files in their authors' layouts are not in the repository",
    ("docs/export.md", 1): "it takes ten seconds; tests/formats/exporters/test_graphs.py writes graphs",
}
SHELL = ("cd", "git", "source")  # whose words are not looked at


class Block(NamedTuple):
    """A code block."""

    page: str
    language: str
    title: str  # of a file, in blocks that are one
    text: str


def blocks_of(page):
    for indent, language, title, text in FENCE.findall(page.read_text()):
        text = "\n".join(line.removeprefix(indent) for line in text.splitlines()) + "\n"
        yield Block(page.relative_to(ROOT).as_posix(), language, title, text)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def commands():
    """Every line of the shell blocks, once, with the page that it is first on."""
    found = {}
    for block in BLOCKS:
        if block.language == "bash":
            for line in block.text.replace("\\\n", " ").splitlines():
                if shlex.split(line, comments=True):
                    found.setdefault(" ".join(line.split()), block.page)
    return [pytest.param(line, page, id=line[:80]) for line, page in found.items()]


class Understood(Exception):
    """A command line was parsed without an error."""


@pytest.fixture
def parse_only(monkeypatch):
    """Every program ends where it has parsed its command line."""
    parse = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)


@pytest.fixture
def check_training(compose):
    def check(words, page):
        if page == OWN_HEAD:  # its own head is tested below
            words = [
                word
                for word in words
                if "deep" not in word and "levels" not in word and not word.startswith("hydra.searchpath=")
            ]
        if "-m" in words:  # a sweep: its first job, without what is Hydra's own
            words = [word.partition(",")[0] for word in words if word != "-m" and not word.startswith("hydra")]
        config = compose("train", *words)
        with torch.device("meta"):
            tokenizer = configuration.instantiate(config.tokenizer)
        assert set(tokenizer.quantizer.loss_names) <= set(configuration.loss_weights(config.quantizer))

    return check


@pytest.mark.parametrize("line, page", commands())
def test_commands_are_understood(line, page, compose, check_training, parse_only, monkeypatch):
    words = shlex.split(line, comments=True)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    name, *words = words
    if name == "torchrun":
        script = next(i for i, word in enumerate(words) if not word.startswith("-"))
        assert all("=" in word or word in ("--standalone", "-m") for word in words[:script])
        name, words = "python", [*(["-m"] if words[script - 1] == "-m" else []), *words[script:]]
    elif name == "vistok":
        name, words = "python", ["-m", "vistok", *words]
    if name == "sbatch":
        script = next(i for i, word in enumerate(words) if not word.startswith("-"))
        assert (ROOT / words[script]).is_file()
        check_training(words[script + 1 :], page)
    elif name == "python":
        check_python(words, page, compose, check_training, monkeypatch)
    elif name == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[0] in targets
        for word in words[1:]:
            assert word.startswith(("ARGS=", "PYTHON="))
            if word.startswith("ARGS=") and words[0] == "train":
                check_training(shlex.split(word.removeprefix("ARGS=")), page)
    elif name == "bash":
        assert (ROOT / words[0]).is_file()
    elif name == "pip":
        assert words[0] == "install"
        extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        for named in re.findall(r"\[(.*?)\]", " ".join(words)):
            assert set(named.split(",")) <= set(extras)
    else:
        assert name in SHELL, f"no test knows {name}"


def check_python(words, page, compose, check_training, monkeypatch):
    """That ``python WORDS`` would be understood."""
    if words[:2] == ["-m", "vistok"] and words[2] in program.HYDRA:
        words = ["eval.py" if words[2] == "eval" else "train.py", *words[3:]]
    if words[0] == "train.py":
        check_training(words[1:], page)
    elif words[0] == "eval.py":
        compose("eval", *words[1:])
    elif words[:2] == ["-m", "vistok"]:
        if words[-1] not in ("--help", "--version"):
            monkeypatch.setattr(sys, "argv", ["vistok"])
            with pytest.raises(Understood):
                program.main(words[2:])
    else:
        assert words[0].startswith("benchmarks/") and (ROOT / words[0]).is_file()
        if "parse_args" not in (ROOT / words[0]).read_text():
            compose("train", *words[1:])  # it hands them to train.py
        elif words[1:]:
            monkeypatch.setattr(sys, "argv", words)
            monkeypatch.syspath_prepend((ROOT / words[0]).parent)  # as for any script, its own folder
            with pytest.raises(Understood):
                runpy.run_path(str(ROOT / words[0]), run_name="__main__")


def small(head, **arguments):
    """A tokenizer of f8 around a head; the arguments are those of its networks."""
    torch.manual_seed(0)
    size = {"channels": 16, "multipliers": (1, 1), "num_blocks": 1, "attention": (), "dim": 16, "patch": 4} | arguments
    maps = torch.nn.Conv2d(16, head.dim, 1), torch.nn.Conv2d(head.dim, 16, 1)
    return vistok.Tokenizer(CNNEncoder(**size), head, CNNDecoder(**size), *maps).eval()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A folder with what pages name: runs, an evaluation, a photo. Tokenizers have random weights."""
    folder = tmp_path_factory.mktemp("scratch")
    plain = small(VectorQuantizer(1024, 4))
    for name in ("RUN", "runs/sample/TIME"):
        native.save(plain, folder / name / "tokenizer")
    vqgan = small(VectorQuantizer(64, 4), channels=32, patch=1, multipliers=(1, 2), attention=(1,))  # for diffusers
    native.save(vqgan, folder / "runs/NAME/TIME/tokenizer")
    dynamic = DynamicQuantizer(VectorQuantizer(1024, 4), FeatureRouter(4, 2, groups=2), rates=[0.5])
    native.save(small(dynamic), folder / "runs/dqvae/TIME/tokenizer")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(folder / "photo.jpg")
    tokens = ["--images", str(folder), "--out", str(folder / "TOKENS"), "--num-workers", "0"]
    program.main(["tokenize", str(folder / "RUN"), *tokens])
    small_tokens = [folder / "TOKENS64" if word == str(folder / "TOKENS") else word for word in tokens]
    program.main(["tokenize", str(folder / "RUN"), *map(str, small_tokens), "--image-size", "64"])
    values = {
        "names": np.array(["a"]),
        "sha256": np.array(["0" * 64]),
        "0/canonical/psnr": np.ones(1),
        "0/adm/tokens": np.ones(1),
    }
    (folder / "evaluations").mkdir()
    np.savez(folder / "evaluations" / "TIME.npz", **values, **{"0/adm/counts/0": np.ones(1024)})
    for name in ("a", "b"):  # two more, of twenty images
        own = {"tokenizer": name, "protocol": "canonical", "metrics": {"psnr": 24.0}}
        content = {
            "protocols": {"canonical": {"hash": "634fd2ad", "distances": ["psnr"]}},
            "tokenizers": [{"tokenizer": name, "sha256": name}],
            "scores": [own],
            "data": {"images": 20, "sha256_of_names": "0"},
        }
        write_json(content, folder / "evaluations" / f"{name}.json")
        names = np.array([f"{i}.png" for i in range(20)])
        np.savez(folder / "evaluations" / f"{name}.npz", **{"names": names, "0/canonical/psnr": rng.normal(24, 3, 20)})
    for block in BLOCKS:
        if block.title:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    return folder


TEXTS = [
    *PAGES,
    *(path for name in ("tokenizers", "benchmarks", "configs") for path in (ROOT / name).rglob("*") if path.is_file()),
]
MENTION = re.compile(r"python -m vistok(?: |\.)([^`\"'\n(;:]*)")
PLACEHOLDERS = ("VERB", "--help", "--version", "{name}", "{")


def test_every_mention_of_a_command_is_one():
    """In pages, docstrings, messages and comments: the verb, and the flags beside it."""
    mentions = 0
    for path in TEXTS:
        if path.suffix not in (".md", ".py", ".yaml") or path.name == "changelog.md":
            continue
        for found in MENTION.finditer(path.read_text()):
            words = found[1].split()
            if not words or words[0].startswith(PLACEHOLDERS):
                continue
            name = " ".join(words[:2]) if words[0] in program.NOUNS else words[0]
            verb = name.rstrip(".,)")
            assert verb in program.COMMANDS or verb.endswith(" --help"), (path, found[0])
            mentions += 1
            flags = [word.rstrip(".,)") for word in words if word.startswith("--")]
            if flags and verb in program.COMMANDS and verb not in program.HYDRA:
                parser = importlib.import_module(program.COMMANDS[verb][0]).parser()
                assert set(flags) <= {*parser._option_string_actions}, (path, found[0])
    assert mentions > 60


class Hub:
    """In place of the Hugging Face hub."""

    def create_repo(self, repo_id, private, exist_ok):
        pass

    def upload_folder(self, repo_id, folder_path, commit_message):
        assert (Path(folder_path) / "config.json").is_file()
        return f"https://hub/{repo_id}"


PYTHON = {
    page: [block for block in BLOCKS if block.page == page and block.language == "python" and not block.title]
    for page in dict.fromkeys(block.page for block in BLOCKS)
}


@pytest.mark.parametrize("page", [page for page, blocks in PYTHON.items() if blocks])
def test_python_runs(page, scratch, monkeypatch):
    """The blocks of a page one after the other, as a reader would type them."""
    monkeypatch.chdir(scratch)
    monkeypatch.syspath_prepend(scratch)
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    names = {"__name__": page}
    for i, block in enumerate(PYTHON[page]):
        code = compile(block.text, page, "exec")
        if (page, i) in NOT_RUN:
            check_calls(block.text, names)
        else:
            exec(code, names)


def check_calls(text, names):
    """That the functions it calls are there, and take the arguments that it has."""
    tree = ast.parse(text)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "imports", "exec"), names)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert calls
    for call in calls:
        function = eval(ast.unparse(call.func), names)
        inspect.signature(function).bind(*call.args, **{keyword.arg: keyword.value for keyword in call.keywords})


def test_the_own_head_trains(scratch, train, tmp_path, monkeypatch):
    """Two updates with the head of docs/own-head.md, alone and in a factorized one; vistok.load needs no such class."""
    monkeypatch.syspath_prepend(scratch)
    search = f"hydra.searchpath=[file://{scratch / 'configs'}]"
    run = train(tmp_path / "run", search, "quantizer=deep", "loss=l1")
    tokenizer = vistok.load(run)
    assert type(tokenizer.quantizer) is VectorQuantizer and tokenizer.quantizer.codebook_sizes == (16,)
    head = next(block for block in BLOCKS if block.title == "my_head.py")
    assert len(head.text.splitlines()) <= 45
    nested = train(tmp_path / "nested", search, "quantizer=fq", "quantizer@quantizer.head=deep", "loss=l1")
    assert vistok.load(nested).quantizer.codebook_sizes == (16, 16)
    rounded = train(tmp_path / "rounded", search, "quantizer=levels", "loss=l1")
    assert vistok.load(rounded).quantizer.codebook_sizes == (5**4,)


def test_the_table_of_keys_is_the_config(compose):
    rows = re.findall(r"^\| `(\w+)` \| (`name`|`image_size`|`latent_dim`|`updates`|`every`)(.*) \|$",
                      (ROOT / "docs" / "training.md").read_text(), re.MULTILINE)  # fmt: skip
    config = compose("train")
    assert [node for node, *_ in rows] == ["run", "data", "model", "optim", "log"]
    for node, first, others in rows:
        named = re.findall(r"`(\w+)`", first + others.partition(", and those")[0])
        assert named == [name for name in config[node] if node != "data" or name not in ("_target_", "num_workers")]


def test_no_block_is_untested():
    """Languages that tests read, and output, which is quoted."""
    assert {block.language for block in BLOCKS} <= {"bash", "python", "yaml", ""}
    for block in BLOCKS:
        if block.language == "yaml":
            assert yaml.safe_load(block.text)
    assert len(commands()) > 60 and sum(map(len, PYTHON.values())) > 8


def slug(heading):
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def headings(page):
    prose = FENCE.sub("", page.read_text())
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", prose, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    """Files, and headings as GitHub and the site name them; also the paths in the text."""
    prose = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"\w+:", target):
            assert target.startswith("https://"), target
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file) if file else page
        assert path.exists(), target
        if anchor and path.suffix == ".md" and "vistok." not in anchor:
            assert anchor in headings(path), target
    for path in re.findall(r"`((?:tests|benchmarks|configs|docs)/[\w./-]+)`", prose):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`(vistok/[\w./-]+)`", prose):
        assert (ROOT / "tokenizers" / path).exists(), path


def test_lists_are_those_of_the_code():
    """API pages with every public name, their navigation, groups of configs, commands."""
    lists = runpy.run_path(str(ROOT / "docs" / "assets" / "lists.py"))
    pages = lists["pages"]()
    differing = [str(path) for path, text in pages.items() if not path.exists() or path.read_text() != text]
    assert not differing, "python docs/assets/lists.py writes them"
    assert {path for path in pages if path.parent.name == "api"} == set((ROOT / "docs" / "api").glob("*.md"))
    assert not lists["unlisted"]()


WINGS = ("backbones", "codec", "data", "evaluation", "losses", "metrics", "quantizers", "tokens")


@pytest.mark.parametrize("wing", WINGS)
def test_public_names_are_on_their_page(wing):
    page = (ROOT / "docs" / "api" / f"{wing}.md").read_text()
    names = importlib.import_module(f"vistok.{wing}").__all__
    assert names and [name for name in names if f"::: vistok.{wing}.{name}\n" not in page] == []


def test_the_site_builds_without_a_warning(site):
    """In strict mode: links, anchors, pages that are nowhere in the navigation. It asks no other host for anything."""
    pages = [path for path in site.rglob("*.html")]
    assert len(pages) > 30
    for path in pages:
        asked = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"?(https?://[^\s\">]+)", path.read_text())
        assert not asked, (path.name, asked)
    for path in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?https?:", path.read_text()), path


def test_the_citation_is_whole():
    """The fields that the Citation File Format 1.2.0 asks for, and the version of the package."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    known = {"abstract", "authors", "cff-version", "keywords", "license", "message", "title", "type", "version"}
    assert citation.keys() <= known and citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["authors"] == [{"name": "The vistok authors"}] and citation["version"] == vistok.__version__
