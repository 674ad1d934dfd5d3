"""Tables of runs with their scores: for the terminal, as CSV, and as one HTML page with the pictures of each run."""

import base64
import csv
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from vistok.terminal import duration, say, visible
from vistok.training.run_facts import MOST_BYTES, RunFacts

SCORES = {"psnr": ("PSNR", 1, 2), "ssim": ("SSIM", 1, 3), "usage": ("used, %", 100, 1)}  # label, factor, digits
PICTURES = ("reconstructions.png", "curves.png", "codebook.png")
EXCLUDED = ("images", "tokens")  # what is counted, not scored
MOST_COLUMNS = 10_000  # of a terminal: as wide as any table


def name_in(folder: Path, run: RunFacts) -> str:
    """Path of a run in a folder of runs."""
    return str(run.folder.relative_to(folder) if run.folder != folder else run.folder)


def updates_of(run: RunFacts) -> str:
    """Updates of a run, and of how many if it has not ended."""
    return f"{run.updates:,}" if run.updates >= run.planned else f"{run.updates:,} of {run.planned:,}"


def print_table(console: Console, folder: Path, runs: Sequence[RunFacts], settings: bool = True) -> None:
    """Prints a row for each run; in a narrow terminal a line for its name, complete, and one for its values.

    Args:
        console: Where to print.
        folder: Folder of the runs.
        runs: The runs.
        settings: True adds their data and tokenizers.
    """
    table = Table("run", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    values = ("updates", "time", *(label for label, _, _ in SCORES.values()))
    for name in (*(("data", "tokenizer") if settings else ()), *values):
        table.add_column(name)
    names: list[str] = []
    facts: list[list[str]] = []
    rows: list[tuple[str, ...]] = [values]
    for own in runs:
        names.append(visible(name_in(folder, own)))
        facts.append([visible(own.data), visible(own.settings)] if settings else [])
        time = "" if own.seconds is None else duration(own.seconds)
        rows.append((updates_of(own), time, *(_score(own, name) for name in SCORES)))
        table.add_row(*map(escape_markup, (names[-1], *facts[-1], *rows[-1])))
    if console.measure(table, options=console.options.update_width(MOST_COLUMNS)).maximum <= console.width:
        console.print(table)
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)) for row in rows]
    say(f"\n  {lines[0]}\n", console=console)
    for name, line, own in zip(names, lines[1:], facts, strict=True):
        say(f"{name}\n  {'  '.join([line, *reversed(own)]).rstrip()}", console=console)


def _score(run: RunFacts, name: str) -> str:
    _, factor, digits = SCORES[name]
    value = run.scores.get(name, _mean_usage(run) if name == "usage" else None)
    return "" if value is None else f"{value * factor:.{digits}f}"


def _mean_usage(run: RunFacts) -> float | None:
    """Mean usage of several codebooks."""
    found = [value for name, value in run.scores.items() if name.removeprefix("usage_").isdecimal()]
    return sum(found) / len(found) if found else None


def csv_text(folder: Path, runs: Sequence[RunFacts]) -> str:
    """A row for each run, with all of its scores and the arguments that started it."""
    names = list(dict.fromkeys(name for run in runs for name in run.scores))
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["run", "data", "tokenizer", "updates", "planned", "seconds", *names, "arguments"])
    for run in runs:
        facts = [name_in(folder, run), run.data, run.settings, run.updates, run.planned]
        facts += ["" if run.seconds is None else run.seconds, *(run.scores.get(name, "") for name in names)]
        writer.writerow([*facts, " ".join(run.arguments or ())])
    return file.getvalue()


def html_page(folder: Path, runs: Sequence[RunFacts], command: str = "") -> str:
    """Comparison of runs as one file: their scores side by side, the best in bold, and the pictures of each.

    Args:
        folder: Folder of the runs.
        runs: The runs.
        command: Command that evaluates them anew; empty for none.
    """
    from vistok.evaluation.report import inline_files

    names = [name for name in dict.fromkeys(n for run in runs for n in run.scores) if name not in EXCLUDED]
    head = "".join(f"<th>{escape(name)}</th>" for name in ("run", "updates", "time", *names))
    rows = []
    for run in runs:
        time = "" if run.seconds is None else duration(run.seconds)
        cells = [f"<td>{updates_of(run)}</td>", f"<td>{time}</td>"]
        cells += [_cell(run.scores.get(name), name, [own.scores.get(name) for own in runs]) for name in names]
        rows.append(f"<tr><th>{escape(visible(name_in(folder, run)))}</th>{''.join(cells)}</tr>")
    body = (
        f"<h1>Runs in {escape(visible(str(folder)))}</h1>\n<p>Scores of the last validation of each run, on its own "
        "held-out images; the best of each is bold. They compare only where the images are the same.</p>\n"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>\n'
    )
    if command:
        body += f"<p>The same images for all, with intervals:</p><pre>{escape(command)}</pre>\n"
    for run in runs:
        body += f"<h2>{escape(visible(name_in(folder, run)))}</h2>\n"
        if run.arguments:
            body += f"<p>{escape(visible(' '.join(run.arguments)))}</p>\n"
        body += "".join(_picture(run.folder / name) for name in PICTURES)
    return inline_files.document(f"Runs in {folder}", body)


def _cell(value: float | None, name: str, others: Sequence[float | None]) -> str:
    from vistok.metrics.units import better

    if value is None:
        return '<td class="none">–</td>'
    text, direction = f"{value:.4g}", better(name) or ("higher" if name.startswith("usage") else None)
    known = [own for own in others if own is not None]
    best = {"higher": max, "lower": min}[direction](known) if direction and "ceiling" not in name else None
    return f"<td><strong>{text}</strong></td>" if value == best and len(known) > 1 else f"<td>{text}</td>"


def _picture(file: Path) -> str:
    if not file.is_file() or file.stat().st_size > MOST_BYTES:
        return ""
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<figure><img class="plot" alt="{file.stem}" src="data:image/png;base64,{data}"></figure>\n'
