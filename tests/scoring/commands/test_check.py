"""Check: the official verdict in plain words, and our own rules."""

import json
import re
from pathlib import Path

import mlperf_logging.compliance_checker
import pytest
import yaml

from scoring.official.plain_words import allowed_words, explain
from scoring.rules.rounds import load_round, round_names


def checked(cli, *paths):
    status, out, _ = cli("check", *paths, "--json")
    return status, json.loads(out)["runs"]


def test_published_logs_pass_but_the_one_that_missed_the_target(published, cli):
    status, runs = checked(cli, published / "NVIDIA/results/dgxa100_ngc21.05_mxnet/resnet")
    assert status == 1
    failed = [run for run in runs if not run["passed"]]
    assert [run["name"] for run in failed] == ["result_1.txt"]
    (finding,) = failed[0]["findings"]
    assert finding["rule"] == "eval_accuracy"
    assert finding["allowed"] == "at least one line with value >= 0.7590 and value < 1.0"


def test_a_sound_log_passes(tmp_path, make, cli):
    path = make.write(tmp_path / "result_0.txt", make.ssd())
    status, out, _ = cli("check", path)
    assert (status, "1 of 1 runs pass" in out) == (0, True)


def test_a_broken_rule_names_key_line_value_and_what_is_allowed(tmp_path, make, cli):
    lines = ["noise", "", *make.ssd(max_samples=7)]
    _, (run,) = checked(cli, make.write(tmp_path / "result_0.txt", lines))
    (finding,) = run["findings"]
    assert finding["rule"] == "max_samples"
    assert "max_samples" in lines[finding["line"] - 1]
    assert (finding["found"], finding["allowed"]) == ("7", "one of 1, 50")


def test_a_missing_key_is_told(tmp_path, make, cli):
    lines = [line for line in make.ssd() if "max_samples" not in line]
    _, (run,) = checked(cli, make.write(tmp_path / "result_0.txt", lines))
    (finding,) = run["findings"]
    assert (finding["rule"], finding["found"], finding["allowed"]) == (
        "max_samples", "none", "exactly one line",
    )  # fmt: skip


def test_a_crash_of_the_checker_stays_with_its_log(tmp_path, make, cli):
    """A null accuracy kills the official checker; the next log must still be judged fairly."""
    make.write(tmp_path / "a.log", make.ssd(evals=((40, None), (50, 0.24)), seed=1))
    make.write(tmp_path / "b.log", make.ssd(seed=2))
    _, runs = checked(cli, tmp_path)
    by_name = {run["name"]: run for run in runs}
    assert "crashed on this log" in by_name["a.log"]["findings"][0]["found"]
    assert by_name["b.log"]["passed"]


def test_a_missing_seed_is_noted_and_no_failure(tmp_path, make, cli):
    lines = [line for line in make.ssd() if '"seed"' not in line]
    _, (run,) = checked(cli, make.write(tmp_path / "result_0.txt", lines))
    assert run["passed"]
    assert "no seed logged" in run["notes"][0]


def test_a_shared_seed_is_found(tmp_path, make, cli):
    folder = tmp_path / "org/results/box/ssd"
    for number in range(2):
        make.write(folder / f"result_{number}.txt", make.ssd(seed=5, seconds=600 + number))
    _, runs = checked(cli, folder)
    assert [[f["rule"] for f in run["findings"]] for run in runs] == [[], ["seed"]]


@pytest.mark.parametrize("value", [0.25, 0.22])
def test_going_on_after_the_target_breaks_no_rule_and_is_told(tmp_path, make, cli, value):
    """It only costs the submitter time, also where the next evaluation misses the target."""
    lines = make.ssd(evals=((40, 0.24), (50, value)))
    status, (run,) = checked(cli, make.write(tmp_path / "result_0.txt", lines))
    assert (status, run["official"], run["passed"], run["findings"]) == (0, True, True, [])
    assert "training continued to 50 after the target was reached at 40" in run["notes"]


def test_ranks_that_log_one_evaluation_do_not_go_on(tmp_path, make, cli):
    lines = make.ssd()
    last = max(number for number, line in enumerate(lines) if '"eval_accuracy"' in line)
    lines[last:last] = [lines[last]] * 3
    _, (run,) = checked(cli, make.write(tmp_path / "result_0.txt", lines))
    assert run["passed"]
    assert not any("continued" in note for note in run["notes"])


def test_evaluations_out_of_line_order_keep_the_schedule(tmp_path, make, cli):
    """Asynchronous evaluations come as they end."""
    lines = make.ssd(evals=((40, 0.15), (55, 0.18), (50, 0.16), (60, 0.24)))
    _, (run,) = checked(cli, make.write(tmp_path / "result_0.txt", lines))
    assert run["passed"], run["findings"]


def test_no_seed_is_no_repeated_seed(tmp_path, make, cli):
    folder = tmp_path / "org/results/box/ssd"
    for number in range(2):
        make.write(folder / f"result_{number}.txt", make.ssd(seed=None, seconds=500 + number))
    _, runs = checked(cli, folder)
    assert all(run["passed"] for run in runs)
    assert all(any("no seed logged" in note for note in run["notes"]) for run in runs)


def test_aborted_although_the_target_was_reached_is_found(tmp_path, make, cli):
    _, (run,) = checked(cli, make.write(tmp_path / "r.txt", make.ssd(status="aborted")))
    assert run["official"]
    assert [f["rule"] for f in run["findings"]] == ["run_stop"]


def test_resumed_and_closed_demo_runs_fail(tmp_path, make, cli):
    make.run(tmp_path, number=1, resumed=True, demo=True)
    _, (run,) = checked(cli, tmp_path)
    assert {f["rule"] for f in run["findings"]} == {"one clock", "division"}


def test_expressions_of_the_rule_files_in_words():
    assert allowed_words(" v['value'] in ['closed', 'open'] ") == "one of 'closed', 'open'"
    assert allowed_words("is_integer(v['value'] / 0.02) ") == "a whole multiple of 0.02"
    minutes = "ll.timestamp - s['first_init_start'] < (30*60*1e3)"
    assert allowed_words(minutes) == "less than 30 minutes after the first init_start"
    assert allowed_words("len(v['value']) == 2") == "a list of 2 values"
    # Those of later rounds.
    either = "('epoch_num' in v['metadata']) | ('samples_count' in v['metadata'])"
    assert allowed_words(either) == "a line with epoch_num or samples_count in its metadata"
    count = "v['metadata']['samples_count'] >= 0 if 'samples_count' in v['metadata'] else True"
    assert allowed_words(count) == "samples_count, where given, of at least 0"
    assert allowed_words("v['value'] >= s['target_accuracy']") == "at least target_accuracy"
    assert allowed_words("isinstance(v['value'], int) ") == "a whole number"


def test_no_rule_of_any_round_is_shown_as_code():
    tables = (path for name in round_names() for path in _rule_files(name))
    checks = {text for path in tables for text in _checks(yaml.safe_load(path.read_text()))}
    assert len(checks) > 50
    for text in checks:
        assert not re.search(r"\b[vs]\[|ll\.timestamp|isinstance", allowed_words(text)), text


def _rule_files(name):
    ruleset = load_round(name).checker_ruleset
    return Path(mlperf_logging.compliance_checker.__path__[0], f"training_{ruleset}").glob("*.yaml")


def _checks(records):
    keys = [facts for record in records for facts in record.values() if isinstance(facts, dict)]
    values = [
        facts[key] for facts in keys for key in ("CHECK", "ATLEAST_ONE_CHECK") if key in facts
    ]
    return [text for v in values for text in (v if isinstance(v, list) else [v])]


def test_rnnt_tensors_that_are_missing_or_twice_are_named(tmp_path, published, cli):
    (source,) = published.glob("NVIDIA/results/*/rnnt/result_0.txt")
    lines = source.read_text().splitlines()
    (first,) = [line for line in lines if '"pre_rnn"' in line]
    spoilt = [line.replace('"pre_rnn"', '"dec_rnn"') if line is first else line for line in lines]
    path = tmp_path / "result_0.txt"
    path.write_text("\n".join(spoilt))
    _, (run,) = checked(cli, path)
    (finding,) = run["findings"]
    assert finding["rule"] == "initialized tensors"
    assert finding["found"] == "pre_rnn missing, dec_rnn repeated"
    assert finding["allowed"].startswith("each of pre_rnn, post_rnn, pred_embed")


def test_an_unknown_message_is_passed_on():
    assert explain("Something new happened", []).found == "Something new happened"


def test_other_files_among_several_paths_are_skipped(tmp_path, make, cli):
    good = make.write(tmp_path / "a.log", make.ssd())
    page = make.write(tmp_path / "report.html", ["<html>"])
    status, out, err = cli("check", good, page)
    assert (status, "1 of 1 runs pass" in out) == (0, True)
    assert err == "check: skipped, as they have no ':::MLLOG' line: report.html\n"
    empty = make.write(tmp_path / "result_1.txt", ["killed"])
    assert cli("check", good, empty)[0] == 1  # a broken log is no other file
    assert cli("check", page)[0] == 1


def test_a_sound_log_that_missed_the_target_is_told(tmp_path, make, cli):
    lines = make.ssd(evals=((40, 0.15), (50, 0.2)), status="aborted", submission_division="open")
    _, out, _ = cli("check", make.write(tmp_path / "a.log", lines))
    assert "passes (did not converge); accepted" in out
    _, out, _ = cli("check", make.write(tmp_path / "b.log", make.ssd()))
    assert "did not converge" not in out


def _cut_in_a_line(lines):
    return [*lines[:-3], lines[-3][:60]]


def _without(key):
    return lambda lines: [line for line in lines if key not in line]


STRUCTURE = {
    "empty": (lambda lines: [], "no ':::MLLOG' line"),
    "random": (lambda lines: ["\x00\x07\xff", "q" * 500], "no ':::MLLOG' line among its 2 lines"),
    "no run_start": (_without("run_start"), "no run_start"),
    "cut in a line": (_cut_in_a_line, "truncated?; no run_stop"),
    "cut between lines": (lambda lines: lines[:-1], "no run_stop: truncated"),
}


@pytest.mark.parametrize("kind", STRUCTURE)
def test_a_log_that_cannot_be_judged_has_one_finding(tmp_path, make, cli, kind):
    spoil, words = STRUCTURE[kind]
    path = make.write(tmp_path / "result_0.txt", spoil(make.ssd()))
    status, out, _ = cli("check", path)
    told = [line for line in out.splitlines() if line.startswith("  ")]
    assert (status, len(told)) == (1, 1), out
    assert f"the log: found {words}" in told[0] or words in told[0]
    assert "rules could not be judged" in told[0]


def test_an_empty_file_is_called_empty_and_nothing_else(tmp_path, cli):
    path = tmp_path / "result_0.txt"
    path.touch()
    _, (run,) = checked(cli, path)
    assert [finding["found"] for finding in run["findings"]] == ["empty file"]
    assert run["not_judged"] > 10


def test_an_unknown_benchmark_is_one_finding_with_the_names_that_exist(tmp_path, make, cli):
    lines = make.ssd(submission_benchmark="resnat")
    path = make.write(tmp_path / "result_0.txt", lines)
    status, out, _ = cli("check", path)
    told = [line for line in out.splitlines() if line.startswith("  ")]
    assert status == 1
    assert told == [
        "  - submission_benchmark (line 1): found 'resnat'; allowed: one of bert, dlrm, maskrcnn, "
        "minigo, resnet, rnnt, ssd, unet3d (round v1.0) [our own check]"
    ]
    nothing = make.write(tmp_path / "result_1.txt", make.ssd(submission_benchmark=None))
    _, (run,) = checked(cli, nothing)
    assert [(f["rule"], f["found"]) for f in run["findings"]] == [("submission_benchmark", "null")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_check_and_score_agree_on_a_wide_file(tmp_path, make, cli, encoding):
    """The official tools would refuse it, so it fails, and no score rests on it."""
    folder = tmp_path / "org/results/box/ssd"
    for number in range(5):
        wide = number == 0
        lines = make.ssd(seed=number)
        make.write(folder / f"result_{number}.txt", lines, encoding if wide else "utf-8")
    words = "UTF-16; the official tools read UTF-8 only: convert it before you submit"
    status, runs = checked(cli, folder)
    assert status == 1
    assert {run["name"]: [f["found"] for f in run["findings"]] for run in runs} == {
        "result_0.txt": [words], **{f"result_{n}.txt": [] for n in range(1, 5)},
    }  # fmt: skip
    status, out, _ = cli("score", folder, "--json")
    (result,) = json.loads(out)["results"]
    assert (status, result["verdict"], result["runs_found"]) == (1, "incomplete", 4)
    assert [run["notes"] for run in result["runs"] if run["outcome"] == "left out"] == [[words]]


def test_a_bad_file_beside_good_ones_changes_only_its_own_verdict(tmp_path, make, cli):
    make.write(tmp_path / "result_0.txt", make.ssd(submission_benchmark="resnat"))
    make.write(tmp_path / "result_1.txt", make.ssd(seed=2))
    _, runs = checked(cli, tmp_path)
    assert {run["name"]: run["passed"] for run in runs} == {
        "result_0.txt": False, "result_1.txt": True,
    }  # fmt: skip


def test_a_late_init_stop_says_its_minutes_once(tmp_path, make, cli):
    begin = make.line("init_start")
    lines = [line for line in make.ssd() if line != begin]
    lines.insert(lines.index(make.line("init_stop", ms=10_000)), make.line("init_start", ms=-2e6))
    log = make.write(tmp_path / "result_0.txt", lines)
    findings = json.loads(cli("check", log, "--round", "v1.0", "--json")[1])["runs"][0]["findings"]
    (late,) = [finding for finding in findings if "init" in finding["rule"]]
    assert late["found"] == "33.5 minutes after the first init_start"
    assert (late["rule"], late["allowed"]) == ("init_stop", "less than 30")
