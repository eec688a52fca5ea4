"""Submission trees: what is a result in them, and what is told about the rest."""

import json
import os

import pytest

from scoring.rules.rounds import load_round
from scoring.runs.result_sets import find_result_sets
from scoring.runs.run import find_runs

SHEET = {"division": "closed", "number_of_nodes": "2", "accelerators_per_node": "8"}


def tree(root, make, *, runs=5, sheet=SHEET, seeds=True):
    """A submitter's directory with one ssd result."""
    org = root / "org"
    (org / "systems").mkdir(parents=True)
    if sheet is not None:
        text = sheet if isinstance(sheet, str) else json.dumps(sheet)
        (org / "systems/box.json").write_text(text)
    for number in range(runs):
        lines = make.ssd(seconds=600 + number, seed=number if seeds else 7)
        make.write(org / f"results/box/ssd/result_{number}.txt", lines)
    return org


def names(path):
    return [str(run.log.path.name) for run in find_runs(path)]


def score(cli, path):
    status, out, err = cli("score", path, "--json")
    assert err == ""
    (result,) = json.loads(out)["results"]
    return status, result


def test_only_results_are_results_from_wherever_one_looks(tmp_path, make, monkeypatch):
    org = tree(tmp_path, make)
    lines = make.ssd()
    for place in ("results/box/ssd/power/result_0/node_0.txt", "results/box/ssd/result.txt",
                  "results/box/ssd/results.txt", "results/box/ssd/old/result_0.txt",
                  "results/box/ssd/slurm-7.out", "results/box/result_0.txt", "results/all.log",
                  "benchmarks/ssd/implementations/x/result_0.txt", "systems/result_1.txt",
                  "checker.log"):  # fmt: skip
        make.write(org / place, lines)
    expected = [f"result_{number}.txt" for number in range(5)]
    for place in ("..", ".", "results", "results/box", "results/box/ssd"):
        assert names(org / place) == expected, place
    monkeypatch.chdir(org / "results")
    assert names(__import__("pathlib").Path("box")) == expected
    assert names(org / "results/box/ssd/power") == []


def test_a_directory_of_results_without_descriptions_is_read_alike(tmp_path, make):
    for place in ("result_0.txt", "result.txt", "power/result_0/node_0.txt", "old/result_0.txt"):
        make.write(tmp_path / "results/box/ssd" / place, make.ssd())
    assert names(tmp_path) == ["result_0.txt"]


def test_run_folders_keep_their_log_whatever_their_root_is_called(tmp_path, make):
    make.run(tmp_path / "results", number=1)
    make.run(tmp_path / "results", number=2)
    assert names(tmp_path) == ["result.txt", "result.txt"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "gzip", "zip"])
def test_a_result_that_cannot_be_read_is_an_error_and_no_failed_run(tmp_path, make, cli, kind):
    bad = tree(tmp_path, make) / "results/box/ssd/result_2.txt"
    bad.unlink()
    if kind == "folder":
        bad.mkdir()
    elif kind == "pipe":
        os.mkfifo(bad)
    elif kind == "link":
        bad.symlink_to("nowhere.txt")
    else:
        bad.write_bytes({"gzip": b"\x1f\x8b\x08", "zip": b"PK\x03\x04"}[kind] + bytes(200))
    status, result = score(cli, tmp_path)
    assert (status, result["verdict"], result["not_converged"]) == (1, "invalid", 0)
    assert result["reasons"][0].startswith(f"{bad} cannot be read: ")
    status, out, _ = cli("check", tmp_path)
    assert status == 1
    assert out.count("cannot be read") == 1
    assert "4 of 5 runs pass" in out


def test_a_directory_that_cannot_be_listed_is_an_error(tmp_path, make, cli, monkeypatch):
    org = tree(tmp_path, make)
    listed = os.scandir

    def refuse(path):
        if str(path).endswith("results/box"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    status, _, err = cli("score", org)
    assert (status, "results/box: Permission denied" in err) == (2, True)


def test_a_copied_log_is_no_second_run_in_score_and_check(tmp_path, make, cli):
    folder = tree(tmp_path, make) / "results/box/ssd"
    (folder / "result_4.txt").write_text((folder / "result_0.txt").read_text())
    _, result = score(cli, tmp_path)
    assert (result["verdict"], result["runs_found"]) == ("incomplete", 4)
    (copy,) = [run for run in result["runs"] if run["outcome"] == "left out"]
    assert "a copy of result_0.txt" in copy["notes"][0]
    status, out, _ = cli("check", tmp_path)
    assert (status, "found a copy of result_0.txt; allowed: a run of its own" in out) == (1, True)


def test_equal_seeds_are_seen_by_score_as_by_check(tmp_path, make, cli):
    tree(tmp_path, make, seeds=False)
    status, result = score(cli, tmp_path)
    assert (status, result["verdict"], result["runs_found"]) == (1, "invalid", 5)
    assert result["reasons"][0] == "result_1.txt: seed 7, as in result_0.txt"
    assert "seed: found 7, as in result_0.txt" in cli("check", tmp_path)[1]


def test_ranks_that_log_their_seed_each_share_none(tmp_path, make, cli):
    folder = tree(tmp_path, make) / "results/box/ssd"
    for path in folder.iterdir():
        lines = path.read_text().splitlines()
        (seed,) = [line for line in lines if '"seed"' in line]
        make.write(path, [seed, *lines])
    assert score(cli, tmp_path)[1]["verdict"] == "valid"


@pytest.mark.parametrize(
    ("sheet", "words"),
    [
        ("{", "box.json is not a system description: Expecting property name"),
        ("[]", "box.json is not a system description: not an object"),
        ('{"division": "closd"}', "unknown division 'closd'; allowed: closed or open"),
        ('{"division": 7}', "unknown division '7'; allowed"),
        ("\x00\x01", "box.json is not a system description"),
    ],
)
def test_a_broken_description_or_an_unknown_division_is_no_result(
    tmp_path, make, cli, sheet, words
):
    tree(tmp_path, make, sheet=sheet)
    status, result = score(cli, tmp_path)
    assert (status, result["verdict"]) == (1, "invalid")
    assert words in result["reasons"][0]
    status, out, _ = cli("check", tmp_path)
    assert (status, words in out) == (1, True)


@pytest.mark.parametrize(
    ("sheet", "words"),
    [
        (None, "there is no systems/box.json"),
        ({**SHEET, "number_of_nodes": "two"}, "does not count accelerators: number_of_nodes 'two'"),
        ({"division": "closed"}, "does not count accelerators: number_of_nodes None"),
    ],
)
def test_what_a_description_lacks_is_told(tmp_path, make, cli, sheet, words):
    tree(tmp_path, make, sheet=sheet)
    status, result = score(cli, tmp_path)
    assert (status, result["verdict"]) == (0, "valid")
    assert words in result["remarks"][0]
    assert words in cli("check", tmp_path)[1]


@pytest.mark.parametrize(
    ("nodes", "count"), [(2, 16), ("2", 16), (2.0, 16), ("2 nodes", 16), (1.5, None), ("inf", None)]
)
def test_nodes_are_counted_as_they_are_written(tmp_path, make, nodes, count):
    """MosaicML's v2.1 sheets have 1.0 nodes."""
    org = tree(tmp_path, make, sheet={**SHEET, "number_of_nodes": nodes})
    (found,) = find_result_sets([org], load_round("v1.0").benchmarks)
    assert found.accelerators == count


def test_escapes_in_a_description_do_not_reach_the_terminal(tmp_path, make):
    org = tree(tmp_path, make, sheet={**SHEET, "system_name": "\x1b[31mred"})
    (found,) = find_result_sets([org], load_round("v1.0").benchmarks)
    assert found.description["system_name"] == "\\x1b[31mred"
