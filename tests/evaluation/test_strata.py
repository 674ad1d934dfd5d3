"""Scores by class, frequency and contrast: by hand, on several ranks, and from ``eval.py`` to its files."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from vistok.evaluation import evaluate
from vistok.evaluation.config_check import STRATA
from vistok.evaluation.report import strata_tables
from vistok.evaluation.strata import Strata, by_class, class_of, psnr_of, ratio_db
from vistok.metrics import states


def test_the_class_is_the_folder_above_an_image():
    names = ["cat/a.png", "val/dog/b.png", "c.png", "000.tar:fox/d.png", "000.tar:e.png"]
    assert [class_of(name) for name in names] == ["cat", "dog", "", "fox", ""]


def test_classes_by_hand():
    values = {"canonical": {"psnr": torch.tensor([10.0, 20.0, 40.0]), "l1": torch.tensor([0.5, 0.25, 0.0])}}
    assert by_class(["b", "a", "b"], values) == {
        "a": {"images": 1, "canonical": {"psnr": 20.0, "l1": 0.25}},
        "b": {"images": 2, "canonical": {"psnr": 25.0, "l1": 0.25}},
    }


def test_classes_with_images_that_are_too_small():
    values = {"p": {"psnr": torch.tensor([10.0, 20.0, 40.0]), "ms_ssim": torch.tensor([0.5, math.nan, math.nan])}}
    classes = by_class(["b", "a", "b"], values)
    assert classes["a"]["p"] == {"psnr": 20.0} and classes["b"]["p"] == {"psnr": 25.0, "ms_ssim": 0.5}
    (table,) = strata_tables.class_tables("A, native sizes", classes)
    assert table.rows == (("a", "1", "20", "–"), ("b", "2", "25", "0.5"))


def test_means_by_hand():
    errors = np.array([255.0**2, 255.0**2 / 1e4, 0.0, math.nan])
    assert psnr_of(errors) == pytest.approx((0 + 40 + 100) / 3)
    assert ratio_db(1.0, 100.0) == -20 and ratio_db(0.0, 1.0) is None and ratio_db(1.0, 0.0) is None


def pair(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 24, 32), generator=random, dtype=torch.uint8)
    return (images // 8 * 8 + 4).to(torch.uint8), images


def of(*batches: slice, labels: torch.Tensor | None = None) -> Strata:
    strata, names = Strata(STRATA), [f"{i % 3}/{9 - i}.png" for i in range(7)]
    for batch in batches:
        own = None if labels is None else labels[batch]
        strata.update(names[batch], *(side[batch] for side in pair(7)), own)
    return strata


def test_any_batches_any_ranks_and_a_resume_give_the_same(monkeypatch):
    whole = of(slice(0, 7)).gather()
    resumed = of()
    resumed.restore(*of(slice(0, 3)).save())
    names = [f"{i % 3}/{9 - i}.png" for i in range(7)]
    resumed.update(names[3:], *(side[3:] for side in pair(7)))
    resumed.gather()
    parts, gathered = [[of(slice(first, 7, 2)) for first in (0, 1)] for _ in range(2)]
    monkeypatch.setattr(states, "rank_and_size", lambda: (0, 2))
    monkeypatch.setattr(
        states, "gather_objects", lambda own: [{name: getattr(part, name) for name in own} for part in parts]
    )
    for other in (resumed, *(own.gather() for own in gathered)):
        assert other.names == whole.names == sorted(names) and other.classes == whole.classes
        for name, own in whole.arrays().items():
            np.testing.assert_array_equal(other.arrays()[name], own, err_msg=name)
    arrays = whole.arrays()
    first = names.index(whole.names[0])
    error = (pair(7)[0][first].double() - pair(7)[1][first].double()).square().mean().item()
    assert arrays["frequency/error"][0].sum() == pytest.approx(error)
    assert arrays["contrast/error"][0].mean() == pytest.approx(error)  # twelve blocks: four in each third


def test_labels_come_before_folders():
    strata = of(slice(0, 7), labels=torch.arange(7) // 4).gather()
    assert sorted(strata.classes) == ["0"] * 4 + ["1"] * 3


def test_only_what_is_asked_for():
    strata = Strata(["contrast"])
    strata.update(["a"], *pair(1))
    assert set(strata.gather().arrays()) == {"contrast/error", "contrast/contrast"}
    assert set(strata.summary({})) == {"contrast"}
    with pytest.raises(ValueError, match=r"metrics.strata=\['colour'\] must be among class, frequency, contrast"):
        Strata(["colour"])


def test_from_a_config_to_files(compose, trained, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i in range(6):
        (tmp_path / "photos" / f"<b>{i % 2}").mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"<b>{i % 2}" / f"{i}.png")
    given = [f"tokenizer={trained}", f"data.root={tmp_path}/photos", "data.image_size=32", "data.num_workers=0"]
    given += ["metrics.lpips=null", "feature_network=none", f"run.out={tmp_path}/report.json"]
    report = evaluate.evaluate(compose("eval", *given, "metrics.strata=[class,frequency,contrast]"))
    printed = capsys.readouterr().out
    (strata,) = report["strata"]
    values = np.load(tmp_path / "report.npz")
    psnr = values["0/canonical/psnr"]
    for name, scores in strata["class"].items():
        assert scores["images"] == 3
        own = psnr[values["0/adm/class"] == name].mean()
        assert scores["canonical"]["psnr"] == pytest.approx(own, rel=1e-6)
    errors = 255**2 / 10 ** (psnr / 10)
    np.testing.assert_allclose(values["0/adm/frequency/error"].sum(1), errors, rtol=1e-5)
    np.testing.assert_allclose(  # 16 blocks: 6, 5 and 5 of them
        values["0/adm/contrast/error"] @ np.array([6, 5, 5]) / 16, errors, rtol=1e-5
    )
    by_hand = [(20 * math.log10(255) - 10 * np.log10(values["0/adm/frequency/error"][:, i])).mean() for i in range(5)]
    assert [band["psnr"] for band in strata["frequency"]] == pytest.approx(by_hand)
    page = (tmp_path / "report.html").read_text()
    for text in ("By spatial frequency", "By local contrast", "By class", f"{by_hand[0]:.2f}", "1/32 to 1/16"):
        assert text in page and text in printed
    assert "&lt;b&gt;0" in page and "<b>0" not in page
    with pytest.raises(ValueError, match="metrics.strata has colour, but may have only class, frequency, contrast"):
        evaluate.evaluate(compose("eval", *given[:-1], f"run.out={tmp_path}/b.json", "metrics.strata=[colour]"))


def test_of_many_classes_the_lowest_and_the_highest_are_shown():
    classes = {f"c{i:02d}": {"images": 1, "canonical": {"psnr": float(i)}} for i in range(30)}
    (table,) = strata_tables.class_tables("A, adm crops", classes)
    shown = [row[0] for row in table.rows]
    assert shown == [f"c{i:02d}" for i in (*range(5), *range(25, 30))] and "of 30 by psnr" in table.title
