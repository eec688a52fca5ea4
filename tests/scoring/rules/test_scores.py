"""Scores: equal to the published table and the official code; what counts and what does not."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from scoring.official.checkers import second_opinion
from scoring.published import published
from scoring.rules.rounds import load_round
from scoring.rules.scores import score
from scoring.runs.result_sets import find_result_sets

RULES = load_round("v1.0")
DATA = Path(__file__).parents[1] / "data"


def scores_of(*paths):
    return [score(found, RULES) for found in find_result_sets(paths, RULES.benchmarks)]


def table_row(item):
    with (DATA / "published_v1.0.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = (item.submitter, item.system, item.benchmark)
    return next(r for r in rows if (r["submitter"], r["system_name"], r["benchmark"]) == names)


def test_published_logs_give_the_published_table(published):
    items = scores_of(published)
    assert sorted({item.benchmark for item in items}) == sorted(RULES.benchmarks)
    for item in items:
        row = table_row(item)
        assert item.minutes == pytest.approx(float(row["minutes"]), abs=1e-3)
        assert item.fastest == pytest.approx(float(row["fastest_run_minutes"]), abs=1e-3)
        assert item.division == row["division"]
        assert item.not_converged == int(row["not_converged"])
        progress = float(row["mean_epochs_or_samples_to_target"])
        assert item.mean_progress == pytest.approx(progress, rel=1e-4)
        assert item.verdict == "valid"


@pytest.mark.parametrize("benchmark", ["resnet", "unet3d", "dlrm", "maskrcnn"])
def test_scores_equal_the_official_summarizer(published, benchmark):
    item = next(s for s in scores_of(published) if s.benchmark == benchmark)
    opinion = second_opinion(item)
    assert opinion["minutes"] == pytest.approx(item.minutes, abs=1e-3)
    assert opinion["rcp"].startswith("pass") == bool(item.rcp["now"].passed)


def test_json_is_plain_and_round_trips(published, cli):
    status, out, _ = cli("score", published / "NVIDIA", "--json")
    assert status == 0
    results = json.loads(out)["results"]
    assert {r["benchmark"] for r in results} == set(RULES.benchmarks) - {"maskrcnn"}
    resnet = next(r for r in results if r["benchmark"] == "resnet")
    assert resnet["minutes"] == pytest.approx(28.7709, abs=1e-3)
    assert resnet["rcp"]["now"]["scaling"] == pytest.approx(28.8973 / 28.7709, abs=1e-5)
    assert resnet["dropped_slow"] == [None]


def test_own_run_folders_make_one_result(tmp_path, make):
    for number, seconds in enumerate([600, 610, 620, 630, 900], start=1):
        make.run(tmp_path, number=number, seconds=seconds)
    (item,) = scores_of(tmp_path)
    assert item.minutes == pytest.approx(620 / 60)
    assert (item.verdict, item.runs_found, item.runs_missing) == ("valid", 5, 0)
    assert item.spread == pytest.approx((200 / 3) ** 0.5 / 60)
    assert item.rcp["then"].passed


def test_one_kept_run_has_no_standard_deviation(tmp_path, make, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")  # a narrower table breaks the row
    for number in (1, 2, 3):
        make.run(tmp_path, number=number, seconds=600 + number)
    (item,) = scores_of(tmp_path)
    assert item.spread is None
    (row,) = [line for line in cli("score", tmp_path)[1].splitlines() if line.startswith(" ssd")]
    assert row.split("3/5")[0].split()[-1] == "-"


def test_one_failure_is_dropped_and_two_make_no_score(tmp_path, make):
    for number in range(1, 5):
        make.run(tmp_path, number=number, seconds=600 + number)
    make.run(tmp_path, number=5, status="aborted")
    (item,) = scores_of(tmp_path)
    assert (item.not_converged, item.verdict) == (1, "valid")
    assert item.minutes == pytest.approx(603 / 60)
    assert item.interval[1] is None
    make.run(tmp_path, number=1, seed=101, status="aborted")
    (item,) = scores_of(tmp_path)
    assert (item.minutes, item.verdict) == (None, "invalid")
    assert "runs that did not converge: 2; at most 1 may" in item.reasons


def test_runs_are_missing_until_there_are_enough(tmp_path, make):
    for number in range(1, 4):
        make.run(tmp_path, number=number)
    (item,) = scores_of(tmp_path)
    assert (item.verdict, item.runs_missing) == ("incomplete", 2)
    assert item.minutes is not None


def test_resumed_interrupted_and_running_runs_are_left_out(tmp_path, make):
    for number in range(1, 6):
        make.run(tmp_path, number=number, seconds=600)
    make.run(tmp_path, number=6, seconds=1, resumed=True, status="RESUMED")
    make.run(tmp_path, number=7, seconds=1, status="aborted", stop_reason="INTERRUPTED")
    lines = make.ssd()[:-1]
    make.run(tmp_path, number=8, status="running", stop_reason=None, lines=lines)
    (item,) = scores_of(tmp_path)
    assert (item.runs_found, item.verdict, item.minutes) == (5, "valid", 10.0)
    assert sum(not run.counts for run in item.runs) == 3


def test_a_run_that_died_before_its_clock_is_shown_and_not_counted(tmp_path, make):
    folder = make.run(tmp_path, number=1)
    (folder / "run.json").unlink()
    (folder / "result.txt").write_text("")
    (item,) = scores_of(tmp_path)
    assert (item.runs_found, item.benchmark, item.verdict) == (0, "ssd", "incomplete")
    assert item.runs[0].notes == ("ended before its clock started",)


def test_a_crashed_run_counts_as_not_converged(tmp_path, make):
    make.run(tmp_path, number=1)
    make.run(tmp_path, number=2, status="aborted", stop_reason="FAILED", lines=make.ssd()[:-1])
    (item,) = scores_of(tmp_path)
    assert item.not_converged == 1
    assert "no run_stop" in item.runs[1].notes[0]


def test_other_network_or_batch_is_another_result(tmp_path, make):
    make.run(tmp_path, number=1)
    make.run(tmp_path, number=2, net="my.Net", division="open")
    make.run(tmp_path, number=3, net="my.Net", net_arguments={"width": 8}, division="open")
    make.run(tmp_path, number=4, global_batch_size=2048)
    items = scores_of(tmp_path)
    assert len(items) == 4
    assert len({item.name for item in items}) == 4
    assert any("net my.Net(width=8)" in item.configuration for item in items)


def test_demo_runs_have_no_convergence_test(tmp_path, make):
    for number in range(1, 6):
        make.run(tmp_path, number=number, demo=True, division="open")
    (item,) = scores_of(tmp_path)
    assert item.demo
    assert item.rcp == {}


def test_success_without_reaching_the_target_is_no_result(tmp_path, make):
    folder = tmp_path / "org/results/box/ssd"
    for number in range(4):
        make.write(folder / f"result_{number}.txt", make.ssd(seed=number))
    false = make.ssd(seconds=1, evals=((40, 0.1), (50, 0.2299999)))
    make.write(folder / "result_4.txt", false)
    (item,) = scores_of(tmp_path)
    assert item.not_converged == 1
    assert item.minutes == 10
    notes = " ".join(note for run in item.runs for note in run.notes)
    assert "no evaluation reached the target" in notes


def test_open_division_needs_no_target_and_reports_the_geometric_mean(tmp_path, make, cli):
    folder = tmp_path / "org/results/box/ssd"
    for number, quality in enumerate([0.1, 0.2, 0.1, 0.2, 0.1]):
        lines = make.ssd(evals=((3, quality),), submission_division="open", seed=number)
        make.write(folder / f"result_{number}.txt", lines)
    (item,) = scores_of(tmp_path)
    assert (item.verdict, item.rcp) == ("valid", {})
    assert item.quality_mean["mAP"] == pytest.approx((0.1**3 * 0.2**2) ** 0.2)
    assert "geometric mean of the final quality: mAP 0.132" in cli("score", folder)[1]


def test_too_fast_convergence_fails_the_result(tmp_path, make):
    folder = tmp_path / "org/results/box/ssd"
    for number in range(5):
        lines = make.ssd(evals=((40, 0.24),), seed=number)
        make.write(folder / f"result_{number}.txt", lines)
    (item,) = scores_of(tmp_path)
    assert item.verdict == "invalid"
    assert "convergence test failed" in item.reasons[0]


def test_mixed_batch_sizes_and_extra_runs_are_told(tmp_path, make):
    folder = tmp_path / "org/results/box/ssd"
    for number in range(6):
        lines = make.ssd(gbs=1024 if number else 2048, seed=number)
        make.write(folder / f"result_{number}.txt", lines)
    (item,) = scores_of(tmp_path)
    assert "6 runs found; a result has exactly 5" in item.reasons
    assert "the runs have different global batch sizes" in item.reasons


def test_broken_logs_never_make_a_better_score(tmp_path, make):
    folder = tmp_path / "org/results/box/ssd"
    for number in range(3):
        make.write(folder / f"result_{number}.txt", make.ssd(seed=number))
    make.write(folder / "result_3.txt", make.ssd()[:-1])
    (folder / "result_4.txt").touch()
    (item,) = scores_of(tmp_path)
    assert (item.minutes, item.not_converged) == (None, 2)
    notes = [note for run in item.runs for note in run.notes]
    assert len(notes) == 2


@pytest.mark.parametrize("rejected", [1, 2])
def test_a_log_that_the_official_checker_rejects_counts_as_in_its_summarizer(
    tmp_path, make, cli, rejected
):
    """Whole, converged and the fastest, but without a required line: no run result."""
    folder = tmp_path / "org/results/box/ssd"
    for number in range(5):
        lines = make.ssd(seed=number, seconds=60 * (number + 1))
        if number < rejected:
            lines = [line for line in lines if '"opt_weight_decay"' not in line]
        make.write(folder / f"result_{number}.txt", lines)
    status, out, _ = cli("score", folder, "--official", "--json")
    (item,) = json.loads(out)["results"]
    assert (item["minutes"], status) == ((4.0, 0) if rejected == 1 else (None, 1))
    assert item["official"]["minutes"] == item["minutes"]
    first = item["runs"][0]
    assert (first["outcome"], item["not_converged"]) == ("rejected", rejected)
    assert first["notes"] == [
        "rejected by the official compliance checker: opt_weight_decay: found none; allowed: "
        "exactly one line"
    ]


def test_a_rejected_log_keeps_its_epochs_in_the_convergence_test(tmp_path, make, cli):
    """Left out, the few epochs of one would no longer pull the mean down: a failure would pass."""
    folder = tmp_path / "org/results/box/ssd"
    for number, epoch in enumerate([30, 45, 50, 50, 50]):
        evals = ((epoch - 5, 0.15), (epoch, 0.24))
        lines = make.ssd(seed=number, seconds=60 * (number + 1), evals=evals)
        if number == 0:
            lines = [line for line in lines if '"opt_weight_decay"' not in line]
        make.write(folder / f"result_{number}.txt", lines)
    status, out, _ = cli("score", folder, "--official", "--json")
    (item,) = json.loads(out)["results"]
    assert [run["outcome"] for run in item["runs"]] == ["rejected", *["converged"] * 4]
    assert item["official"]["rcp"].startswith("FAIL")
    assert (item["rcp"]["now"]["passed"], item["verdict"], status) == (False, "invalid", 1)
    assert item["rcp"]["now"]["mean"] == pytest.approx(145 / 3)


def test_a_benchmark_that_the_round_lacks_keeps_its_minutes(published, cli):
    """No rule of v0.7 is about it, so nothing of v0.7 can reject it."""
    status, out, _ = cli("score", published / "NVIDIA", "--round", "v0.7", "--json")
    item = next(r for r in json.loads(out)["results"] if r["benchmark"] == "rnnt")
    assert (status, item["reasons"]) == (1, ["this round has no benchmark 'rnnt'"])
    assert item["minutes"] == pytest.approx(38.70, abs=0.01)


def test_a_log_too_large_for_the_checker_is_told_and_demo_runs_are_not_asked_about(
    tmp_path, make, cli, monkeypatch
):
    spoilt = [line for line in make.ssd() if '"opt_weight_decay"' not in line]
    for number in range(1, 6):
        make.run(tmp_path / "demo", number=number, demo=True, division="open", lines=spoilt)
        make.write(tmp_path / f"logs/result_{number}.txt", [*make.ssd(seed=number), number * "#"])
    assert cli("score", tmp_path / "demo")[0] == 0
    largest = (tmp_path / "logs/result_4.txt").stat().st_size
    monkeypatch.setattr("scoring.official.accepted.LARGEST_BYTES", largest)
    status, out, _ = cli("score", tmp_path / "logs", "--json")
    noted = [run["name"] for run in json.loads(out)["results"][0]["runs"] if run["notes"]]
    assert (status, noted) == (0, ["result_5.txt"])


def test_plain_log_files_are_scored_together(tmp_path, make):
    for number in range(5):
        make.write(tmp_path / f"run{number}.log", make.ssd(seconds=60 * (number + 1), seed=number))
    (item,) = scores_of(tmp_path)
    assert (item.submitter, item.system, item.minutes) == ("org", "box", 3.0)
    assert scores_of(*sorted(tmp_path.glob("*.log")))[0].minutes == 3.0


def test_nothing_to_score_is_wrong_use(tmp_path, cli):
    status, _, err = cli("score", tmp_path)
    assert status == 2
    assert "no run found" in err
    assert cli("score", tmp_path / "absent")[0] == 2


def test_published_tables_are_complete():
    assert len(published("v1.0")) == 149
    assert len(published("0.7")) == 138
    with pytest.raises(ValueError, match="choose one of v0.7, v1.0"):
        published("v9.9")


def test_too_few_runs_show_a_provisional_mean(tmp_path, make, cli):
    make.run(tmp_path, number=1, seconds=600)
    make.run(tmp_path, number=2, seconds=720)
    status, out, _ = cli("score", tmp_path)
    assert status == 1
    words = " ".join(out.replace("\n", " ").split())
    assert "11.00 (2 of 5 runs, provisional)" in words
    item = json.loads(cli("score", tmp_path, "--json")[1])["results"][0]
    assert (item["minutes"], item["provisional_minutes"]) == (None, 11.0)
    for number in (3, 4):
        make.run(tmp_path, number=number, status="aborted")
    (item,) = scores_of(tmp_path)  # two failures can never be a score
    assert (item.minutes, item.provisional_minutes, item.provisional) == (None, None, "")


def test_system_and_benchmark_are_named_however_the_folder_is_given(published, monkeypatch):
    box = published / "NVIDIA/results/dgxa100_ngc21.05_mxnet"
    monkeypatch.chdir(box / "resnet")
    for path, count in ((box / "resnet/..", 3), (Path(), 1), (Path(".."), 3), (Path("../ssd"), 1)):
        items = [score(found, RULES) for found in find_result_sets([path], RULES.benchmarks)]
        assert {(item.submitter, item.system) for item in items} == {("NVIDIA", box.name)}, path
        assert len(items) == count
        assert all(item.verdict == "valid" for item in items), path
    monkeypatch.chdir(box)
    (item,) = [
        score(found, RULES) for found in find_result_sets([Path("resnet")], RULES.benchmarks)
    ]
    assert (item.benchmark, item.system, item.accelerators) == ("resnet", box.name, 8)


def test_a_run_that_is_named_twice_linked_or_copied_counts_once(tmp_path, make):
    runs = [make.run(tmp_path / "runs", number=n, seconds=600 + n) for n in range(1, 6)]
    (item,) = scores_of(tmp_path, tmp_path / "runs", runs[0], runs[0] / "result.txt")
    assert (item.runs_found, item.verdict) == (5, "valid")
    shutil.copytree(runs[0], tmp_path / "runs" / "ssd" / "a copy")
    (item,) = scores_of(tmp_path)
    assert (item.runs_found, item.verdict) == (5, "valid")
    (note,) = [run.notes[0] for run in item.runs if not run.counts]
    assert note.startswith("a copy of ")


def test_links_to_chosen_runs_are_followed_and_loops_end(tmp_path, make):
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    for number in range(1, 6):
        folder = make.run(tmp_path / "runs", number=number)
        (chosen / f"r{number}").symlink_to(folder, target_is_directory=True)
    (chosen / "up").symlink_to(chosen, target_is_directory=True)
    (item,) = scores_of(chosen)
    assert (item.runs_found, item.verdict) == (5, "valid")


def test_runs_to_another_target_are_another_result(tmp_path, make):
    lines = make.ssd(submission_division="open")
    for number in range(1, 6):
        target = {"mAP": 0.23 if number < 3 else 0.1}
        make.run(tmp_path, number=number, division="open", target=target, lines=lines)
    low, high = sorted(scores_of(tmp_path), key=lambda item: -item.runs_found)
    assert (low.runs_found, high.runs_found) == (3, 2)
    assert "target mAP 0.1," in low.configuration
    assert {low.verdict, high.verdict} == {"incomplete"}


def test_a_log_in_percent_reaches_nothing(tmp_path, make):
    folder = tmp_path / "org/results/box/ssd"
    for number in range(5):
        lines = make.ssd(seed=number, evals=((40, 15.0), (50, 23.5)))
        make.write(folder / f"result_{number}.txt", lines)
    (item,) = scores_of(tmp_path)
    assert (item.minutes, item.not_converged, item.verdict) == (None, 5, "invalid")
    assert "23.5 is above 1: is the log in percent?" in item.runs[0].notes[0]
    assert second_opinion(item)["minutes"] is None


@pytest.mark.parametrize(
    ("benchmark", "batch", "value", "reached"),
    [
        ("gnmt", 1024, 0.2401, True),
        ("gnmt", 1024, 0.2399, False),
        ("transformer", 1024, 0.2501, True),
        ("bert", 8192, 0.7061, True),
        ("bert", 4096, 0.7061, False),
        ("bert", 4096, 0.7121, True),
    ],
)
def test_targets_of_the_older_round_are_those_of_its_checker(benchmark, batch, value, reached):
    """The rule file of training_0.7.0 is the reference: its own expression is evaluated."""
    import mlperf_logging.compliance_checker as package
    import yaml

    path = Path(package.__file__).parent / "training_0.7.0" / f"closed_{benchmark}.yaml"
    keys = [rule["KEY"] for rule in yaml.safe_load(path.read_text()) if "KEY" in rule]
    (test,) = [key["ATLEAST_ONE_CHECK"] for key in keys if key["NAME"] == "eval_accuracy"]
    assert eval(test, {"v": {"value": value}, "s": {"global_batch_size": batch}}) is reached
    rules = load_round("v0.7").benchmarks[benchmark]
    assert rules.reached({"value": value}, batch) is reached


def test_other_settings_are_named_and_another_seed_or_place_is_not(tmp_path, make, cli):
    for number in range(1, 6):
        folder = make.run(tmp_path, number=number)
        text = f"# here\nseed_everything: {number}\noutput_root: /{number}\n"
        text += f"data:\n  num_workers: {number}\nmodel:\n  learning_rate: 0.1\n"
        (folder / "config.yaml").write_text(text)
    (item,) = scores_of(tmp_path)
    assert item.settings == ()
    (folder / "config.yaml").write_text(text.replace("0.1", "0.4"))
    (item,) = scores_of(tmp_path)
    assert item.settings == ("model.learning_rate: 0.1 in 4, 0.4 in 1",)
    assert "the runs differ in model.learning_rate" in cli("score", tmp_path)[1]


def test_runs_of_a_network_whose_file_moved_are_one_result(tmp_path, make, cli):
    for number in range(1, 6):
        net = "modules.nets.ssd.SSD" if number < 3 else "modules.detection.ssd.net.SSD"
        folder = make.run(tmp_path, number=number, net=net, reference_net=net)
        config = f"model:\n  net:\n    class_path: {net}\n  learning_rate: 0.1\n"
        (folder / "config.yaml").write_text(config)
    (item,) = scores_of(tmp_path)
    assert (item.runs_found, item.settings) == (5, ())
    assert "nothing to compare" in cli("compare", tmp_path)[2]


def test_networks_of_one_class_name_in_other_packages_stay_apart(tmp_path, make):
    for number, net in enumerate(("my.modules.ssd.SSD", "my.SSD", "modules.nets.ssd.SSD"), 1):
        make.run(tmp_path, number=number, division="open", net=net)
    assert len(scores_of(tmp_path)) == 3


def test_scores_as_csv_and_markdown(tmp_path, make, cli):
    for number in range(5):
        lines = make.ssd(seed=number, seconds=601 + number, evals=((40, 0.1), (50, 0.24)))
        make.write(tmp_path / f"result_{number}.txt", lines)
    status, out, err = cli("score", tmp_path, "--csv")
    (row,) = csv.DictReader(out.splitlines())
    assert (status, row["benchmark"], row["verdict"]) == (0, "ssd", "valid")
    assert float(row["minutes"]) == pytest.approx(603 / 60, abs=1e-9), "unrounded"
    assert "score: judged by the rules of v1.0" in err
    _, out, _ = cli("score", tmp_path, "--markdown")
    assert "| ssd | org box | closed | 10.05 |" in out
    assert "- judged by the rules of v1.0" in out
