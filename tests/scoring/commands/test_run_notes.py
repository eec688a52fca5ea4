"""What is said of a result's runs: once, with the runs named."""

import math

from scoring.commands.run_notes import run_lines
from scoring.rules.judged_runs import CONVERGED, NOT_CONVERGED, REJECTED, JudgedRun


def run(number, outcome, *notes):
    return JudgedRun(f"result_{number}.txt", "", outcome, math.inf, math.inf, {}, 8, notes)


def test_runs_with_one_reason_share_a_line():
    runs = [run(n, NOT_CONVERGED, "ended with status aborted") for n in (3, 7)]
    runs += [run(0, CONVERGED), run(1, CONVERGED, "2 run_stop lines of the same moment")]
    assert run_lines(runs) == [
        "result_3.txt, result_7.txt: not converged; ended with status aborted",
        "result_1.txt: converged; 2 run_stop lines of the same moment",
    ]


def test_many_runs_are_counted_and_other_figures_are_the_firsts():
    runs = [run(n, REJECTED, f"rejected by the checker: line {n}") for n in range(9)]
    (line,) = run_lines([*runs, run(9, CONVERGED)])
    names = ", ".join(f"result_{n}.txt" for n in range(5))
    words = "rejected by the checker: line 0 (figures of the first)"
    assert run_lines(runs)[0].startswith("all 9 runs: rejected by the checker")
    assert line == f"{names} and 4 more runs: {words}"
