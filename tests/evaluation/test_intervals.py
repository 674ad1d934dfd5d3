"""Intervals of scores and differences: numbers by hand and by scipy, coverage, and memory."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from vistok.evaluation import intervals
from vistok.evaluation.intervals import Evidence, bootstrap, intervals_of, jackknife, resampled_means, with_intervals


def test_jackknife_by_hand():
    # mean 5.5, squared deviations 82.5, variance 9/10 of them: 74.25; 2.26216 times the root is 19.4927
    low, high = jackknife(5.0, np.arange(1.0, 11.0), np.full(10, 7))
    assert (low, high) == pytest.approx((5 - 19.4927, 5 + 19.4927), abs=1e-4)
    assert stats.t.ppf(0.975, 9) == pytest.approx(intervals.STUDENT, abs=1e-9)


def test_jackknife_of_a_mean_is_students_interval_of_the_groups():
    groups = np.random.default_rng(0).normal(size=(10, 30))
    leave_one_out = np.array([np.delete(groups, i, 0).mean() for i in range(10)])
    expected = stats.t.interval(0.95, 9, groups.mean(), stats.sem(groups.mean(1)))
    assert jackknife(groups.mean(), leave_one_out, np.full(10, 30)) == pytest.approx(expected, rel=1e-9)


def test_sizes_of_groups_do_not_widen_an_interval():
    """A score 3 + 5 / n, which has no variance at all, and a mean: (mean of group - mean)² m / (n - m), averaged."""
    sizes = np.array([3, 9, 4, 8, 5, 7, 6, 6, 2, 10])
    n = sizes.sum()
    assert jackknife(3 + 5 / n, 3 + 5 / (n - sizes), sizes) == pytest.approx((3 + 5 / n,) * 2)
    means = np.arange(10.0)
    total = (sizes * means).sum()
    low, high = jackknife(total / n, (total - sizes * means) / (n - sizes), sizes)
    variance = ((means - total / n) ** 2 * sizes / (n - sizes)).mean()
    assert high - low == pytest.approx(2 * 2.2621571628 * variance**0.5)


def test_bootstrap_of_zeros_and_ones_is_binomial():
    ((low, high),) = bootstrap(np.array([[1.0] * 30 + [0.0] * 70]))
    expected = stats.binom.ppf([0.025, 0.975], 100, 0.3) / 100  # 0.21 and 0.39
    assert (low, high) == pytest.approx(expected, abs=0.011)


def test_bootstrap_of_pairs_is_scipys():
    generator = np.random.default_rng(1)
    difficulty = generator.normal(25, 4, 300)
    one, other = difficulty + generator.normal(0, 0.3, 300), difficulty + generator.normal(0.1, 0.3, 300)
    ours = bootstrap(np.stack([one, other - one]))
    theirs = [
        stats.bootstrap(
            (one, other), statistic, paired=True, n_resamples=9999, method="percentile", rng=generator, batch=500
        ).confidence_interval
        for statistic in (lambda x, y, axis: x.mean(axis), lambda x, y, axis: (y - x).mean(axis))
    ]
    for own, expected in zip(ours, theirs, strict=True):
        assert own == pytest.approx(expected, abs=0.06 * (expected.high - expected.low))
    assert ours[1].high - ours[1].low < 0.2 * (ours[0].high - ours[0].low)  # the images' difficulty cancels


def test_draws_are_the_same_for_all_rows_and_blocks(monkeypatch):
    values = np.random.default_rng(2).normal(size=(3, 40))
    values[2] = values[1]
    means = resampled_means(values, 50)
    assert np.array_equal(means[1], means[2])
    assert means.std(1) == pytest.approx(values.std(1) / 40**0.5, rel=0.4)
    monkeypatch.setattr(intervals, "BLOCK", 120)  # three sets of images at a time
    np.testing.assert_allclose(resampled_means(values, 50), means, rtol=0, atol=1e-12)
    assert not np.allclose(resampled_means(values, 50, seed=1), means)


def test_memory_does_not_hold_all_draws():
    values = np.random.default_rng(3).random((2, 50_000))
    tracemalloc.start()
    try:
        resampled_means(values, 300)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60e6  # all draws would take 120 MB


def test_intervals_contain_the_truth_as_often_as_they_say():
    """400 data sets: means of skewed values by the bootstrap, and a standard deviation by the jackknife."""
    generator = np.random.default_rng(4)
    mean = deviation = 0
    for _ in range(400):
        low, high = bootstrap(generator.exponential(1, (1, 100)))[0]
        mean += low <= 1 <= high
        groups = generator.normal(size=(10, 20))
        leave_one_out = np.array([np.delete(groups, i, 0).std(ddof=1) for i in range(10)])
        low, high = jackknife(groups.std(ddof=1), leave_one_out, np.full(10, 20))
        deviation += low <= 1 <= high
    assert 0.91 <= mean / 400 <= 0.98 and 0.92 <= deviation / 400 <= 0.98  # two deviations of the share: 0.022


def evidence(psnr, rfid, leave_one_out):
    values = np.asarray(psnr, np.float32)
    metrics = {"psnr": float(values.mean()), "rfid": rfid}
    return Evidence(metrics, {"psnr": values}, {"rfid": np.array(leave_one_out)}, np.full(10, 5))


def test_differences_are_from_the_first():
    base = np.linspace(20, 30, 50)
    shift = np.tile([0.4, 0.6], 25)
    out = np.linspace(4, 5, 10)
    first = evidence(base, 4.5, out)
    found, apart = intervals_of([first, evidence(base + shift, 4.0, out - 0.5), evidence(base, 4.5, out)])
    assert apart[0] == {} and [set(own) for own in found] == [{"psnr", "rfid"}] * 3
    assert found[0]["psnr"].low < 25 < found[0]["psnr"].high
    higher = apart[1]["psnr"]
    assert higher.value == pytest.approx(0.5, abs=1e-5) and 0.45 < higher.low < 0.5 < higher.high < 0.55
    assert apart[1]["rfid"] == pytest.approx((-0.5, -0.5, -0.5)) and apart[1]["rfid"].separated
    assert apart[2]["psnr"] == apart[2]["rfid"] == (0, 0, 0) and not apart[2]["psnr"].separated  # exactly


def test_images_without_a_value_do_not_enter():
    base = np.linspace(20, 30, 50)
    some = np.where(np.arange(50) < 30, base, np.nan)
    found, apart = intervals_of([Evidence({}, {"psnr": own}, {}, np.full(10, 5)) for own in (base, some, some + 1)])
    means = resampled_means(np.stack([some, np.where(np.arange(50) < 30, base, 0), np.arange(50) < 30]))
    np.testing.assert_allclose(means[0], means[1] / means[2], rtol=1e-12)  # the mean of those that were drawn
    assert found[1]["psnr"] == pytest.approx(np.quantile(means[0], (0.025, 0.975)))
    assert apart[1]["psnr"] == (0, 0, 0) and apart[2]["psnr"] == pytest.approx((1, 1, 1))
    few = np.where(np.arange(50) < 9, base, np.nan)
    assert intervals_of([Evidence({}, {"psnr": few}, {}, np.full(10, 5))])[0] == [{}]


def test_few_images_have_no_bootstrap():
    found, apart = intervals_of([evidence(range(9), 1.0, np.ones(10))] * 2)
    assert [set(own) for own in (*found, *apart)] == [{"rfid"}, {"rfid"}, set(), {"rfid"}]


def test_plain_content():
    base = np.linspace(20, 30, 50)
    own = [evidence(base, 4.5, np.linspace(4, 5, 10)), evidence(base - 1, 4.4, np.linspace(5, 4, 10))]
    scores = [
        {"tokenizer": name, "protocol": protocol, "hash": "0", "metrics": {}}
        for name in "AB"
        for protocol in ("canonical", "openmagvit2")
    ]
    complete, apart = with_intervals(scores, [own[0], own[0], own[1], own[1]])
    assert [score["tokenizer"] for score in complete] == list("AABB") and "intervals" not in scores[0]
    assert complete[2]["intervals"]["psnr"][0] < 24 < complete[2]["intervals"]["psnr"][1]
    assert [(pair["tokenizer"], pair["against"], pair["protocol"]) for pair in apart] == [
        ("B", "A", "canonical"),
        ("B", "A", "openmagvit2"),
    ]
    psnr, rfid = apart[0]["metrics"]["psnr"], apart[0]["metrics"]["rfid"]
    assert psnr["difference"] == pytest.approx(-1) and (psnr["better"], psnr["verdict"]) == ("higher", "worse")
    assert rfid["difference"] == pytest.approx(-0.1) and (rfid["better"], rfid["verdict"]) == ("lower", "not separated")
