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
    rows = list(dict.fromkeys(row for report in reports.values() for row in report["bits"]))
    of_samples = [
        (kind, protocol, score)
        for kind in ("", "next scale")
        for protocol, score in dict.fromkeys(
            (protocol, score)
            for report in reports.values()
            for protocol, own in of_kind(report, kind).items()
            for score in own
            if score != "images"
        )
    ]
    named = [", ".join(filter(None, (score, protocol, kind))) for kind, protocol, score in of_samples]
    print("| " + " | ".join(["", "tokens", *(f"bits of an image: {row}" for row in rows), *named]) + " |")
    print("| --- " * (2 + len(rows) + len(named)) + "|")
    for name, report in reports.items():
        cells = [f"`{name}`", f"{report['tokens_per_image']:.1f}"]
        for row in rows:
            own = report["bits"].get(row, {}).get("per_image_of_seeds", [])
            spread = f" ({min(own):.0f} to {max(own):.0f})" if len(own) > 1 else ""
            cells.append(f"{sum(own) / len(own):.0f}{spread}" if own else "–")
        for kind, protocol, score in of_samples:
            value = of_kind(report, kind).get(protocol, {}).get(score)
            cells.append("–" if value is None else f"{value:.1f}")
        print("| " + " | ".join(cells) + " |")


def of_kind(report: dict, kind: str) -> dict:
    """Scores of samples by protocol: of the probe, or of the next-scale model."""
    return (report.get("next_scale", {}) if kind else report).get("generation", {})


if __name__ == "__main__":
    main()
