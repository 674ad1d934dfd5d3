"""Learnability of the tokens of several tokenizers, side by side.

    python -m vistok probe TOKENS --out PROBE.json ...    # for each of them
    python benchmarks/generator.py PROBE.json OTHER.json ...

Prints the reports as one Markdown table: the same generator, images and updates for all, so that bits of an image can
be compared. Refuses reports of other settings or image sizes.
"""

import argparse
import json
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path, help="files that python -m vistok probe wrote")
    reports = {path.stem: json.loads(path.read_text()) for path in parser.parse_args().reports}
    first = next(iter(reports.values()))
    for name, report in reports.items():
        for key in ("settings", "image_size", "images"):
            if report[key] != first[key]:
                raise SystemExit(f"{name} has {key}={report[key]}, not {first[key]}")
    rows = list(first["bits"])
    of_samples = [
        (protocol, score) for protocol, own in first.get("generation", {}).items() for score in own if score != "images"
    ]
    titles = ["", "tokens", *(f"bits of an image: {row}" for row in rows), *(f"{s}, {p}" for p, s in of_samples)]
    print("| " + " | ".join(titles) + " |\n" + "| --- " * len(titles) + "|")
    for name, report in reports.items():
        cells = [f"`{name}`", f"{report['tokens_per_image']:.1f}"]
        for row in rows:
            own = report["bits"][row]["per_image_of_seeds"]
            spread = f" ({min(own):.0f} to {max(own):.0f})" if len(own) > 1 else ""
            cells.append(f"{report['bits'][row]['per_image']:.0f}{spread}")
        cells += [f"{report['generation'][protocol][score]:.1f}" for protocol, score in of_samples]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
