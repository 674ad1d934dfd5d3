import json
from array import array

import pytest
import torch

from vistok.metrics import Accumulator, CodebookUsage, DistinctTuples, Reduction


class Everything(Accumulator):
    """One state of every kind."""

    def __init__(self):
        super().__init__()
        self.declare("total", torch.zeros(2, dtype=torch.float64), Reduction.SUM)
        self.declare("largest", 0, Reduction.LARGEST)
        self.declare("names", [], Reduction.CONCATENATION)
        self.declare("reasons", [], Reduction.UNION)
        self.declare("lengths", array("q"), Reduction.CONCATENATION)
        self.declare("errors", {"a": array("f"), "b": array("f")}, Reduction.CONCATENATION)
        self.declare("usage", CodebookUsage([4]))
        self.declare("tuples", {"pairs": DistinctTuples(2)})
        self.declare("absent", None)

    def update(self, number: int) -> None:
        self.total += torch.tensor([number, 1.0])
        self.largest = max(self.largest, number)
        self.names.append(f"image {number}")
        self.reasons += ["broken", f"cut short: {number // 3}"]
        self.lengths.append(number)
        self.errors["a"].append(number / 2)
        self.errors["b"].append(-number)
        self.usage.update(torch.full((1, 1, 1, 1), number % 4))
        self.tuples["pairs"].update(torch.tensor([number % 2, 1]).view(1, 2, 1, 1))


def everything(*numbers: int) -> Everything:
    made = Everything()
    for number in numbers:
        made.update(number)
    return made


def content(own: Everything) -> dict:
    return {
        "total": own.total.tolist(),
        "largest": own.largest,
        "names": own.names,
        "reasons": own.reasons,
        "lengths": own.lengths.tolist(),
        "errors": {name: errors.tolist() for name, errors in own.errors.items()},
        "usage": own.usage.hits.tolist(),
        "tuples": own.tuples["pairs"].tuples().tolist(),
        "absent": own.absent,
    }


def test_all_ranks_have_the_states_of_all(gathered):
    parts = [everything(1, 4), everything(), everything(2, 9, 3)]
    expected = {
        "total": [19, 5],
        "largest": 9,
        "names": ["image 1", "image 4", "image 2", "image 9", "image 3"],
        "reasons": ["broken", "cut short: 0", "cut short: 1", "cut short: 3"],
        "lengths": [1, 4, 2, 9, 3],
        "errors": {"a": [0.5, 2, 1, 4.5, 1.5], "b": [-1, -4, -2, -9, -3]},
        "usage": [[1, 2, 1, 1]],
        "tuples": [[0, 1], [1, 1]],
        "absent": None,
    }
    assert [content(own) for own in gathered(parts)] == [expected] * 3


def test_one_process_gathers_itself():
    own = everything(5, 2)
    assert content(own.gather()) == content(own) | {"reasons": sorted(set(own.reasons))}


def test_what_is_saved_goes_on_as_if_never_interrupted():
    saved = everything(5, 2).save()
    assert all(isinstance(tensor, torch.Tensor) for tensor in saved.tensors.values())
    resumed = Everything()
    resumed.restore(saved.tensors, json.loads(json.dumps(saved.about)))
    resumed.update(7)
    assert content(resumed) == content(everything(5, 2, 7))
    assert resumed.lengths.typecode == "q" and resumed.errors["a"].typecode == "f"


def test_a_state_that_was_not_saved_is_missed():
    tensors, about = everything(1).save()
    with pytest.raises(KeyError, match="usage/hits|hits"):
        Everything().restore({key: tensor for key, tensor in tensors.items() if key != "usage/hits"}, about)


def test_what_is_saved_has_a_name_for_each_state():
    tensors, about = everything().save()
    assert about.keys() == {"largest", "names", "reasons"}
    assert tensors.keys() == {"total", "lengths", "errors/a", "errors/b", "usage/hits", "tuples/pairs/tuples"}


def test_tensors_move_to_a_device():
    moved = everything(1).to("meta")
    assert moved.total.device.type == moved.usage.hits.device.type == "meta"
