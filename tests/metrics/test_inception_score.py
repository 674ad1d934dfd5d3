import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from vistok.metrics import InceptionScore
from vistok.metrics.inception_score import SPLITS, split_of


def test_each_split_is_scored_as_torch_fidelity_does():
    logits = torch.randn(60, 1008) * 3
    names = [f"{i}.png" for i in range(60)]
    score = InceptionScore()
    for batch in range(0, 60, 25):
        score.update(names[batch : batch + 25], logits[batch : batch + 25])
    splits = [[i for i, name in enumerate(names) if split_of(name) == split] for split in range(SPLITS)]
    theirs = [isc_features_to_metric(logits[own], 1, shuffle=False)["inception_score_mean"] for own in splits if own]
    assert score.compute() == pytest.approx(sum(theirs) / len(theirs), rel=1e-9)
    assert sum(map(len, splits)) == 60 and max(theirs) > 1.5


def test_classes_that_are_all_alike_score_one():
    score = InceptionScore(classes=4)
    score.update(["a", "b", "c"], torch.tensor([[5.0, 0, 0, 0]] * 3))
    assert score.compute() == pytest.approx(1)


def test_certain_and_even_classes_score_their_number():
    names = [str(i) for i in range(1000) if split_of(str(i)) == 0][:8]
    score = InceptionScore(classes=4)
    score.update(names, torch.eye(4).repeat(2, 1) * 100)
    assert score.compute() == pytest.approx(4)
