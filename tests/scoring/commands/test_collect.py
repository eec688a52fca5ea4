"""Collect: N runs, also when some fail, overlap, or the collection itself is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scoring.commands.collect import _table
from scoring.runs.collection import Collection, Slot

# A recipe that keeps the command-line contract and nothing else: it writes a run folder and
# ends. Its first argument after --output_root says how it behaves.
RECIPE = """
import json, os, signal, sys, time
from pathlib import Path
args = sys.argv[1:]
assert args[0] == "fit", args
root = Path(args[args.index("--output_root") + 1])
how = args[args.index("--how") + 1] if "--how" in args else "good"
pause = float(args[args.index("--pause") + 1]) if "--pause" in args else 0.0
seed = int(os.environ.get("PL_GLOBAL_SEED") or int.from_bytes(os.urandom(4), "big"))
if how == "no data":
    print("ssd: no data in /nowhere"); sys.exit(1)
tried = root / "tried"
if how == "always killed early" or (how == "first killed early" and not tried.exists()):
    tried.touch()
    if "01" in root.name or how == "always killed early":
        os.kill(os.getpid(), signal.SIGKILL)
folder = root / "ssd" / f"20240101-000000-seed{seed}"
folder.mkdir(parents=True)
LINES = json.loads(Path(__file__).with_name("lines.json").read_text())
def leave(status, reason, code):
    lines = LINES if status != "running" else LINES[:-1]
    if status == "aborted":
        lines = [x.replace("0.24", "0.2").replace("success", "aborted") for x in lines]
    (folder / "result.txt").write_text("\\n".join(lines) + "\\n")
    (folder / "run.json").write_text(json.dumps({"benchmark": "ssd", "division": "open",
        "demo": True, "status": status, "stop_reason": reason, "seed": seed, "resumed": False}))
    if code is not None:
        sys.exit(code)
leave("running", None, None)
if how == "second killed" and "02" in str(root) and len(list(folder.parent.iterdir())) < 3:
    os.kill(os.getpid(), signal.SIGKILL)
if how == "second always killed" and "02" in str(root):
    os.kill(os.getpid(), signal.SIGKILL)
stop = lambda *_: leave("aborted", "INTERRUPTED", 130)
signal.signal(signal.SIGINT, signal.SIG_IGN if how == "deaf" else stop)
time.sleep(pause)
if how == "third fails" and "03" in str(root):
    leave("aborted", "BUDGET_EXHAUSTED", 3)
leave("success", "TARGET_REACHED", 0)
"""


@pytest.fixture
def recipe(tmp_path, make):
    path = tmp_path / "recipes" / "ssd.py"
    path.parent.mkdir()
    path.write_text(RECIPE)
    lines = make.ssd(submission_division="open")
    (path.parent / "lines.json").write_text(json.dumps(lines))
    return path


def collect(cli, recipe, out, *more, runs=5):
    command = ["collect", recipe, "--runs", runs, "--output_root", out, "--json"]
    status, text, err = cli(*command, *more)
    return status, json.loads(text), err


def folders(out):
    return sorted(out.glob("*/ssd/*"))


def test_five_runs_in_processes_and_seeds_of_their_own(tmp_path, recipe, cli):
    status, told, _ = collect(cli, recipe, tmp_path / "out")
    assert status == 0
    assert [run["outcome"] for run in told["runs"]] == ["converged"] * 5
    # The test session's own PL_GLOBAL_SEED must not reach the runs.
    assert len({run["seed"] for run in told["runs"]}) == 5
    assert told["scores"][0]["minutes"] == 10


def test_a_second_call_makes_no_new_run_and_more_runs_are_added(tmp_path, recipe, cli):
    out = tmp_path / "out"
    collect(cli, recipe, out, runs=2)
    before = folders(out)
    assert collect(cli, recipe, out, runs=2)[0] == 0  # both converged
    assert folders(out) == before
    assert collect(cli, recipe, out, runs=5)[0] == 0
    assert len(folders(out)) == 5
    assert set(before) < set(folders(out))


def test_a_run_that_misses_the_target_is_kept_and_counted(tmp_path, recipe, cli):
    out = tmp_path / "out"
    status, told, _ = collect(cli, recipe, out, "--", "--how", "third fails")
    assert status == 0
    assert told["runs"][2]["outcome"] == "not converged"
    assert told["runs"][2]["exit_code"] == 3
    assert told["scores"][0]["not_converged"] == 1
    assert len(folders(out)) == 5


def test_too_few_runs_of_which_one_missed_the_target_are_no_result(tmp_path, recipe, cli):
    status, told, _ = collect(cli, recipe, tmp_path / "out", "--", "--how", "third fails", runs=3)
    assert status == 1
    assert told["runs"][2]["outcome"] == "not converged"


def test_runs_overlap_with_parallel(tmp_path, recipe, cli):
    began = time.perf_counter()
    status, _, _ = collect(cli, recipe, tmp_path / "out", "--parallel", "4", "--", "--pause", "2",
                           runs=4)  # fmt: skip
    assert status == 0
    assert time.perf_counter() - began < 6


def test_a_recipe_that_cannot_begin_stops_the_collection(tmp_path, recipe, cli):
    status, told, err = collect(cli, recipe, tmp_path / "out", "--", "--how", "no data")
    assert status == 1
    assert "exit status 1): ssd: no data in /nowhere" in err
    assert sum(run["exit_code"] is not None for run in told["runs"]) == 1


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_first_run_killed_before_it_began_is_repeated(tmp_path, recipe, cli, parallel):
    status, told, _ = collect(cli, recipe, tmp_path / "out", "--parallel", parallel, "--",
                              "--how", "first killed early")  # fmt: skip
    assert (status, told["stopped"]) == (0, None)
    assert [run["repeats"] for run in told["runs"]] == [1, 0, 0, 0, 0]


def test_runs_that_are_all_killed_before_they_begin_stop_the_collection(tmp_path, recipe, cli):
    status, told, _ = collect(cli, recipe, tmp_path / "out", "--", "--how", "always killed early")
    assert status == 1
    assert "exit status -9" in told["stopped"]
    assert sum(run["exit_code"] is not None for run in told["runs"]) == 1


def test_other_arguments_in_the_same_folder_are_refused(tmp_path, recipe, cli):
    before = signal.getsignal(signal.SIGTERM)
    collect(cli, recipe, tmp_path / "out", runs=1)
    status, _, err = cli("collect", recipe, "--runs", 1, "--output_root", tmp_path / "out",
                         "--", "--pause", "1")  # fmt: skip
    assert status == 2
    assert "another arguments" in err
    assert cli("collect", tmp_path / "absent.py", "--runs", 1)[0] == 2
    assert signal.getsignal(signal.SIGTERM) is before, "a refusal leaves no handler behind"


def start(recipe, out, pause):
    command = [sys.executable, "-m", "scoring", "collect", str(recipe), "--runs", "2"]
    command += ["--output_root", str(out), "--", "--pause", str(pause)]
    root = Path(__file__).resolve().parents[3]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_collection_repeats_the_interrupted_run(tmp_path, recipe, cli, number):
    out = tmp_path / "out"
    process = start(recipe, out, 1.5)
    wait_for(lambda: any(out.glob("01/ssd/*/run.json")))
    time.sleep(0.3)
    process.send_signal(number)
    assert process.wait(20) == 130
    (record,) = out.glob("01/ssd/*/run.json")
    assert json.loads(record.read_text())["stop_reason"] == "INTERRUPTED"
    status, told, _ = collect(cli, recipe, out, "--", "--pause", "1.5", runs=2)
    assert status == 0
    assert [run["outcome"] for run in told["runs"]] == ["converged"] * 2
    assert len(list(out.glob("01/ssd/*"))) == 2
    assert told["scores"][0]["runs_found"] == 2


def test_a_killed_collection_waits_for_the_run_it_left_behind(tmp_path, recipe, cli):
    out = tmp_path / "out"
    process = start(recipe, out, 2.5)
    wait_for(lambda: any(out.glob("01/ssd/*/run.json")))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    status, told, _ = collect(cli, recipe, out, "--", "--pause", "2.5", runs=2)
    assert [run["outcome"] for run in told["runs"]] == ["converged"] * 2
    assert len(list(out.glob("01/ssd/*"))) == 1
    assert status == 0


def test_lines_tell_progress_where_there_is_no_terminal(tmp_path, recipe, cli):
    _, out, _ = cli("collect", recipe, "--runs", 2, "--output_root", tmp_path / "out")
    lines = [line for line in out.splitlines() if line.startswith("run ")]
    assert len(lines) == 2
    assert "converged in 600.0 s" in lines[0]
    assert "2 ended" in lines[1]
    assert out.splitlines()[-1] == f"next: python -m scoring score {tmp_path / 'out'}"


def test_a_killed_run_is_repeated_and_the_others_are_made(tmp_path, recipe, cli):
    status, told, _ = collect(cli, recipe, tmp_path / "out", "--", "--how", "second killed")
    assert status == 0
    assert [run["outcome"] for run in told["runs"]] == ["converged"] * 5
    assert [run["repeats"] for run in told["runs"]] == [0, 2, 0, 0, 0]


def test_a_run_that_is_killed_every_time_is_given_up(tmp_path, recipe, cli):
    command = ["collect", recipe, "--runs", 3, "--output_root", tmp_path / "out"]
    status, out, err = cli(*command, "--", "--how", "second always killed")
    assert status == 1
    assert "run 2 of 3: left no finished run (exit status -9)" in out
    assert "repeat 2 of 2" in out
    assert "run 3 of 3: converged" in out
    assert "run 2 was given up after 3 attempts" in err
    assert len(list((tmp_path / "out").glob("02/ssd/*"))) == 3


@pytest.mark.parametrize("argument", ["--output_root", "--seed_everything=3", "--ckpt_path"])
def test_what_collect_sets_itself_is_refused(tmp_path, recipe, cli, argument):
    out = tmp_path / "out"
    command = ["collect", recipe, "--runs", 1, "--output_root", out, "--", argument, "x"]
    status, _, err = cli(*command)
    assert (status, err.count("\n"), out.exists()) == (2, 1, False)
    assert f"{argument.partition('=')[0]} is set by collect; " in err


def test_a_corrected_argument_goes_on_in_the_same_folder(tmp_path, recipe, cli):
    """Nothing ran under the wrong argument, so nothing could be mixed."""
    out = tmp_path / "out"
    assert collect(cli, recipe, out, "--", "--how", "no data")[0] == 1
    assert collect(cli, recipe, out, "--", "--how", "good")[0] == 0
    status, _, err = cli("collect", recipe, "--runs", 5, "--output_root", out)
    assert status == 2
    assert "another arguments" in err


def test_two_collections_do_not_share_a_folder(tmp_path, recipe, cli):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "scoring", "collect", str(recipe), "--runs", "1"]
    command += ["--output_root", str(out), "--", "--pause", "5"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.time() + 20
        while not folders(out) and time.time() < deadline:
            time.sleep(0.05)
        status, _, err = cli("collect", recipe, "--runs", 1, "--output_root", out, "--json")
    finally:
        first.wait(60)
    assert status == 2
    assert "another collect is running" in err
    assert len(folders(out)) == 1


def test_an_ended_run_is_read_once(tmp_path, recipe, cli, monkeypatch):
    """Whoever looks five times a second must not take time from the runs that are timed."""
    out = tmp_path / "out"
    collect(cli, recipe, out, runs=2)
    slot = Slot(1, out / "01")
    first = slot.ended_run()
    monkeypatch.setattr("scoring.runs.collection.find_runs", lambda root: pytest.fail("read again"))
    assert slot.state == "ended"
    assert slot.ended_run() is first


def test_a_second_interrupt_leaves_no_process_behind(tmp_path, recipe):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "scoring", "collect", str(recipe), "--runs", "2"]
    command += [
        "--output_root",
        str(out),
        "--parallel",
        "2",
        "--",
        "--pause",
        "60",
        "--how",
        "deaf",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 20
    while len(list(out.glob("*/ssd/*/run.json"))) < 2 and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    pids = [slot["pid"] for slot in json.loads((out / "collect.json").read_text())["slots"]]
    began = time.time()
    while process.poll() is None and time.time() < began + 20:
        process.send_signal(signal.SIGINT)
        time.sleep(1)
    assert process.wait(10) == 130
    assert "the same command resumes" in process.stderr.read()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_the_table_says_how_long_a_run_has_been_running(tmp_path):
    slots = [Slot(1, tmp_path / "01", began=time.time() - 12.2), Slot(2, tmp_path / "02")]
    collection = Collection(tmp_path, tmp_path, [], slots, 1, print, None)
    empty = dict.fromkeys(["outcome", "seconds_to_target", "seed", "repeats"])
    rows = [{"number": 1, "state": "running", **empty}, {"number": 2, "state": "waiting", **empty}]
    states = [row[1] for row in _table(rows, collection).rows]
    assert states == ["running for 12 s", "waiting"]
