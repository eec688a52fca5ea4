"""Drop-and-mean, its interval, and the test of who is faster."""

import math
from itertools import combinations

import pytest

from scoring.rules.olympic import bootstrap_interval, faster_p_value, olympic, standard_deviation


def test_olympic_drops_each_end():
    result = olympic([5, 1, 3, 2, 100], 1)
    assert result.mean == pytest.approx(10 / 3)
    assert (result.dropped_low, result.dropped_high) == ((1,), (100,))


def test_olympic_takes_a_run_that_did_not_converge_as_the_slowest():
    assert olympic([1, 2, 3, 4, math.inf], 1).mean == 3
    assert olympic([1, 2, 3, math.inf, math.inf], 1) is None


def test_olympic_of_too_few_values_is_nothing():
    assert olympic([1.0, 2.0], 1) is None
    assert olympic([1.0] * 8, 4) is None


def test_standard_deviation_divides_by_n():
    assert standard_deviation([1, 3]) == 1


def test_bootstrap_interval_holds_the_mean_and_repeats_itself():
    values = [10.0, 11.0, 12.0, 13.0, 14.0]
    low, high = bootstrap_interval(values, 1)
    assert 10 <= low < 12 < high <= 14
    assert bootstrap_interval(values, 1) == (low, high)


def test_bootstrap_interval_is_unbounded_where_failures_are_likely():
    low, high = bootstrap_interval([10.0, 11.0, 12.0, 13.0, math.inf], 1)
    assert low is not None
    assert high is None


def test_p_value_equals_the_count_of_arrangements():
    ours, theirs = [1.0, 2.0, 5.0], [3.0, 4.0, 6.0]
    sums = [sum(c) for c in combinations([1, 2, 3, 4, 5, 6], 3)]
    assert faster_p_value(ours, theirs) == pytest.approx(sum(s <= 8 for s in sums) / len(sums))


def test_p_value_counts_a_failure_as_the_slowest():
    assert faster_p_value([1, 2, 3, 4, 5], [6, 7, 8, 9, math.inf]) == pytest.approx(1 / 252)
    assert faster_p_value([6, 7, 8, 9, math.inf], [1, 2, 3, 4, 5]) == 1


def test_p_value_of_many_runs_is_sampled_and_close_to_scipy():
    from scipy.stats import mannwhitneyu

    ours = [20 + i * 0.9 for i in range(20)]
    theirs = [21 + i for i in range(20)]
    expected = mannwhitneyu(ours, theirs, alternative="less", method="exact").pvalue
    assert faster_p_value(ours, theirs) == pytest.approx(expected, abs=0.015)
