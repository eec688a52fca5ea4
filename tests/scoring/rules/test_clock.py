"""The clock of a log against what else it says of its time."""

import json

import pytest


def shifted(lines, key, ms):
    """Move the lines of one key in time, not in the file."""
    moved = []
    for line in lines:
        event = json.loads(line.partition(" ")[2])
        if event["key"] == key:
            event["time_ms"] += ms
        moved.append(":::MLLOG " + json.dumps(event))
    return moved


def in_unit(lines, factor):
    events = [json.loads(line.partition(" ")[2]) for line in lines]
    moved = [{**event, "time_ms": event["time_ms"] * factor} for event in events]
    return [":::MLLOG " + json.dumps(event) for event in moved]


CASES = {
    "epochs before": (
        lambda lines: shifted(lines, "epoch_start", -60_000),
        "60 s before run_start",
    ),
    "evaluation before": (lambda lines: shifted(lines, "run_start", 599_000), "before run_start"),
    "late evaluation": (
        lambda lines: shifted(lines, "run_stop", -30_000),
        "30 s later than run_stop",
    ),
    "seconds": (lambda lines: in_unit(lines, 1e-3), "not in milliseconds but in seconds"),
    "microseconds": (lambda lines: in_unit(lines, 1e3), "in another unit"),
    "from zero": (lambda lines: in_unit(lines, 1e-9), "in another unit"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_clock_that_cannot_be_right_is_refused(tmp_path, make, cli, case):
    change, words = CASES[case]
    path = make.write(tmp_path / "result_0.txt", change(make.ssd()))
    status, out, _ = cli("check", path, "--round", "v1.0", "--json")
    (run,) = json.loads(out)["runs"]
    assert status == 1
    assert any(f["rule"] in ("clock", "the log") and words in f["found"] for f in run["findings"])
    _, out, _ = cli("score", path, "--round", "v1.0", "--json")
    (item,) = json.loads(out)["results"]
    refused = item["verdict"] == "invalid" and words in item["reasons"][0]
    assert refused or (item["not_converged"] == 1 and item["minutes"] is None)
    assert words in item["runs"][0]["notes"][0]


def test_an_honest_clock_passes_also_with_processes_a_little_apart(tmp_path, make, cli):
    lines = shifted(shifted(make.ssd(), "epoch_start", -900), "run_stop", -900)
    path = make.write(tmp_path / "result_0.txt", lines)
    assert cli("check", path, "--round", "v1.0")[0] == 0


def test_mini_go_may_evaluate_after_its_clock(published, cli):
    status, out, _ = cli("check", *published.glob("NVIDIA/results/*/minigo"), "--json")
    assert status == 0
    assert all(run["passed"] for run in json.loads(out)["runs"])
