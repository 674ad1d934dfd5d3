"""Rows of ``metrics.csv``."""

import csv
import io
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row] | None:
    """Rows of a metrics file, without an unfinished last row; None if the file has other content."""
    try:
        text = path.read_bytes().decode()
        lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)
        rows = list(csv.DictReader(lines, strict=True))
        complete = all(None not in row and None not in row.values() and int(row["step"]) >= 0 for row in rows)
    except (ValueError, KeyError, csv.Error):
        return None
    return rows if rows and complete else None


def text_of(rows: list[Row], columns: list[str]) -> str:
    """Rows as CSV text."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def is_validation(row: Row) -> bool:
    """True if a row is of a validation rather than of a training batch."""
    return any(value for name, value in row.items() if name.startswith("val/"))
