"""Minutes split into start, training and evaluation, and the gap of two results into causes."""

import math

import pytest

from scoring.rules.gap import explain_gap
from scoring.rules.rounds import load_round
from scoring.rules.scores import score
from scoring.rules.time_parts import time_parts
from scoring.runs.result_sets import find_result_sets

RULES = load_round("v1.0")


def parts_of(path):
    (found,) = find_result_sets([path], RULES.benchmarks)
    return time_parts(found, score(found, RULES))


def with_epochs(make, folder, epochs, rate):
    """Five runs that need the given epochs, at so many samples per second."""
    for number, count in enumerate(epochs, start=1):
        seconds = count * 117266 / rate
        lines = make.ssd(seconds=seconds, seed=number, evals=((40, 0.15), (count, 0.24)))
        make.run(folder, number=number, seconds=seconds, lines=lines)
    return folder


def test_the_parts_of_a_published_result_add_up_to_its_minutes(published):
    parts = parts_of(published / "NVIDIA/results/dgxa100_ngc21.05_mxnet/ssd")
    assert parts.minutes == pytest.approx(8.5207, abs=1e-4)
    total = parts.start + parts.training + parts.evaluation
    assert total == pytest.approx(parts.minutes, abs=1e-9)
    assert parts.amount / parts.rate / 60 == pytest.approx(parts.training)
    # 1434 samples per second and accelerator with evaluation and start: see shared anchors.
    overall = parts.amount / (parts.minutes * 60) / parts.accelerators
    assert overall == pytest.approx(1434, abs=1)
    assert len(parts.runs) == 3
    assert parts.against_reference == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("path", "unit", "each"),
    [
        ("dgxa100_ngc21.05_merlin_hugectr/dlrm", "samples", 4.01e6),
        ("dgxa100_ngc21.05_pytorch/bert", "samples", 267),
        ("dgxa100_ngc21.05_mxnet/unet3d", "samples", 27.5),
        ("dgxa100_ngc21.05_mxnet/resnet", "samples", 3250),
    ],
)
def test_throughput_is_that_of_the_published_anchors(published, path, unit, each):
    parts = parts_of(published / "NVIDIA/results" / path)
    overall = parts.amount / (parts.minutes * 60) / parts.accelerators
    assert parts.unit == unit
    assert overall == pytest.approx(each, rel=0.005)


def test_evaluation_counts_once_where_it_overlaps(tmp_path, make):
    lines = make.ssd(seconds=600)
    stop = lines.pop()
    for begin, end in ((20, 40), (30, 45), (300, 360)):
        lines.append(make.line("eval_start", ms=begin * 1000))
        lines.append(make.line("eval_stop", ms=end * 1000))
    make.write(tmp_path / "a.log", [*lines, stop])
    # Those of the log itself, at 320 and 620 s, take 0.1 s each.
    parts = parts_of(tmp_path)
    assert parts.evaluation * 60 == pytest.approx(25 + 60 + 0.1)
    assert parts.init * 60 == pytest.approx(20)


def test_a_log_without_evaluation_marks_has_none_instead_of_zero(tmp_path, make):
    lines = [line for line in make.ssd(seconds=600) if '"eval_st' not in line]
    make.write(tmp_path / "a.log", lines)
    parts = parts_of(tmp_path)
    assert parts.evaluation is None
    assert parts.training == pytest.approx(10)


def test_luck_is_told_from_speed(tmp_path, make):
    same = with_epochs(make, tmp_path / "same", [50, 55, 55, 60, 65], 1000)
    lucky = with_epochs(make, tmp_path / "lucky", [50, 50, 55, 55, 60], 1000)
    slow = with_epochs(make, tmp_path / "slow", [50, 55, 55, 60, 65], 900)
    worse = with_epochs(make, tmp_path / "worse", [75, 80, 80, 85, 90], 1000)
    a = parts_of(same)
    luck = explain_gap(a, parts_of(lucky))
    assert luck.cause == "convergence luck"
    assert luck.minutes < 0
    assert luck.speed == pytest.approx(0, abs=1e-2)
    speed = explain_gap(a, parts_of(slow))
    assert speed.cause == "speed"
    assert speed.convergence == pytest.approx(0, abs=1e-9)
    beyond = explain_gap(a, parts_of(worse))
    assert (beyond.cause, beyond.p_convergence) == ("convergence", pytest.approx(2 / 252))
    for gap in (luck, speed, beyond):
        parts = gap.convergence + gap.speed + gap.evaluation + gap.start
        assert parts == pytest.approx(gap.minutes, abs=1e-9)


def test_few_runs_leave_luck_open(tmp_path, make):
    a = parts_of(with_epochs(make, tmp_path / "a", [50], 1000))
    b = parts_of(with_epochs(make, tmp_path / "b", [60], 1000))
    gap = explain_gap(a, b)
    assert gap.cause == "convergence, undecided"
    assert gap.p_convergence is None
    assert explain_gap(a, a).cause == "none"


def test_generations_are_no_samples(published):
    parts = parts_of(published / "NVIDIA/results/dgxa100_ngc21.05_tensorflow/minigo")
    assert parts.unit == "generations"
    assert math.isclose(parts.amount, 41.875)
