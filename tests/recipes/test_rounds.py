"""Every recipe's figures are those of its round's rules."""

import importlib

from scoring.rules.rounds import load_round


def test_closed_figures_are_the_rounds():
    benchmarks = load_round("v1.0").benchmarks
    assert len(benchmarks) == 8
    for stem, rules in benchmarks.items():
        sheet = importlib.import_module(f"recipes.{stem}").BENCHMARK
        assert (sheet.runs, sheet.dropped, sheet.mode) == (rules.runs, rules.drop, rules.mode), stem
        assert sorted(sheet.metrics.values()) == sorted(rules.target.values()), stem
