"""The study's runs can be composed, and its report shows every one of them, also failed and missing ones."""

import json
import sys
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

ROOT = Path(__file__).parent.parent


@pytest.fixture
def study(monkeypatch):
    """``plan``, ``run`` and ``report`` of benchmarks/study."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "study")
    import plan
    import report
    import run

    yield plan, run, report
    for name in ("plan", "run", "report"):
        del sys.modules[name]


def test_every_run_has_its_own_name_and_composes(study):
    plan, _, _ = study
    names = [run.name for run in plan.RUNS]
    assert len(set(names)) == len(names) >= 24
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for run in plan.RUNS[::5]:
            config = hydra.compose("train", [*run.words, "data=sample"])
            assert config.optim.updates == 2000 and config.run.seed == run.seed
            bits = plan.SIZES[run.size].bit_length() - 1
            assert (
                config.model.latent_dim == bits
                if run.head == "bsq"
                else config.model.codebook_size == plan.SIZES[run.size]
            )


def test_names_and_sections_choose_runs(study):
    plan, _, _ = study
    assert {run.size for run in plan.chosen(["collapse"])} == {"65k"}
    assert [run.name for run in plan.chosen(["vq, 16k"])] == ["vq, 16k"]
    assert plan.chosen([]) == plan.RUNS
    with pytest.raises(ValueError, match="no such run: vq 16k; there are the sections annealing"):
        plan.chosen(["vq 16k"])


def test_the_report_has_a_row_for_every_run(study, tmp_path, monkeypatch):
    plan, run, report = study
    runs, out = tmp_path / "runs", tmp_path / "out"
    out.mkdir()
    done, failed = plan.chosen(["fq, 16k"])[0], plan.chosen(["vq, 65k"])[0]
    folder = run.folder_of(done, runs)
    folder.mkdir(parents=True)
    metrics = {"bits_per_image": 1280, "bits_per_image_entropy": 1151.2, "psnr": 21.234}
    metrics |= {"stlpips": 0.1, "frechet_mobilenet_v2": 300.04}
    usage = {"usage_0": 0.5, "usage_1": 0.25, "usage_ceiling_0": 1, "usage_ceiling_1": 1}
    usage |= {"perplexity_0": 2000.0, "perplexity_1": 3.0}
    (folder / "result.json").write_text(json.dumps({"metrics": metrics, "usage": usage}))
    (folder / "metrics.csv").write_text("updates,codebook/usage_0,codebook/usage_ceiling_0\n20,0.4,0.8\n40,0.5,1\n")
    Image.new("RGB", (128, 32)).save(folder / "pictures.png")
    run.folder_of(failed, runs).mkdir()
    (run.folder_of(failed, runs) / "error.txt").write_text("Traceback\nValueError: too large\n")
    monkeypatch.setattr(sys, "argv", ["report.py", "--runs", str(runs), "--out", str(out)])
    report.main()
    lines = (runs / "study.md").read_text().splitlines()
    row = "| fq, 16k | 1,280 | 1,151 | 21.23 | 0.100 | 300.0 | 50.0% / 25.0% (100% / 100%) | 2,000 / 3 |"
    assert row in lines
    assert any(line.startswith("| vq, 65k | failed: ValueError: too large |") for line in lines)
    assert sum(" | not run yet |" in line for line in lines) == len(plan.RUNS) - 2
    assert report.curve(done, runs) == ([20.0, 40.0], [0.5, 0.5])
    for name in ("study-usage.png", "study-rate.png"):
        assert Image.open(out / name).width > 800
    assert Image.open(out / "study-heads.png").width == 8 * report.TILE + 7 * report.GAP  # of 16 pixels, and one head
