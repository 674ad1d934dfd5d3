import pytest
import torch
from torch import Tensor

from vistok.metrics import FeatureStatistics, frechet_distance
from vistok.metrics.jackknife import Side, group_of, group_sizes, leave_one_out, too_few

DIM = 12


def names_of(count: int) -> list[str]:
    return [f"val/{i:05d}.png" for i in range(count)]


def two_sides(count: int) -> tuple[Tensor, Tensor]:
    """Features of far different scales, around means of a thousand deviations."""
    torch.manual_seed(0)
    x = torch.randn(count, DIM, dtype=torch.float64) @ torch.randn(DIM, DIM, dtype=torch.float64) + 1000
    return x.float(), (x + 0.3 * torch.randn(count, DIM, dtype=torch.float64)).float()


def side(features: Tensor, everything: Tensor | None = None) -> Side:
    statistics = FeatureStatistics(DIM)
    statistics.update(features if everything is None else everything)
    return Side(statistics, lambda rows: features[rows])


def direct(one: Tensor, other: Tensor) -> Tensor:
    """Distances of all but one group, from the features themselves."""
    groups = torch.tensor([group_of(name) for name in names_of(len(one))])
    distances = []
    for group in range(10):
        rest = [own[groups != group].double() for own in (one, other)]
        distances.append(frechet_distance(*(part for own in rest for part in (own.mean(0), torch.cov(own.T)))))
    return torch.stack(distances)


def test_a_group_is_of_the_name_alone():
    """First eight bytes of the SHA-256, by ``sha256sum``; reports of different versions must have the same groups."""
    assert [group_of(name) for name in ("a.png", "ILSVRC2012_val_00000001.JPEG", "é")] == [2, 1, 1]
    counts = group_sizes(names_of(50_000))
    assert counts.sum() == 50_000 and (counts - 5000).abs().max() < 300


@pytest.mark.parametrize("count", [40, 500])
def test_distances_without_a_group_are_those_of_the_other_images(count):
    one, other = two_sides(count)
    ours = leave_one_out(side(one), side(other), names_of(count))
    assert ours.dtype == torch.float64 and len(ours.unique()) == 10
    torch.testing.assert_close(ours, direct(one, other), rtol=1e-8, atol=0)


@pytest.mark.parametrize("count", [20, 24, 26])
def test_few_images_beside_their_features(count):
    """Of 24 features: fewer images, and so many that some groups leave more and some leave fewer."""
    torch.manual_seed(1)
    x = torch.randn(count, 24)
    y = x + 0.3 * torch.randn(count, 24)
    sides = [Side(FeatureStatistics(24), lambda rows, own=own: own[rows]) for own in (x, y)]
    for own, features in zip(sides, (x, y), strict=True):
        own.statistics.update(features)
    torch.testing.assert_close(leave_one_out(*sides, names_of(count)), direct(x, y), rtol=1e-8, atol=0)


def test_an_outlier_is_removed_without_a_trace():
    """An image a thousand times as far out as the others, whose scatter is a millionth of the whole."""
    one, other = two_sides(400)
    one[7] += 1e3 * torch.randn(DIM)
    ours = leave_one_out(side(one), side(other), names_of(400))
    torch.testing.assert_close(ours, direct(one, other), rtol=1e-8, atol=0)


@pytest.mark.parametrize("count", [13, 100])
def test_ranks_have_rows_of_their_own(count, on_ranks):
    one, other = two_sides(count)
    names = names_of(count)

    def on_rank(rank: int) -> Tensor:
        rows = slice(rank, None, 3)
        return leave_one_out(side(one[rows], one), side(other[rows], other), names[rows])

    expected = leave_one_out(side(one), side(other), names)
    for ours in on_ranks([lambda rank=rank: on_rank(rank) for rank in range(3)]):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=0)


def test_too_few_images():
    assert "at least 20 images" in too_few(torch.tensor([2] * 9 + [1]))
    assert "one in each of 10 groups" in too_few(torch.tensor([5] * 9 + [0]))
    assert too_few(torch.full((10,), 2)) == ""
