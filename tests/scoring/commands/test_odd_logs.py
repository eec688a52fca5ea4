"""Logs of every odd kind get one line each or are read rightly; none stops the others."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LONG = "x" * 1_000_000


def line(**event):
    whole = {"namespace": "", "time_ms": 1_620_000_015_000, "event_type": "POINT_IN_TIME",
             "key": "note", "value": None, "metadata": {}}  # fmt: skip
    return ":::MLLOG " + json.dumps({**whole, **event})


def raw(text):
    return ':::MLLOG {"time_ms": 1620000015000, "key": "note", "metadata": {}, ' + text + "}"


def changed(lines, key, **facts):
    """The lines, with other facts in the events of one key."""
    for text in lines:
        event = json.loads(text.removeprefix(":::MLLOG "))
        if event["key"] == key:
            metadata = {**event["metadata"], **facts.get("metadata", {})}
            event |= {**facts, "metadata": metadata}
        yield ":::MLLOG " + json.dumps(event)


# Name -> the lines of a log that is sound otherwise, and whether it passes.
def odd_logs(make):
    good = make.ssd()
    numbers = ["1024", [1024], {"size": 1024}, True, float("nan"), float("inf"), 10**400, -8, 0.5]
    epochs = ["40", [40], {}, True, float("nan"), 10**400, -1, None]
    return {
        "metadata_text": ([line(metadata="a text"), *good], False),
        "metadata_list": ([line(metadata=[1]), *good], False),
        "metadata_empty_text": ([line(metadata=""), *good], True),
        "metadata_of_start": (list(changed(good, "run_start", value={"a": [1]})), True),
        "long_value": ([line(value=LONG), *good], True),
        "long_line": ([line(value=LONG + LONG), *good], False),
        "long_prefix": ([LONG + good[0], *good[1:]], True),
        "long_other": ([LONG, *good], True),
        "many_tokens": ([":::MLLOG " * 100_000, *good], False),
        "escape": ([line(value="\x1b[31m", key="\x1b]0;title\x07"), *good], True),
        "raw_escape": ([raw('"value": "\x1b[31m"'), *good], False),
        "c1_escape": ([raw('"value": "\x9b31m"'), *good], True),
        "status_object": (list(changed(good, "run_stop", metadata={"status": {"a": 1}})), False),
        "nested": ([raw('"value": ' + "[" * 100_000), *good], False),
        "deep": ([raw('"value": ' + "[" * 500 + "]" * 500), *good], True),
        "huge_integer": ([raw('"value": ' + "9" * 5000), *good], False),
        "twice": ([raw('"value": 1, "value": 2'), *good], True),
        "no_value": ([':::MLLOG {"time_ms": 1, "key": "a", "metadata": {}}', *good], False),
        "list": ([":::MLLOG [1, 2]", *good], False),
        "key_object": ([line(key={"a": 1}), *good], False),
        "time_huge": ([raw('"value": 1').replace("1620000015000", "9" * 400), *good], False),
        "time_nan": ([raw('"value": 1').replace("1620000015000", "NaN"), *good], False),
        "nul": (["\0\0\0", *good], True),
        **{
            f"batch_{number}": (list(changed(good, "global_batch_size", value=value)), False)
            for number, value in enumerate(numbers)
        },
        **{
            f"epoch_{number}": (
                list(changed(good, "eval_accuracy", metadata={"epoch_num": value})),
                False,
            )
            for number, value in enumerate(epochs)
        },
        "epoch_7": (list(changed(good, "eval_accuracy", metadata={"epoch_num": None})), None),
        "benchmark_object": (list(changed(good, "submission_benchmark", value={"a": 1})), False),
        "division_list": (list(changed(good, "submission_division", value=["open"])), False),
        "quality_text": (list(changed(good, "eval_accuracy", value="0.24")), False),
        "quality_true": (list(changed(good, "eval_accuracy", value=True)), False),
        "quality_infinite": (list(changed(good, "eval_accuracy", value=float("inf"))), None),
    }


@pytest.fixture
def folder(tmp_path, make):
    tmp_path = tmp_path / "training_results_v1.0"  # so that no log's round has to be found
    for name, (lines, _) in odd_logs(make).items():
        make.write(tmp_path / name / f"{name}.txt", lines)
    good = "\n".join(make.ssd()).encode()
    files = {
        "crlf": good.replace(b"\n", b"\r\n"),
        "bom": b"\xef\xbb\xbf" + good,
        "latin": b"caf\xe9\n" + good,
        "binary": bytes(range(256)) * 40,
    }
    for name, content in files.items():  # each in its own directory, so that none is a copy
        make.write(tmp_path / name / f"{name}.txt", []).write_bytes(content)
    return tmp_path


def test_every_odd_log_is_judged_alone_and_soon(folder, make, cli):
    began = time.process_time()
    status, out, err = cli("check", *sorted(folder.glob("*/*.txt")), "--json")
    assert (status, "Traceback" in err) == (1, False)
    assert "skipped, as they have no ':::MLLOG' line: binary.txt" in err
    runs = {Path(run["path"]).stem: run for run in json.loads(out)["runs"]}
    expected = {name: passes for name, (_, passes) in odd_logs(make).items()}
    expected |= {"crlf": True, "bom": True, "latin": True}
    assert set(runs) == set(expected)
    wrong = {
        name: runs[name]["findings"]
        for name, passes in expected.items()
        if passes not in (None, runs[name]["passed"])
    }
    assert wrong == {}
    assert time.process_time() - began < 20

    _, out, err = cli("check", *sorted(folder.glob("*/*.txt")))
    assert not any(ord(c) < 32 and c != "\n" or 127 <= ord(c) < 160 for c in out + err)
    assert max(map(len, out.splitlines())) < 1500
    assert "{'" not in out, "dictionaries are not printed as Python has them"

    status, out, err = cli("score", folder)
    assert (status, "Traceback" in err) == (1, False)
    assert not any(ord(c) < 32 and c != "\n" or 127 <= ord(c) < 160 for c in out + err)


def archive(path, log):
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as file:
            file.write(log, "result_0.txt")
    else:
        with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as file:
            file.addfile(tarfile.TarInfo("a"), io.BytesIO())
            file.add(log, "result_0.txt")


@pytest.mark.parametrize(
    "name", ["logs.zip", "logs.tar.gz", "logs.tgz", "logs.tar", "result_0.txt"]
)
def test_an_archive_is_not_read_and_says_so(tmp_path, make, cli, name):
    log = make.write(tmp_path / "log.txt", make.ssd())
    (tmp_path / "packed").mkdir()
    made = tmp_path / "packed" / (name if "." in name[:6] else f"{name}.zip")
    archive(made, log)
    path = made if made.name == name else made.rename(tmp_path / "packed" / name)
    status, out, _ = cli("check", path)
    assert status == 1
    assert "unpack it" in out
    assert out.count("\n") == 3, "the run, its one finding, and the sum"
    if name != "result_0.txt":
        status, out, err = cli("check", path.parent)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert f"archives such as {name} are not read: unpack them" in err


def test_a_compressed_result_in_a_tree_is_named(tmp_path, make, cli):
    folder = tmp_path / "org/results/box/ssd"
    (tmp_path / "org/systems").mkdir(parents=True)
    (tmp_path / "org/systems/box.json").write_text('{"division": "closed"}')
    for number in range(4):
        make.write(folder / f"result_{number}.txt", make.ssd(seed=number))
    (folder / "result_4.txt.gz").write_bytes(b"\x1f\x8b\x08" + bytes(50))
    _, out, _ = cli("score", tmp_path, "--json")
    (result,) = json.loads(out)["results"]
    assert result["verdict"] == "invalid"
    assert (
        "result_4.txt.gz cannot be read: it is compressed (gzip); unpack it" in result["reasons"][0]
    )


def test_a_pipe_is_refused_at_once(tmp_path, make, cli):
    make.write(tmp_path / "result_0.txt", make.ssd())
    os.mkfifo(tmp_path / "result_1.txt")
    command = [sys.executable, "-m", "scoring", "check", str(tmp_path / "result_1.txt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "cannot be read: it is not a regular file (a pipe, socket or device)" in done.stdout
    status, out, _ = cli("check", tmp_path)
    assert (status, "1 of 2 runs pass" in out) == (1, True)


def test_an_escape_in_a_files_name_is_shown_and_not_obeyed(tmp_path, make, cli):
    make.write(tmp_path / "run\x1b[2J.txt", make.ssd())
    for command in ("check", "score"):
        _, out, err = cli(command, tmp_path)
        assert "\x1b" not in out + err
