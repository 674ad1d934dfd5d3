"""The list of runs, finished, interrupted and damaged."""

import csv
import json
import os
import re

import pytest

from vistok.commands import runs


def lines(capsys, folder):
    runs.main([str(folder)])
    return re.sub(r"\s+", " ", capsys.readouterr().out)


def test_a_finished_and_an_interrupted_run(train, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run = train(tmp_path / "runs" / "sample" / "first")
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    other = tmp_path / "runs" / "second"
    other.mkdir()
    for name in ("config.yaml", "metrics.csv"):
        (other / name).write_bytes((run / name).read_bytes())
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("updates: 2\n", "updates: 5000\n", 1))
    for folder, began in ((run, 100), (other, 200)):
        os.utime(folder / "config.yaml", (began, began))
    capsys.readouterr()
    printed = lines(capsys, tmp_path / "runs")
    scores = f"{metrics['psnr']:.2f} {metrics['ssim']:.3f} {100 * metrics['usage']:.1f}"
    first, second = printed.index("sample/first"), printed.index(" second ")
    assert second < first and printed.count(scores) == 2
    assert f" 2 of 5,000 {scores}" in printed and re.search(rf" 2 0:\d\d {scores}", printed)
    assert " sample " in printed and "32 px" in printed
    assert lines(capsys, run).count(scores) == 1
    for kind in ("csv", "html"):
        runs.main([str(tmp_path / "runs"), "--out", str(tmp_path / f"out.{kind}")])
    table = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [(row["run"], row["updates"], row["planned"]) for row in table] == [
        ("second", "2", "5000"),
        ("sample/first", "2", "2"),
    ]
    assert [float(row["psnr"]) for row in table] == pytest.approx([metrics["psnr"]] * 2)
    page = (tmp_path / "out.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "<td>2 of 5,000</td>" in page


def test_damaged_files_are_empty_cells(tmp_path, capsys):
    for name, files in {
        "a": {"config.yaml": b"\xff", "metrics.json": b"{"},
        "b": {"config.yaml": b"[1]", "metrics.json": b'{"metrics": {"psnr": "x"}}', "metrics.csv": b"nothing"},
        "c": {"config.yaml": b"data: 3\nmodel: x\noptim: {updates: many}"},
    }.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_bytes(content)
    printed = lines(capsys, tmp_path)
    assert all(f" {name} " in printed for name in "abc")
    assert lines(capsys, tmp_path / "a") and "no runs in" in lines(capsys, _empty(tmp_path))


def _empty(tmp_path):
    (tmp_path / "a" / "nothing").mkdir()
    return tmp_path / "a" / "nothing"


def test_in_a_narrow_terminal_a_name_is_a_line_of_its_own(tmp_path, capsys, monkeypatch):
    name = "photos-simvq-" + "lr0.001-" * 12 + "end"
    report = {"updates": 12, "seconds": 75.0, "metrics": {"psnr": 24.5678, "ssim": 0.71234, "usage": 0.915}}
    config = "data: {root: '[red]', image_size: 64}\nmodel: {codebook_size: 16}\n"
    for run, values in ((name, report), ("other", report | {"updates": 2500})):
        (tmp_path / run).mkdir()
        (tmp_path / run / "config.yaml").write_text(config)
        (tmp_path / run / "metrics.json").write_text(json.dumps(values))
        os.utime(tmp_path / run / "config.yaml", (len(run), len(run)))
    monkeypatch.setenv("COLUMNS", "80")
    runs.main([str(tmp_path)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[2:] == [
        "  updates  time  PSNR   SSIM   used, %",
        "",
        name,
        "  12       1:15  24.57  0.712  91.5      16, 64 px  [red]",
        "other",
        "  2,500    1:15  24.57  0.712  91.5      16, 64 px  [red]",
    ]
    monkeypatch.setenv("COLUMNS", "240")
    runs.main([str(tmp_path)])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if name in line]
    assert row.split() == [name, "[red]", "16,", "64", "px", "12", "1:15", "24.57", "0.712", "91.5"]
