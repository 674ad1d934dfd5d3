"""Every head and nesting of heads into every export target: what each makes of it, as a table for docs/export.md.

    python benchmarks/export_matrix.py            # prints the table; minutes, since graphs are traced
    python benchmarks/export_matrix.py --write    # also puts it into docs/export.md

The heads are those that have a YAML in ``configs/quantizer``; each single one also stands in ``fq`` and in
``dqvae``, and some stand in others.
"""

import argparse
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import hydra
import torch
from torch import nn

from vistok import Tokenizer, configuration
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.commands.export import TARGETS
from vistok.quantizers import JanusQuantizer

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "export.md"
BEGIN, END = "<!-- made by benchmarks/export_matrix.py -->", "<!-- end -->"
COMPOSITES = ("fq", "dqvae", "dqvae_entropy", "dqvae_triple", "residual", "multiscale", "multiscale_bsq", "masked")
NESTED = (("fq", "residual"), ("dqvae", "residual"), ("multiscale", "residual"), ("residual", "simvq"))
SMALL = ("model.codebook_size=64", "model.latent_dim=8")
OWN = {  # what makes them small
    "vqbridge": ("{}.size=XS", "{}.patch=2"),
    "dqvae_entropy": ("{}.router.patch=4",),
}
ONE_SIZE = ", for one size"
EXPECTED = {  # of targets with one table: what the reason for a refusal says, in a word or two
    "computed": "no table",
    "dot product": "no distances",
    "product of": "several tables",
    "sum of": "several tables",
    "dynamic": "dynamic",
    "several scales": "several scales",
    "unit length": "unit codewords only",
    "two kinds": "two tables",
    "decodes another": "two tables",
    "depend on the mask": "reads the mask",
    "reads mask beside": "reads the mask",
    "beside the latent": "reads the image",
}


def heads() -> dict[str, tuple[str, ...]]:
    """The overrides of each head's config, by name."""
    names = sorted(path.stem for path in (ROOT / "configs" / "quantizer").glob("*.yaml"))
    singles = [name for name in names if name not in COMPOSITES]
    found = {name: (f"quantizer={name}", *of(name, "quantizer")) for name in names}
    for outer, inner in (*((outer, inner) for outer in ("fq", "dqvae") for inner in singles), *NESTED):
        nested = ("quantizer@quantizer.head=" + inner, *of(inner, "quantizer.head"))
        found[f"{outer} of {inner}"] = (f"quantizer={outer}", *nested)
    return found


def of(name: str, place: str) -> tuple[str, ...]:
    return tuple(word.format(place) for word in OWN.get(name, ()))


def tokenizer_of(overrides: Iterable[str], channels: int = 3) -> Tokenizer:
    """An f2 VQGAN, which every target has a place for, around a head whose codewords lie where latents are.

    Args:
        overrides: Of the config; empty for the head that Janus' files have, which has none.
        channels: Of images.
    """
    torch.manual_seed(0)
    size = {"channels": 32, "multipliers": (1, 2), "num_blocks": 1, "attention": (1,), "dim": 16}
    if overrides:
        with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            config = hydra.compose("train", overrides=[*SMALL, *overrides])
        head = configuration.instantiate(config.quantizer)
    else:
        head = JanusQuantizer(64, 8)
    for stored in head.state_dict(keep_vars=True).values():
        if stored.is_floating_point() and stored.ndim > 1:
            nn.init.normal_(stored, std=0.3)
    maps = nn.Conv2d(16, head.input_dim or head.dim, 1), nn.Conv2d(head.dim, 16, 1)
    nn.init.normal_(maps[0].weight, std=0.5)
    networks = CNNEncoder(in_channels=channels, **size), CNNDecoder(out_channels=channels, **size)
    return Tokenizer(networks[0], head, networks[1], *maps).eval()


def attempt(tokenizer: Tokenizer, target: str, folder: Path) -> tuple[bool, str]:
    """Export, which loads and compares: whether it went well, and what was said."""
    one_size = target in ("onnx", "torch") and several_scales(tokenizer)
    try:
        said = str(TARGETS[target](tokenizer, folder, image_size=16 if target == "janus" or one_size else None))
        return True, said + ONE_SIZE * one_size
    except ValueError as error:
        return False, str(error)


def several_scales(tokenizer: Tokenizer) -> bool:
    return len(tokenizer.quantizer.layout(*tokenizer.quantizer.example_grid).grids) > 1


def in_words(works: bool, said: str) -> str:
    """A cell of the table."""
    if works:
        return "yes, by L2" if "chosen by L2" in said else "yes" + ONE_SIZE * said.endswith(ONE_SIZE)
    return "no: " + next(short for word, short in EXPECTED.items() if word in said)


def table(results: dict[str, dict[str, str]]) -> str:
    """In Markdown."""
    targets = list(next(iter(results.values())))
    lines = ["| head | " + " | ".join(f"`{target}`" for target in targets) + " |", "| --- " * (len(targets) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(own.values()) + " |" for name, own in results.items()]
    return "\n".join(lines)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--write", action="store_true", help="put the table into docs/export.md")
    asked = words.parse_args()
    results: dict[str, dict[str, str]] = {}
    for name, overrides in {**heads(), "imported from Janus": ()}.items():
        tokenizer = tokenizer_of(overrides)
        with tempfile.TemporaryDirectory() as folder:
            results[name] = {t: in_words(*attempt(tokenizer, t, Path(folder) / t)) for t in TARGETS}
        print(name, results[name], flush=True)
    print(table(results))
    if asked.write:
        text = PAGE.read_text()
        before, _, rest = text.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{rest.partition(END)[2]}")


def documented() -> dict[str, dict[str, str]]:
    """The table in docs/export.md."""
    lines = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    first, _, *rest = [[cell.strip() for cell in re.split(r"\s*\|\s*", line.strip("| "))] for line in lines]
    targets = [cell.strip("`") for cell in first[1:]]
    return {name: dict(zip(targets, cells, strict=True)) for name, *cells in rest}


if __name__ == "__main__":
    main()
