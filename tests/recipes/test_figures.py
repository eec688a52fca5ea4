"""The data sheets' figures against the round's rules, and README's table against the sheets."""

import importlib
import math
import re
from pathlib import Path

import pytest

from callbacks.evaluation_schedule import EvaluationSchedule
from scoring.rules.rounds import load_round

ROOT = Path(__file__).parents[2]
STEMS = sorted(path.stem for path in (ROOT / "recipes").glob("[a-z]*.py"))
ROUND = load_round("v1.0").benchmarks


def sheet_of(stem):
    return importlib.import_module(f"recipes.{stem}").BENCHMARK


def test_every_recipe_has_rules_in_the_round():
    """Except one that was not in the round, which has no published time either."""
    assert set(ROUND) <= set(STEMS)
    others = set(STEMS) - set(ROUND)
    assert all(sheet_of(stem).needs.published_minutes is None for stem in others)


@pytest.mark.parametrize("stem", sorted(ROUND))
def test_target_mode_and_runs_are_the_rounds(stem):
    sheet, rules = sheet_of(stem), ROUND[stem]
    assert (sheet.mode, sheet.runs, sheet.dropped) == (rules.mode, rules.runs, rules.drop)
    assert list(sheet.metrics.values()) == list(rules.target.values())


# Evaluations: amounts that the sheet's schedule gives, against the rule by its own formula.


def evaluations(sheet, count, *, samples, batch):
    """First amounts of training at which a run evaluates: epochs, or samples in whole batches."""
    schedule = EvaluationSchedule(**sheet.evaluation)
    if sheet.evaluation_every:
        schedule.first = schedule.every = sheet.evaluation_every(batch)
    padded, done, amounts = math.ceil(samples / batch) * batch, 0.0, []
    for _ in range(count):
        done = schedule.next_amount(done, padded)
        amounts.append(done)
    assert amounts[-1] <= (schedule.limit or math.inf) or sheet.evaluation["unit"] == "samples"
    return amounts


@pytest.mark.parametrize("stem", ["resnet", "rnnt", "maskrcnn"])
def test_evaluations_every_so_many_epochs(stem):
    every = ROUND[stem].evaluation["epochs"]
    assert ROUND[stem].evaluation["kind"] == "every_epochs"
    first, *others = evaluations(sheet_of(stem), 5, samples=1000, batch=10)
    assert first <= every  # any offset is allowed
    assert others == [first + every * number for number in range(1, 5)]


def test_evaluations_of_ssd_are_at_the_rules_epochs():
    epochs = ROUND["ssd"].evaluation["epochs"]
    assert evaluations(sheet_of("ssd"), len(epochs), samples=117266, batch=1024) == epochs


@pytest.mark.parametrize("batch", [2, 32, 56, 80, 84])
def test_evaluations_of_unet3d_count_padded_epochs(batch):
    plan = ROUND["unet3d"].evaluation
    padded = math.ceil(plan["samples"] / batch) * batch
    first, every = (
        math.ceil(plan[f"{name}_epochs"] * plan["samples"] / padded) for name in ("first", "then")
    )
    got = evaluations(sheet_of("unet3d"), 5, samples=plan["samples"], batch=batch)
    assert got == [first + every * number for number in range(5)]


@pytest.mark.parametrize("batch", [256, 448, 3072, 8192, 12288])
def test_evaluations_of_bert_depend_on_the_batch(batch):
    plan = ROUND["bert"].evaluation
    exact = plan["share"] * (plan["per_batch"] * batch + plan["base"])
    every = math.floor(exact / plan["floor_to"]) * plan["floor_to"]
    got = evaluations(sheet_of("bert"), 4, samples=156_725_653, batch=batch)
    assert got == [every * number for number in (1, 2, 3, 4)]


def test_evaluations_of_dlrm_are_shares_of_the_epoch():
    rows, share = 4_195_197_692, ROUND["dlrm"].evaluation["share"]
    got = evaluations(sheet_of("dlrm"), 20, samples=rows, batch=55_296)
    assert [amount / rows for amount in got] == pytest.approx(
        [share * number for number in range(1, 21)], rel=3e-4
    )


def test_minigo_evaluates_every_generation():
    assert ROUND["minigo"].evaluation is None  # the rules leave it to the time after the clock
    assert evaluations(sheet_of("minigo"), 3, samples=100, batch=10) == [1, 2, 3]


# README.


def readme_rows():
    """Recipe -> cells of README's table of benchmarks: task, data set, target, minutes."""
    pattern = re.compile(r"^\| `(\w+)` \|(.+)\|$", re.MULTILINE)
    text = (ROOT / "README.md").read_text()
    return {stem: [c.strip() for c in cells.split("|")] for stem, cells in pattern.findall(text)}


def test_readme_lists_every_recipe_once():
    assert sorted(readme_rows()) == STEMS


@pytest.mark.parametrize("stem", STEMS)
def test_readme_names_the_sheets_target_and_data(stem):
    sheet, (_, data, target, _) = sheet_of(stem), readme_rows()[stem]
    figures = [float(word) for word in re.findall(r"\b\d\.\d+\b", target)]
    assert figures == list(sheet.metrics.values())
    sign = ">=" if sheet.mode == "max" else "<="
    # Mask R-CNN's two targets leave no room for a sign.
    assert sign in target or len(sheet.metrics) > 1
    assert not {">=", "<="} - {sign} & set(target.split())
    if stem != "minigo":  # "itself": its data comes out of the training
        assert sheet.dataset.startswith(data)
