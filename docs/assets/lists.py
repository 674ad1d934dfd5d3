"""Lists in the documentation that are made from the code: API pages, their navigation, config groups, commands.

    python docs/assets/lists.py    # writes them; tests/test_docs.py fails where one is not up to date

A list stands between two comments in its page, or is the whole page.
"""

import inspect
import re
import runpy
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import ModuleType

from omegaconf import OmegaConf

import vistok
from vistok.__main__ import COMMANDS
from vistok.evaluation import Protocol

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "tokenizers" / "vistok"
HINT = "made by docs/assets/lists.py"
BEGIN, END = f"<!-- {HINT} -->", "<!-- end -->"
BESIDE = {  # further names of a page, beside those in __all__ of its package, by heading
    "quantizers": {
        "Sequences of a dynamic head": ("sequences.pack", "sequences.unpack"),
        "Parts of heads": ("base.quantize", "base.lookup", "base.check_codes", "code_statistics.entropy"),
    },
    "data": {"Batches": ("batches.Batch",)},
    "evaluation": {"From a config": ("evaluate.evaluate",)},
    "formats": {"Our folder": ("native.save", "native.push_to_hub"), "Exports": ("exporters.*.save*",)},
    "training": {"From Python": ("from_python.train",), "The module": ("module.LitTokenizer", "schedules.Schedule")},
    "untrusted": {"Checkpoints": ("torch_files.read_tensors",)},
}
GROUPS = {  # in configs/: its name on the command line where it is another, and the part that it sets
    "backbone": ("", "encoder and decoder: see [Backbones](backbones.md)"),
    "quantizer": ("", "the head: see [Heads](heads.md)"),
    "estimator": ("", "the gradient estimator of the codeword choice"),
    "loss": ("", "losses of images and latents, adversary and their weights: see [Losses](losses.md)"),
    "discriminator": ("discriminator@loss.adversary.discriminator", "the discriminator of a loss"),
    "data": ("", "images: see [Data](data.md)"),
    "schedule": ("", "learning rate over the run"),
    "trainer": ("", "hardware: see [Clusters](cluster.md) for `ddp` and `fsdp`"),
    "speed": (
        "",
        "`exact` is float32; `fast` adds bfloat16 and other accelerations, and is the default of `gpu` and `ddp`: "
        "see [Performance](performance.md)",
    ),
    "logger": ("", "further logs besides `metrics.csv`"),
    "experiment": ("", "a recipe: see [Recipes](recipes.md)"),
}
PROTOCOLS = ("canonical", "llamagen", "openmagvit2", "ibq", "titok", "fvq", "vqgan_lc")  # in this order
MOST = 22  # choices that are listed


def api_pages() -> dict[str, str]:
    """Text of the API pages by name: one for each package with public names, and the index."""
    pages = {}
    for name in sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")):
        package = import_module(f"vistok.{name}")
        own = entries([f"vistok.{name}.{public}" for public in in_order(package)])
        for heading, patterns in BESIDE.get(name, {}).items():
            found = [known for pattern in patterns for known in matching(f"vistok.{name}.{pattern}")]
            own += f"\n## {heading}\n{entries(found)}"
        if own:
            pages[name] = f"# vistok.{name}\n\n{package.__doc__.strip()}\n{own}"
    rows = "".join(f"| [`vistok.{name}`]({name}.md) | {first_line(f'vistok.{name}')} |\n" for name in pages)
    return {"index": f"# vistok\n\n{index_text()}\n\n| | |\n| --- | --- |\n{rows}{index_entries()}"} | pages


def index_text() -> str:
    """Introduction of the index, with the heads that have their place on another page."""
    heads = ", ".join(f"[`{name}`](quantizers.md#vistok.quantizers.{name})" for name in sorted(heads_at_top()))
    return (
        "What `import vistok` offers: names such as `vistok.load`, and packages such as `vistok.losses`, each imported "
        f"at its first use. The heads are names of `vistok` too: {heads}."
    )


def index_entries() -> str:
    """Entries of the public names that no other page has, and of the result of a tokenizer's ``forward``."""
    names = [f"vistok.{name}" for name in in_order(vistok) if name not in heads_at_top()]
    return entries([*names, "vistok.tokenizer.Autoencoded"])


def heads_at_top() -> set[str]:
    return set(vistok.__all__) & set(vistok.quantizers.__all__)


def entries(names: list[str]) -> str:
    return "".join(f"\n::: {name}\n" for name in names)


def in_order(package: ModuleType) -> list[str]:
    """Public names of a package, sorted by module and line."""

    def place(name: str) -> tuple[str, int]:
        own = getattr(package, name)
        return own.__module__, inspect.getsourcelines(own)[1]

    return sorted(getattr(package, "__all__", []), key=place)


def matching(pattern: str) -> Iterator[str]:
    """Full names of functions and classes that match a pattern, such as ``vistok.formats.exporters.*.save*``."""
    module, _, name = pattern.rpartition(".")
    paths = PACKAGE.parent.glob(module.replace(".", "/") + ".py")
    for path in sorted(paths):
        home = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for public, own in vars(import_module(home)).items():
            if getattr(own, "__module__", None) == home and re.fullmatch(name.replace("*", r"\w*"), public):
                yield f"{home}.{public}"


def first_line(module: str) -> str:
    return import_module(module).__doc__.strip().partition("\n")[0].removesuffix(".")


def navigation() -> str:
    """Navigation of the API pages in ``mkdocs.yml``."""
    return "".join(f"      - api/{name}.md\n" for name in api_pages())


def groups() -> str:
    """Table of the groups of ``configs/train.yaml`` and their choices."""
    lines = ["| group | choices | sets |", "| --- | --- | --- |"]
    defaults = {
        k: v
        for own in OmegaConf.load(ROOT / "configs" / "train.yaml").defaults
        if own != "_self_"
        for k, v in own.items()
    }
    for name, (called, about) in GROUPS.items():
        choices = sorted(path.stem for path in (ROOT / "configs" / name).glob("*.yaml"))
        shown = ", ".join(f"`{choice}`" for choice in choices)
        if len(choices) > MOST:
            shown = f"`{defaults.get(name) or choices[-1]}` and {len(choices) - 1} more"
        lines.append(f"| `{called or name}` | {shown} | {about} |")
    return "\n".join(lines)


def unlisted() -> set[str]:
    """Groups in ``configs`` that neither the table nor ``eval.yaml`` has."""
    found = {path.parent.name for path in (ROOT / "configs").glob("*/*.yaml")}
    defaults = OmegaConf.load(ROOT / "configs" / "eval.yaml").defaults
    return found - set(GROUPS) - {name for own in defaults if own != "_self_" for name in own}


def commands() -> str:
    """Table of the commands of ``python -m vistok``."""
    rows = [f"| `{name}` | {about} |" for name, (_, about) in COMMANDS.items()]
    return "\n".join(["| `python -m vistok` | |", "| --- | --- |", *rows])


def protocols() -> str:
    """Table of the presets in ``configs/protocol``: a row for each choice, with the values of the files."""
    presets = {
        path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in (ROOT / "configs/protocol").glob("*")
    }
    names = [name for name in PROTOCOLS if name in presets] + sorted(presets.keys() - set(PROTOCOLS))
    own = {name: Protocol(**{k: v for k, v in presets[name].items() if k != "_target_"}) for name in names}
    lines = [
        f"| | {' | '.join(f'[`{name}`](protocols/{name}.md)' for name in names)} |",
        "| --- |" + " --- |" * len(names),
    ]
    lines.append(f"| hash | {' | '.join(own[name].hash for name in names)} |")
    for field in fields(Protocol):
        values = (getattr(own[name], field.name) for name in names)
        shown = ("–" if v in (None, ()) else " ".join(v) if isinstance(v, tuple) else str(v) for v in values)
        lines.append(f"| `{field.name}` | {' | '.join(shown)} |")
    return "\n".join(lines)


def filled(path: Path, content: str, begin: str = f"{BEGIN}\n\n", end: str = f"\n\n{END}") -> str:
    """Text of a page with a list in its place."""
    before, found, rest = path.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{path} has no place for its list: {begin.strip()} ... {end.strip()}")
    return f"{before}{begin}{content}{end}{after}"


def pages() -> dict[Path, str]:
    """Text of every file with a list in it."""
    found = {DOCS / "api" / f"{name}.md": text for name, text in api_pages().items()}
    site = ROOT / "mkdocs.yml"
    found[site] = filled(site, navigation(), f"      # {HINT}\n", "      # end\n")
    families = runpy.run_path(str(DOCS / "assets" / "families.py"))["table"]()
    contents = {"training": groups(), "quickstart": commands(), "evaluation": protocols(), "import": families}
    for name, content in contents.items():
        found[DOCS / f"{name}.md"] = filled(DOCS / f"{name}.md", content)
    return found


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
