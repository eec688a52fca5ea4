"""The convergence test against figures worked out elsewhere, and against the official code."""

import math

import pytest

from scoring.rules.convergence import NOW, THEN, minimum_mean, rcp_test, reference_points
from scoring.rules.rounds import load_round

# benchmark, batch, mean, minimum today (s of all values), minimum in 2021 (s of the kept), kept
# by pruning. Figures from the official tool (4.1.68) and the rules' text.
GOLDEN = [
    ("resnet", 1632, 35.0, 33.8023, 34.0124, True),
    ("resnet", 3264, 35.1538, 34.3096, 34.5526, True),
    ("resnet", 8192, 41.875, 40.6340, 40.9062, False),
    ("resnet", 32768, 56.0, 55.4450, 56.0, True),
    ("ssd", 2048, 65.0862, 64.1982, 64.4422, False),
    ("ssd", 4096, 87.0, 84.5067, 84.5122, True),
    ("maskrcnn", 64, 14.0, 11.7662, 14.0, True),
    ("maskrcnn", 272, 17.125, 16.4567, 16.7146, True),
    ("unet3d", 56, 2203.25, 2039.9438, 2064.0877, False),
    ("unet3d", 80, 1603.7778, 1506.0315, 1526.8347, True),
    ("rnnt", 2048, 58.3889, 57.2054, 57.5105, True),
    ("dlrm", 55296, 1.9019, 1.8853, 1.8921, False),
]
RULES = load_round("v1.0")


@pytest.mark.parametrize(("name", "batch", "mean", "now", "then", "kept"), GOLDEN)
def test_reference_points_give_the_known_minima(name, batch, mean, now, then, kept):
    bench = RULES.benchmarks[name]
    point = next(p for p in reference_points(bench, "1.0.0", THEN) if p.batch == batch)
    assert point.mean == pytest.approx(mean, abs=1e-4)
    minimum = minimum_mean(point.mean, point.std, point.count, bench.runs)
    assert minimum == pytest.approx(then, abs=2e-4)
    today = reference_points(bench, "1.0.0", NOW)
    assert (batch in [p.batch for p in today]) == kept
    if kept:
        found = next(p for p in today if p.batch == batch)
        assert minimum_mean(found.mean, found.std, found.count, bench.runs) == pytest.approx(
            now, abs=2e-4
        )


def test_worked_example_of_the_policy():
    values = [14, 15, 15, 16, 16, 16, 16, 16, 16, 17]
    kept = sorted(values)[1:-1]
    mean = sum(kept) / 8
    std = math.sqrt(sum((v - mean) ** 2 for v in kept) / 8)
    minimum = minimum_mean(mean, std, 8, 5)
    assert minimum == pytest.approx(15.21, abs=5e-3)
    assert mean / minimum - 1 == pytest.approx(0.0353, abs=1e-4)


@pytest.mark.parametrize("name", ["resnet", "ssd", "maskrcnn", "unet3d", "rnnt", "bert"])
def test_every_batch_size_agrees_with_the_official_checker(name):
    """Walks through found, interpolated, below all and above all."""
    from mlperf_logging.rcp_checker.rcp_checker import RCP_Checker

    bench = RULES.benchmarks[name]
    official = RCP_Checker("training", "1.0.0", name, False)
    today = reference_points(bench, "1.0.0", NOW)
    assert [p.batch for p in today] == sorted(r["BS"] for r in official.pruned_rcp_data.values())
    batches = {p.batch for p in today} | {
        int((a.batch + b.batch) // 2) for a, b in zip(today, today[1:], strict=False)
    }
    for batch in batches:
        record = official._find_rcp(batch, "pruned_rcps")
        if record is None:
            low = official._find_top_min_rcp(batch, "pruned_rcps")
            high = official._find_bottom_max_rcp(batch, "pruned_rcps")
            record = official._create_interp_rcp(batch, low, high)[1]
        verdict = rcp_test([record["RCP Mean"]] * bench.runs, batch, bench, "1.0.0", NOW)
        assert verdict.minimum == pytest.approx(record["Min Epochs"], abs=2e-4)
        assert verdict.reference_mean == pytest.approx(record["RCP Mean"])


def test_at_the_minimum_passes_and_just_below_fails():
    bench = RULES.benchmarks["resnet"]
    minimum = rcp_test([40.0] * 5, 3264, bench, "1.0.0", THEN).minimum
    assert rcp_test([minimum] * 5, 3264, bench, "1.0.0", THEN).passed
    below = rcp_test([minimum - 1e-6] * 5, 3264, bench, "1.0.0", THEN)
    assert below.passed is False
    assert below.margin < 0


def test_batch_above_every_point_fails_and_below_all_uses_the_smallest():
    bench = RULES.benchmarks["ssd"]
    above = rcp_test([90.0] * 5, 8192, bench, "1.0.0", THEN)
    assert above.passed is False
    assert "above every reference point" in above.text
    assert rcp_test([50.0] * 5, 512, bench, "1.0.0", THEN).passed
    assert rcp_test([49.0] * 5, 512, bench, "1.0.0", THEN).passed is False


def test_only_today_scales_the_score():
    bench = RULES.benchmarks["resnet"]
    values = [34.9] * 5
    assert rcp_test(values, 3264, bench, "1.0.0", THEN).scaling == 1
    assert rcp_test(values, 3264, bench, "1.0.0", NOW).scaling == pytest.approx(
        35.1538 / 34.9, abs=1e-5
    )


def test_one_run_that_did_not_converge_is_dropped_and_two_fail():
    bench = RULES.benchmarks["resnet"]
    assert rcp_test([35, 35, 35, 36, math.inf], 3264, bench, "1.0.0", THEN).passed
    assert rcp_test([35, 35, 35, math.inf, math.inf], 3264, bench, "1.0.0", THEN).passed is False


def test_minigo_has_no_test():
    assert rcp_test([40.0] * 10, 64, RULES.benchmarks["minigo"], "1.0.0", THEN).passed is None


def test_too_few_runs_neither_pass_nor_fail():
    rules = RULES.benchmarks["ssd"]
    for values, passed in (
        ([50.0], None),
        ([50.0, 50.0], None),
        ([50.0, math.inf, math.inf], False),
    ):
        verdict = rcp_test(values, 1024, rules, "1.0.0", THEN)
        assert verdict.passed is passed


@pytest.mark.parametrize("batch", [3072, 2560])
def test_a_reference_point_with_one_value_in_another_unit_gives_no_margin(batch):
    """gpt3's at 3072 in v4.1: 13790871552 among values of 1.2e9, so its minimum is negative."""
    bench = load_round("v4.1").benchmarks["gpt3"]
    verdict = rcp_test([1207959552.0] * 3, batch, bench, "4.1.0", NOW)
    assert (verdict.passed, verdict.minimum, verdict.margin) == (True, None, None)
    assert "too far apart to give a minimum" in verdict.text


def test_steps_of_a_batch_far_below_the_reference_have_no_margin():
    """Published in v3.1: 5,000 steps of 512 next to 1,955 of 2048."""
    bench = load_round("v3.1").benchmarks["stable_diffusion"]
    verdict = rcp_test([5000.0] * 10, 512, bench, "3.1.0", NOW)
    assert (verdict.passed, verdict.margin) == (True, None)
    assert verdict.minimum == pytest.approx(1820.8, abs=0.1)
