"""The round files against the tables of the installed mlperf-logging."""

import ast
import math
import re
from pathlib import Path

import mlperf_logging
import pytest
import yaml
from mlperf_logging.benchmark_meta import get_allowed_benchmarks

from scoring.rules.rounds import load_round, round_name, round_names
from scoring.rules.rounds.names import name_in, task_of

PACKAGE = Path(mlperf_logging.__path__[0])
PAIRS = [(name, stem) for name in round_names() for stem in load_round(name).benchmarks]
# Where mlperf-logging 4.1.68 contradicts itself or the rules, and what the round file follows:
# value at which the checker and the file differ, by (benchmark) or (round, benchmark).
UPSTREAM = {
    # The checker lets a fraction be 1 exactly; the file takes it for a log in another unit.
    "dlrm_dcnv2": 1.0,
    "dlrmv4": 1.0,
    "qwen35_397b_grpo": 1.0,
}
# Its target is "more than 0.69"; of 251 answers no share is 0.69 exactly.
STRICT = {"qwen35_397b_grpo"}
# The checker tests 0 <= value <= 1 apart from the target.
BOUND_APART = {"qwen35_397b_grpo", "dlrmv4"}
# By the rules an initialisation of gpt3 may take 60 minutes; the checker stops at 30.
LONGER_THAN_THE_CHECKER = {"gpt3"}


def checker_rules(name, stem):
    ruleset = load_round(name).checker_ruleset
    path = PACKAGE / "compliance_checker" / f"training_{ruleset}" / f"closed_{stem}.yaml"
    return path.read_text()


def accepts(name, stem, quality, batch=256):
    """Evaluate the checker's own expression for a value that reaches the target."""
    text = checker_rules(name, stem)
    (test,) = re.findall(r"ATLEAST_ONE_CHECK: *(\".*\")", text)
    value = quality if len(quality) > 1 else next(iter(quality.values()))
    target = re.search(r"'target_accuracy': ([\d.]+)", text)
    state = {"global_batch_size": batch, "target_accuracy": target and float(target[1])}
    return bool(eval(ast.literal_eval(test).strip(), {"s": state, "v": {"value": value}}))


@pytest.mark.parametrize("name", round_names())
def test_a_round_has_the_benchmarks_that_the_package_allows(name):
    rules = load_round(name)
    assert set(rules.benchmarks) == set(get_allowed_benchmarks("training", rules.checker_ruleset))
    assert rules.name == name
    if rules.rcp_ruleset:
        files = (PACKAGE / "rcp_checker" / f"training_{rules.rcp_ruleset}").glob("rcps_*.json")
        with_points = {path.stem.removeprefix("rcps_") for path in files}
        known = {stem for stem, bench in rules.benchmarks.items() if bench.rcp}
        # bert's files of v5.1 stayed behind when it left the suite.
        assert with_points - known <= {"bert"}
        assert set(rules.benchmarks) - known <= {"minigo"}


@pytest.mark.parametrize(("name", "stem"), PAIRS)
def test_targets_and_bounds_are_the_checkers(name, stem):
    bench = load_round(name).benchmarks[stem]
    if stem not in STRICT:
        assert accepts(name, stem, dict(bench.target))
        assert bench.reached(bench.target)
    for metric, target in bench.target.items():
        worse = -1e-4 if bench.modes.get(metric, bench.mode) == "max" else 1e-4
        missed = {**bench.target, metric: target + worse}
        better = {**bench.target, metric: target - worse}
        assert not accepts(name, stem, missed)
        assert not bench.reached(missed)
        assert accepts(name, stem, better)
        assert bench.reached(better)
        bound = bench.bounds.get(metric, bench.bound)
        if bound is not None:
            past = {**bench.target, metric: bound + (1e-4 if worse < 0 else -1e-4)}
            assert accepts(name, stem, past) == (stem in BOUND_APART)
            assert not bench.reached(past)
    if stem in UPSTREAM:
        at = {next(iter(bench.target)): UPSTREAM[stem]}
        assert accepts(name, stem, at)
        assert not bench.reached(at)


def test_a_large_batch_of_bert_has_its_own_target():
    bench = load_round("v0.7").benchmarks["bert"]
    for batch, target in ((8191, 0.712), (8192, 0.706)):
        assert bench.targets(batch) == {"mlm_accuracy": target}
        assert accepts("v0.7", "bert", {"mlm_accuracy": target}, batch)
        assert not accepts("v0.7", "bert", {"mlm_accuracy": target - 1e-4}, batch)


@pytest.mark.parametrize("name", round_names())
def test_the_limits_of_initialisation_are_the_checkers(name):
    rules = load_round(name)
    folder = PACKAGE / "compliance_checker" / f"training_{rules.checker_ruleset}"
    text = (folder / "common.yaml").read_text()
    fixed = re.search(r"first_init_start'\] < \((\d+)\*60", text)
    chosen = re.search(r"= (\d+) if v\['value'\] == 'open' else (\d+)", text)
    limits = (fixed[1], fixed[1]) if fixed else (chosen[1], chosen[2])
    assert rules.init_limit_minutes == {"open": float(limits[0]), "closed": float(limits[1])}
    longer = {stem for stem, bench in rules.benchmarks.items() if bench.init_limit_minutes}
    assert longer == LONGER_THAN_THE_CHECKER & set(rules.benchmarks)


@pytest.mark.parametrize("name", round_names())
def test_a_file_repeats_neither_the_package_nor_the_round_before(name):
    facts = yaml.safe_load((Path("scoring/rules/rounds") / f"{name}.yaml").read_text())
    base = load_round(facts["like"]).benchmarks if "like" in facts else {}
    for stem, rules in facts.get("benchmarks", {}).items():
        assert not {"runs", "rcp"} & set(rules or {})
        assert rules is not None or stem in base
        assert rules is None or load_round(name).benchmarks[stem] != base.get(stem)


@pytest.mark.parametrize("text", ["v5.1", "5.1", "5.1.0", "V5.1", " 5.1.0 "])
def test_a_round_may_be_written_in_several_ways(text):
    assert round_name(text) == "v5.1"
    assert load_round(text) == load_round("v5.1")


@pytest.mark.parametrize("text", ["v9.9", "5.1.1", "5", "", "rounds", "v5.1/../v1.0"])
def test_another_word_is_no_round(text):
    with pytest.raises(ValueError, match=re.escape(f"no round {text!r}; choose one of v0.7, v1.0")):
        load_round(text)


def test_rounds_come_in_their_order():
    assert round_names()[:3] == ["v0.7", "v1.0", "v1.1"]
    assert round_names()[-1] == "v6.1"
    dates = [load_round(name).released for name in round_names()]
    known = [date for date in dates if date]
    assert known == sorted(known)


def test_a_changed_name_is_the_same_benchmark_and_a_kept_one_may_be_another():
    assert task_of("ssd", "v1.1") != task_of("ssd", "v2.0") == task_of("retinanet", "v5.0")
    assert task_of("gnn", "v4.1") == task_of("rgat", "v5.1")
    assert len({task_of("dlrm", "v2.1"), task_of("dlrm_dcnv2", "v3.0"), "dlrmv4"}) == 3
    assert name_in("retinanet", "v4.0") == "ssd"
    assert name_in("retinanet", "v1.0") is None
    assert name_in("bert", "v5.0") == "bert"


def test_a_missing_metric_or_none_reaches_nothing():
    bench = load_round("v4.0").benchmarks["stable_diffusion"]
    assert bench.reached({"FID": 80.0, "CLIP": 0.16})
    for quality in ({"FID": 80.0}, {"CLIP": 0.16}, {"FID": 80.0, "CLIP": math.nan}, {}):
        assert not bench.reached(quality)
    # CLIP as a percentage.
    assert not bench.reached({"FID": 80.0, "CLIP": 16.0})
