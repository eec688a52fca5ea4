"""Each result is judged by its own round, and every output says which and why."""

import json
import shutil

import pytest

from scoring.rules.find_round import by_date, candidates, round_of_place

DAY_MS = 86_400_000
MAY_2021 = 1_620_000_000_000


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("training_results_v5.1/ORG/results/BOX/bert", "v5.1"),
        ("mlperf-training-v4.0/bert", "v4.0"),
        ("v3.1/ORG/results/BOX/ssd", "v3.1"),
        ("training_2.1.0/ORG/results/BOX/ssd", "v2.1"),
        ("Results v1.1/x", "v1.1"),
        ("dgxa100_ngc21.05_pytorch/bert", None),
        ("pytorch_v1.0/bert", None),
        ("training_results_v9.9/bert", None),
    ],
)
def test_a_directory_names_the_round(tmp_path, folder, name):
    found = round_of_place(tmp_path / folder)
    assert (found and found.name) == name


@pytest.mark.parametrize("depth", [2, 3])
def test_a_readme_names_the_round(tmp_path, depth):
    folder = tmp_path / "some/ORG/results/BOX/bert"
    folder.mkdir(parents=True)
    (folder.parents[depth] / "README.md").write_text("# MLPerf™ Training v4.1 Results\n")
    found = round_of_place(folder)
    assert found.name == "v4.1"
    assert "README.md" in found.reason
    # The README of anything else above says nothing of these logs.
    assert round_of_place(folder.parents[depth] / "logs") is None


def test_a_date_chooses_the_first_round_published_after_it():
    names = candidates("resnet")
    assert names[0] == "v0.7"
    assert names[-1] == "v4.0"
    assert by_date(names, MAY_2021)[0] == "v1.0"
    assert by_date(names, MAY_2021 + 70 * DAY_MS)[0] == "v1.1"
    # Without a date, or one after them all, the recipes' round.
    assert by_date(names, None)[0] == by_date(names, MAY_2021 + 3000 * DAY_MS)[0] == "v1.0"
    assert by_date(candidates("llama31_8b"), None)[0] == "v6.1"
    # A clock in seconds, or one that does not count from 1970, tells no date.
    for clock in (0, MAY_2021 / 1000, 60_000_000_000, MAY_2021 * 1000):
        assert by_date(names, clock) == by_date(names, None)


def test_every_output_names_the_round_and_why(tmp_path, make, cli):
    make.run(tmp_path / "own")
    for command, key in (("check", "runs"), ("score", "results")):
        for flags, name, words in (
            ([], "v1.0", "the round of this repository's recipe"),
            (["--round", "1.1.0"], "v1.1", "--round 1.1.0"),
        ):
            _, out, _ = cli(command, tmp_path / "own", *flags)
            assert f"{name} ({words})" in out
            _, out, _ = cli(command, tmp_path / "own", *flags, "--json")
            data = json.loads(out)
            assert data["round"] == name
            assert data["rounds"] == [{"name": name, "reasons": [words]}]
            assert [(item["round"], item["round_reason"]) for item in data[key]] == [(name, words)]


def test_results_of_several_rounds_are_each_judged_by_their_own(later, cli):
    status, out, _ = cli("score", later / "v3.1", later / "v5.1", "--json")
    data = json.loads(out)
    assert (status, data["round"]) == (0, None)
    assert {item["benchmark"]: item["round"] for item in data["results"]} == {
        "gpt3": "v3.1",
        "llama2_70b_lora": "v5.1",
    }


def test_a_bare_log_is_judged_by_its_benchmark_and_day(tmp_path, later, cli):
    (source,) = later.glob("v2.1/*/results/*/ssd/result_1.txt")
    shutil.copy(source, tmp_path / "retinanet.txt")
    status, out, _ = cli("check", tmp_path / "retinanet.txt", "--json")
    (run,) = json.loads(out)["runs"]
    assert (status, run["round"]) == (0, "v2.1")
    assert run["round_reason"] == "ssd is in v0.7 to v4.1; dated 2022-10-17"


@pytest.mark.parametrize("command", ["check", "score"])
def test_a_round_of_another_benchmark_is_refused(tmp_path, later, cli, command):
    (source,) = later.glob("v2.1/*/results/*/ssd/result_1.txt")
    shutil.copy(source, tmp_path / "result_1.txt")
    status, out, err = cli(command, tmp_path, "--round", "v1.0")
    assert (status, out) == (2, "")
    assert "ssd is SSD-ResNet34 in v1.0 but these logs are of RetinaNet (v2.1: " in err
    # The other rounds of RetinaNet may judge it.
    assert cli(command, tmp_path, "--round", "v3.0", "--json")[0] in (0, 1)


def test_a_log_of_no_day_is_told_apart_by_the_checkers_rules(tmp_path, later, cli):
    """Newer than every round with ssd: only rules of RetinaNet accept it."""
    (source,) = later.glob("v2.1/*/results/*/ssd/result_1.txt")
    text = source.read_text().replace('"time_ms": 16', '"time_ms": 19')
    (tmp_path / "result_1.txt").write_text(text)
    _, out, _ = cli("check", tmp_path, "--json")
    (run,) = json.loads(out)["runs"]
    assert run["round"] in ("v2.0", "v2.1", "v3.0", "v3.1", "v4.0", "v4.1")
    assert "accepted by the checker's rules" in run["round_reason"]
