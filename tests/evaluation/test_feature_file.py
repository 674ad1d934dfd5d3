import os

import pytest
import torch

from vistok.evaluation.feature_file import FeatureFile, places_by_name, rows_by_place


def test_rows_are_those_of_the_batches(tmp_path):
    one, other = torch.randn(7, 3), torch.randn(7, 5, dtype=torch.float64)
    file = FeatureFile(tmp_path / "new" / "x.features", {"one": 3, "other": 5})
    assert len(file) == 0
    for rows in (slice(0, 4), slice(4, 7)):
        file.append({"other": other[rows], "one": one[rows], "unasked": other[rows]})
    again = FeatureFile(file.path, file.columns)
    assert len(again) == 7 and file.path.stat().st_size == 7 * 8 * 4
    assert torch.equal(again.read("one", [6, 0, 0, 3]), one[[6, 0, 0, 3]])
    assert torch.equal(again.read("other", range(7)), other.float())
    assert again.read("other", []).shape == (0, 5)


def test_a_row_that_was_cut_off_does_not_count(tmp_path):
    features = torch.randn(5, 4)
    file = FeatureFile(tmp_path / "x.features", {"x": 4})
    file.append({"x": features})
    os.truncate(file.path, 3 * 16 + 7)
    assert len(file) == 3
    with pytest.raises(ValueError, match="ends before the features of image 3"):
        file.read("x", [0, 3])
    with pytest.raises(ValueError, match="has the features of 3 images, not of 4"):
        file.truncate(4)
    file.truncate(2)
    file.append({"x": features[2:]})
    assert torch.equal(file.read("x", range(5)), features)


def test_rows_of_all_ranks_are_sorted_by_name(tmp_path):
    features = torch.randn(5, 4)
    names = [["e", "b", "c"], [], ["a", "d"]]
    files = [FeatureFile(tmp_path / f"{rank}.features", {"x": 4}) for rank in range(3)]
    files[0].append({"x": features[[4, 1, 2]]})
    files[2].append({"x": features[[0, 3]]})
    rows = rows_by_place(files, places_by_name(names), "x", "cpu")
    assert rows.count == 5 and torch.equal(rows.at([3, 0, 4, 4]), features[[3, 0, 4, 4]])
    blocks = list(rows.blocks(2, first=1, step=2))
    assert [place for place, _ in blocks] == [slice(2, 4)] and torch.equal(blocks[0][1], features[2:4])
    assert torch.equal(torch.cat([own for _, own in rows.blocks(2)]), features)
