"""Reading logs: what is right is read to the millisecond, what is wrong gets one clear line."""

import json
import time

import pytest

from scoring.runs.log_reader import read_log


def test_a_sound_log_gives_its_time_and_facts(tmp_path, make):
    log = read_log(make.write(tmp_path / "result_0.txt", make.ssd(seconds=123.456)))
    assert log.problems == []
    assert log.seconds == pytest.approx(123.456, abs=1e-9)
    assert (log.benchmark, log.division, log.status) == ("ssd", "closed", "success")
    assert log.global_batch_size == 1024
    assert [e.progress for e in log.evaluations] == [40, 50]
    assert log.seeds == [("train.py", 7, 1)]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16", "utf-16-le", "utf-16-be"])
def test_other_encodings_are_read(tmp_path, make, encoding):
    lines = ["Grüße vom Knoten 0", *make.ssd(seconds=60, submission_org="Größe")]
    log = read_log(make.write(tmp_path / "log.txt", lines, encoding))
    assert log.seconds == 60
    assert log.facts["submission_org"] == "Größe"


def test_a_prefix_before_the_token_and_crlf_are_read(tmp_path, make):
    lines = [f"0: {line}\r" for line in make.ssd(seconds=60)]
    assert read_log(make.write(tmp_path / "log.txt", lines)).seconds == 60


def _cut_in_a_line(lines):
    return [*lines[:-3], lines[-3][:60]]


def _reversed_marks(lines):
    stop = lines.pop()
    start = next(i for i, line in enumerate(lines) if '"run_start"' in line)
    return [*lines[:start], stop, *lines[start:]]


BROKEN = {
    "truncated": (_cut_in_a_line, "not a valid mllog line"),
    "no run_stop": (lambda lines: lines[:-1], "no run_stop"),
    "no run_start": (lambda lines: [x for x in lines if "run_start" not in x], "no run_start"),
    "order": (_reversed_marks, "out of order"),
    "no mllog": (lambda lines: ["hello", "world"], "no ':::MLLOG' line among its 2 lines"),
    "no key": (lambda lines: [*lines, ':::MLLOG {"time_ms": 1}'], "'key' is missing"),
    "not JSON": (lambda lines: [":::MLLOG nonsense", *lines], "line 1: not a valid mllog line"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_log_has_one_clear_line_and_no_time(tmp_path, make, kind):
    spoil, words = BROKEN[kind]
    log = read_log(make.write(tmp_path / "log.txt", spoil(make.ssd())))
    assert log.seconds is None
    assert words in " / ".join(log.problems)


def test_an_empty_file_is_called_empty(tmp_path):
    path = tmp_path / "log.txt"
    path.touch()
    assert read_log(path).problems == ["empty file"]


def test_a_missing_file_is_a_problem_and_no_crash(tmp_path):
    assert "cannot be read" in read_log(tmp_path / "absent.txt").problems[0]


def test_two_run_stops_of_one_moment_count_once(tmp_path, make):
    lines = make.ssd(seconds=600)
    log = read_log(make.write(tmp_path / "log.txt", [*lines, lines[-1]]))
    assert log.seconds == 600
    assert "2 run_stop lines" in log.warnings[0]


@pytest.mark.parametrize(
    "later", [{"ms": 900_000, "status": "success"}, {"ms": 620_000, "status": "aborted"}]
)
def test_two_run_stops_that_disagree_give_no_time(tmp_path, make, later):
    lines = [*make.ssd(seconds=600), make.line("run_stop", **later)]
    log = read_log(make.write(tmp_path / "log.txt", lines))
    assert log.seconds is None
    assert "2 run_stop lines" in log.problems[0]


def test_two_runs_in_one_file_give_no_time(tmp_path, make):
    second = (
        make.line("run_start", ms=1_000_000),
        make.line("run_stop", ms=1_100_000, status="success"),
    )
    log = read_log(make.write(tmp_path / "log.txt", [*make.ssd(), *second]))
    assert log.seconds is None


def test_a_key_inside_a_value_is_not_taken_for_the_key(tmp_path, make):
    trap = make.line("note", {"key": "run_stop", "global_batch_size": 1, "time_ms": 3})
    lines = make.ssd(seconds=60)
    log = read_log(make.write(tmp_path / "log.txt", [trap, *lines]))
    assert log.seconds == 60
    assert log.global_batch_size == 1024


def test_conflicting_batch_sizes_are_a_problem(tmp_path, make):
    lines = [make.line("global_batch_size", 512), *make.ssd()]
    log = read_log(make.write(tmp_path / "log.txt", lines))
    assert log.problems == ["global_batch_size is given as 512 and as 1024"]


def test_mini_go_may_stop_the_clock_before_lines_that_precede_it(published):
    folder = published / "NVIDIA/results/dgxa100_ngc21.05_tensorflow/minigo"
    log = read_log(folder / "result_0.txt")
    assert log.problems == []
    assert max(e.time_ms for e in log.evaluations) > log.stops[0].time_ms
    assert log.seconds == pytest.approx((1619947798708 - log.start.time_ms) / 1000)


def test_a_log_of_100_mb_is_read_in_little_memory(tmp_path, make):
    import tracemalloc

    path = tmp_path / "log.txt"
    lines = "\n".join(make.ssd(seconds=60))
    noise = "x" * 2000 + "\n"
    with path.open("w") as file:
        file.write("y" * 3_000_000 + "\n")
        file.writelines(noise for _ in range(50_000))
        file.write(lines)
    assert path.stat().st_size > 100_000_000
    began = time.perf_counter()
    tracemalloc.start()
    log = read_log(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert log.seconds == 60
    assert peak < 20_000_000
    assert time.perf_counter() - began < 20


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"lineno": 7', '"lineno": "seven"'),
        ('"lineno": 7', '"lineno": 1e400'),
        ('"value": "ssd"', '"value": ["ssd"]'),
        ('"value": "closed"', '"value": null'),
        ('"value": "closed"', '"value": ["closed"]'),
        ('"value": 0.24', '"value": 1' + 400 * "0"),
        ('"time_ms": 1620', '"time_ms": 1' + 400 * "0"),
        ('"metadata": {"file": "train.py", "lineno": 7}', '"metadata": [1, 2]'),
    ],
)
def test_values_of_the_wrong_kind_spoil_one_log_and_no_command(tmp_path, make, cli, old, new):
    lines = [line.replace(old, new) for line in make.ssd()]
    make.write(tmp_path / "a.log", lines)
    for command in ("score", "check", "report"):
        status, out, err = cli(command, tmp_path)
        assert status in (0, 1), err
    assert "No such file" not in cli("check", tmp_path)[1]


def test_a_closed_result_without_a_batch_size_is_not_valid(tmp_path, make, cli):
    folder = tmp_path / "org/results/box/ssd"
    for number in range(5):
        lines = [line for line in make.ssd(seed=number) if "global_batch_size" not in line]
        make.write(folder / f"result_{number}.txt", lines)
    status, out, _ = cli("score", tmp_path)
    assert status == 1
    assert "the logs have no global batch size" in out


@pytest.mark.parametrize(
    "record",
    [{"system": "text"}, {"target": [1]}, {"net": 5}, {"devices": "two"}, {"seconds": [1]}, []],
)
def test_another_programs_record_spoils_one_run_and_no_command(tmp_path, make, cli, record):
    for number in range(1, 5):
        make.run(tmp_path, number=number)
    path = make.run(tmp_path, number=5) / "run.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | record if record else record))
    for command in ("score", "check", "report"):
        status, out, err = cli(command, tmp_path)
        assert status in (0, 1), err
    assert "run.json cannot be read" in cli("score", tmp_path)[1]
