"""Results of later rounds, against the published minutes and the official code."""

import json
import shutil

import pytest

from scoring.rules.convergence import NOW, flavours, rcp_test
from scoring.rules.rounds import load_round
from scoring.runs.log_reader import read_log

# benchmark: round, published minutes (training_results_v3.1, _v4.1, _v5.1), evaluations' unit
PUBLISHED = {
    "gpt3": ("v3.1", 44.684850, "tokens"),
    "stable_diffusion": ("v4.1", 2.446517, "samples"),
    "llama2_70b_lora": ("v5.1", 21.022686, "samples"),
}


@pytest.mark.parametrize(
    "stem",
    [
        "llama2_70b_lora",
        pytest.param("stable_diffusion", marks=pytest.mark.slow),
        pytest.param("gpt3", marks=pytest.mark.slow),
    ],
)
def test_published_minutes_and_verdicts_agree_with_the_official_code(later, cli, stem):
    name, minutes, unit = PUBLISHED[stem]
    (folder,) = later.glob(f"{name}/*/results/*/{stem}")
    status, out, _ = cli("score", folder, "--official", "--json")
    (item,) = json.loads(out)["results"]
    assert (status, item["verdict"], item["progress_unit"]) == (0, "valid", unit)
    assert item["minutes"] == pytest.approx(minutes, abs=1e-3)
    assert item["official"]["minutes"] == pytest.approx(minutes, abs=1e-3)
    assert item["rcp"]["now"]["passed"] == item["official"]["rcp"].startswith("pass")
    status, out, _ = cli("check", folder)
    assert status == 0, out


def test_a_score_is_scaled_by_the_published_factor_or_the_computed_one(tmp_path, later, cli):
    (folder,) = later.glob("v5.1/*/results/*/llama2_70b_lora")
    (item,) = json.loads(cli("score", folder, "--json")[1])["results"]
    assert item["scaling_reason"] == "scaling.json"
    assert item["minutes"] == pytest.approx(item["raw_minutes"] * 1.034722, rel=1e-5)
    copy = tmp_path / "org/results/box/llama2_70b_lora"
    shutil.copytree(folder, copy)
    (copy / "scaling.json").unlink()
    (again,) = json.loads(cli("score", copy, "--round", "v5.1", "--json")[1])["results"]
    assert again["minutes"] == pytest.approx(item["minutes"], rel=1e-6)
    assert "faster than the reference's mean" in again["scaling_reason"]


@pytest.mark.parametrize("text", ['{"scaling_factor": ', '{"scaling_factor": "1.03"}', "[1]", "{}"])
def test_a_broken_factor_is_named_and_never_1(tmp_path, make, cli, text):
    for number in range(5):
        for name in ("v2.0", "v1.0"):
            path = tmp_path / name / f"org/results/box/resnet/result_{number}.txt"
            lines = [line.replace('"ssd"', '"resnet"') for line in make.ssd(seed=number)]
            make.write(path, lines)
            (path.parent / "scaling.json").write_text(text)
    for name, told in (("v2.0", True), ("v1.0", False)):
        (item,) = json.loads(cli("score", tmp_path / name, "--json")[1])["results"]
        lines = [line for line in item["reasons"] if "holds no factor for the score: " in line]
        assert bool(lines) == told
    assert item["scaling"] == 1


def test_score_misses_seeds_as_check_does(tmp_path, later, cli):
    (folder,) = later.glob("v5.1/*/results/*/llama2_70b_lora")
    for log in folder.glob("result_*.txt"):
        events = [json.loads(line.partition(" ")[2]) for line in log.read_text().splitlines()]
        for event in events:
            event["value"] = None if event["key"] == "seed" else event["value"]
        text = "\n".join(":::MLLOG " + json.dumps(event) for event in events)
        (tmp_path / log.name).write_text(text)
    (item,) = json.loads(cli("score", tmp_path, "--json")[1])["results"]
    count = len(item["runs"])
    assert item["reasons"] == [f"runs without a logged seed: {count}; from v4.1 on each has one"]
    assert cli("check", tmp_path)[0] == 1


def test_a_metric_that_is_missing_beside_another_is_told_in_words(tmp_path, later, cli):
    log = next(later.glob("v4.1/*/results/*/stable_diffusion/result_*.txt"))
    lines = [line for line in log.read_text().splitlines() if '"CLIP"' not in line]
    (tmp_path / "result_0.txt").write_text("\n".join(lines))
    _, out, _ = cli("check", tmp_path)
    assert "aggregated_eval_accuracy: found FID 8" in out
    assert "context" not in out


def test_no_factor_is_told_without_minutes(tmp_path, later, cli):
    (folder,) = later.glob("v5.1/*/results/*/llama2_70b_lora")
    for log in folder.glob("result_*.txt"):
        text = log.read_text().replace('"cache_clear"', '"cleared"')
        (tmp_path / log.name).write_text(text)
    (item,) = json.loads(cli("score", tmp_path, "--json")[1])["results"]
    assert item["minutes"] is None
    assert item["scaling"] > 1
    assert "faster than the reference's mean" not in cli("score", tmp_path)[1]


def test_metrics_that_are_logged_apart_make_one_evaluation(later):
    log = read_log(next(later.glob("v4.1/*/results/*/stable_diffusion/result_*.txt")))
    assert all(set(e.quality) == {"FID", "CLIP"} for e in log.evaluations)
    assert len({e.progress for e in log.evaluations}) == len(log.evaluations)


def test_before_v2_0_a_published_factor_is_told_and_not_applied(tmp_path, make, cli):
    folder = tmp_path / "v1.0/org/results/box/ssd"
    for number in range(5):
        evals = ((40, 0.1), (45 + 5 * number, 0.24))
        make.write(folder / f"result_{number}.txt", make.ssd(seed=number, evals=evals))
    (folder / "scaling.json").write_text('{"scaling_factor": 1.5}')
    (item,) = json.loads(cli("score", folder, "--json")[1])["results"]
    assert item["minutes"] == item["raw_minutes"] == pytest.approx(10.0)
    assert item["scaling_reason"] == "scaling.json (1.5) is not applied in v1.0"
    # The review of v2.0 wrote one; the official summarizer multiplies by it.
    (item,) = json.loads(cli("score", folder, "--round", "v1.1", "--json")[1])["results"]
    assert item["scaling_reason"] == "scaling.json (1.5) is not applied in v1.1"
    later = tmp_path / "v2.0/org/results/box/resnet"
    for number in range(5):
        lines = [line.replace('"ssd"', '"resnet"') for line in make.ssd(seed=number)]
        make.write(later / f"result_{number}.txt", lines)
    (later / "scaling.json").write_text('{"scaling_factor": 1.023}')
    (item,) = json.loads(cli("score", later, "--json")[1])["results"]
    assert item["scaling"] == 1.023


def test_llama31_405b_may_be_one_evaluation_below_the_minimum():
    """Against the official checker, which lowers its minimum by 46,080 samples."""
    from mlperf_logging.rcp_checker.rcp_checker import RCP_Checker

    bench = load_round("v5.0").benchmarks["llama31_405b"]
    checker = RCP_Checker("training", "5.0.0", "llama31_405b", False)
    record = checker._find_rcp(1152, "pruned_rcps")
    least = record["Min Epochs"] - 46080
    for mean, passes in ((least + 1, True), (least - 1, False)):
        verdict = rcp_test([mean] * 3, 1152, bench, "5.0.0", NOW)
        assert verdict.passed is passes
        assert checker._eval_submission_record(record, [mean] * 3, "")[0] is passes


@pytest.mark.parametrize("values", [[6016.0] * 10, [0.01] * 10])
def test_another_unit_is_refused_and_not_passed_by_thousands_of_percent(values):
    bench = load_round("v4.1").benchmarks["gnn"]
    verdict = rcp_test(values, 16384, bench, "4.1.0", NOW)
    assert verdict.passed is None
    assert verdict.other_unit
    assert "another unit than the reference points" in verdict.text


def test_the_rule_of_the_round_changes_with_the_rounds():
    switches = {name: flavours(name)[0] for name in ("v1.0", "v2.0", "v2.1", "v4.1")}
    assert [f.pruned for f in switches.values()] == [False, True, True, True]
    assert [f.scales for f in switches.values()] == [False, False, True, True]
    assert [f.spread_of_all for f in switches.values()] == [False, False, False, True]


def test_a_published_result_that_fails_the_test_needs_consent(tmp_path, make, cli):
    for place, verdict in (
        ("v1.0", "valid; convergence test failed: needs the review's consent"),
        ("mine", "invalid"),
    ):
        for number in range(5):
            path = tmp_path / place / f"org/results/box/ssd/result_{number}.txt"
            make.write(path, make.ssd(evals=((40, 0.24),), seed=number))
        _, out, _ = cli("score", tmp_path / place, "--json")
        (item,) = json.loads(out)["results"]
        assert item["verdict"] == verdict
        assert item["minutes"] == pytest.approx(10.0)


def test_more_runs_than_required_are_taken_where_the_round_asks_for_a_minimum(tmp_path, make, cli):
    folder = tmp_path / "org/results/box/ssd"
    for number in range(6):
        evals = ((40, 0.1), (50, 0.24))
        make.write(folder / f"result_{number}.txt", make.ssd(seed=number, evals=evals))
    for name, verdict in (("v1.0", "invalid"), ("v1.1", "valid")):
        (item,) = json.loads(cli("score", folder, "--round", name, "--json")[1])["results"]
        assert item["verdict"] == verdict
        assert item["runs_extra"] == 1


def test_from_v4_1_every_run_logs_a_seed(tmp_path, later, cli):
    (source,) = later.glob("v5.1/*/results/*/llama2_70b_lora")
    folder = tmp_path / "v5.1/org/results/box/llama2_70b_lora"
    shutil.copytree(source, folder)
    first, second, *_ = sorted(folder.glob("result_*.txt"))
    lines = first.read_text().splitlines(keepends=True)
    first.write_text("".join(line for line in lines if '"key": "seed"' not in line))
    status, out, _ = cli("check", first, second, "--json")
    runs = {run["name"]: run for run in json.loads(out)["runs"]}
    (finding,) = runs[first.name]["findings"]
    assert (status, finding["rule"], finding["found"]) == (1, "seed", "none")
    assert runs[second.name]["passed"]


def test_published_minutes_stand_where_the_checker_rejects_too_many_runs(tmp_path, make, cli):
    """As ten bert logs of v3.0, which lack opt_lamb_epsilon; else nothing would be left of it."""
    for place, bad, minutes, failed in (
        ("v1.0", 5, 10, 0),
        ("mine", 5, None, 5),
        ("v1.0", 1, 10, 1),
    ):
        for number in range(5):
            lines = make.ssd(seed=number, seconds=600, evals=((40, 0.1), (50, 0.24)))
            if number < bad:
                lines = [line for line in lines if '"opt_weight_decay"' not in line]
            make.write(tmp_path / place / f"org/results/box/ssd/result_{number}.txt", lines)
        folder = tmp_path / place / "org"
        (item,) = json.loads(cli("score", folder, "--round", "v1.0", "--json")[1])["results"]
        assert (item["minutes"], item["not_converged"]) == (minutes, failed)
        assert item["verdict"] == ("invalid" if bad == 5 else "valid")
        words = "runs that the official checker rejects, and that count as published: 5"
        assert (words in item["reasons"]) == (place == "v1.0" and bad == 5)


def test_copies_in_a_published_result_count_as_published_but_make_it_invalid(tmp_path, make, cli):
    """As three of Dell's dlrm logs of v1.0; the official summarizer counts them."""
    for place in ("v1.0", "mine"):
        for number, run in enumerate((0, 1, 2, 2, 2)):
            lines = make.ssd(seed=run, seconds=600 + 60 * run, evals=((40, 0.1), (50, 0.24)))
            make.write(tmp_path / place / f"org/results/box/ssd/result_{number}.txt", lines)
    (published,) = json.loads(cli("score", tmp_path / "v1.0", "--json")[1])["results"]
    assert (published["minutes"], published["verdict"]) == (pytest.approx(35 / 3), "invalid")
    assert published["reasons"] == [
        "runs that are copies of others, and that count as published: 2"
    ]
    (own,) = json.loads(cli("score", tmp_path / "mine", "--json")[1])["results"]
    assert (own["runs_found"], own["verdict"]) == (3, "incomplete")


def test_a_published_result_that_trained_much_longer_stays_valid(tmp_path, make, cli):
    """As Fujitsu's bert of v1.1, with 2.5 times the reference's samples."""
    for place, verdict in (("v1.0", "valid"), ("mine", "invalid")):
        for number in range(5):
            evals = tuple((e, 0.1) for e in (40, 50, 55, 60, 65, 70, 75, 80)) + ((150, 0.24),)
            path = tmp_path / place / f"org/results/box/ssd/result_{number}.txt"
            make.write(path, make.ssd(seed=number, evals=evals))
        (item,) = json.loads(cli("score", tmp_path / place, "--json")[1])["results"]
        assert item["verdict"] == verdict
        assert item["rcp"]["then"]["text"].endswith("unless the runs trained that much longer")
