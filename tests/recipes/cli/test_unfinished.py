"""Which run ``--ckpt_path last`` takes: the one started last, unless it lives or cannot be read."""

import json
import threading

import pytest
import torch

from callbacks import heartbeat
from callbacks.heartbeat import Heartbeat, living
from recipes.cli.arguments import Arguments
from recipes.cli.resume import find_resume
from recipes.cli.unfinished import newest_unfinished
from recipes.cli.usage import UsageError


@pytest.fixture(autouse=True)
def short_watch(monkeypatch):
    monkeypatch.setattr(heartbeat, "SECONDS", 0.02)
    monkeypatch.setattr("recipes.cli.unfinished.living", lambda folders: living(folders, 0.3))


def make(root, name, **record):
    folder = root / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"x")
    (folder / "run.json").write_text(json.dumps({"status": "aborted", **record}))
    return folder


def test_newest_is_by_utc_time_also_where_summer_time_ends(tmp_path):
    make(tmp_path, "20261025-025500-seed1", started_at="2026-10-25T02:55:00+0200")
    later = make(tmp_path, "20261025-021000-seed2", started_at="2026-10-25T02:10:00+0100")
    assert newest_unfinished(tmp_path) == later


ELSEWHERE = {"status": "running", "process": {"pid": 1, "host": "another", "pid_namespace": "x"}}


def test_a_run_alive_on_another_host_is_not_taken(tmp_path, capsys):
    mine = make(tmp_path, "20260101-000000-seed1")
    theirs = make(tmp_path, "20260102-000000-seed2", **ELSEWHERE)
    beat = Heartbeat(theirs)
    try:
        assert newest_unfinished(tmp_path) == mine
    finally:
        beat.stop()
    assert "whether a run of another machine or container lives" in capsys.readouterr().out
    assert not (theirs / "heartbeat").exists()


def test_a_run_that_died_on_another_host_is_taken(tmp_path):
    make(tmp_path, "20260101-000000-seed1")
    theirs = make(tmp_path, "20260102-000000-seed2", **ELSEWHERE)
    (theirs / "heartbeat").write_text("7\n")
    assert newest_unfinished(tmp_path) == theirs


def test_a_process_of_another_container_with_our_hosts_name_is_watched(tmp_path, monkeypatch):
    monkeypatch.setattr("recipes.cli.unfinished.platform.node", lambda: "another")
    theirs = make(tmp_path, "20260102-000000-seed2", **ELSEWHERE)
    beat = Heartbeat(theirs)
    try:
        with pytest.raises(UsageError, match=r"\(1 runs, 1 unfinished, 1 of them running\)"):
            newest_unfinished(tmp_path)
    finally:
        beat.stop()


def test_a_heartbeat_writes_until_it_is_stopped(tmp_path):
    beat = Heartbeat(tmp_path)
    assert living([tmp_path], 2) == {tmp_path}
    beat.stop()
    assert not any(thread.name == "heartbeat" for thread in threading.enumerate())
    assert living([tmp_path], 0.1) == set()


@pytest.mark.parametrize(
    "text",
    ["{cut", "[]", '"text"', '{"resumed_from": 5, "stop_reason": [], "status": "running"}',
     '{"status": "running", "process": {"pid": null, "host": 3}, "started_at": {}}',
     '{"status": "running", "process": "none"}'],
)  # fmt: skip
def test_a_damaged_record_does_not_stop_the_others(text, tmp_path):
    wanted = make(tmp_path, "20260102-000000-seed1", started_at="2026-01-02T00:00:00+0000")
    (make(tmp_path, "20260101-000000-seed2") / "run.json").write_text(text)
    (make(tmp_path, "20260101-000001-seed3") / "run.json").write_bytes(b"\xff\xfe\x00")
    assert newest_unfinished(tmp_path) == wanted


@pytest.mark.parametrize("text", ["model: {learning_rate: [1,", "", "- a list", "\x00"])
def test_a_damaged_configuration_is_passed_over_with_a_line(text, tmp_path, capsys):
    wanted = make(tmp_path, "20260101-000000-seed1")
    (make(tmp_path, "20260102-000000-seed2") / "config.yaml").write_text(text)
    assert newest_unfinished(tmp_path) == wanted
    assert "seed2/config.yaml is damaged (" in capsys.readouterr().out


def last(root):
    words = ["--ckpt_path", "last", "--output_root", str(root)]
    return find_resume("toy", Arguments(words)).arguments.value("--ckpt_path")


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(tmp_path, capsys):
    folder = make(tmp_path / "toy", "20260101-000000-seed1") / "checkpoints"
    for name in ("last.ckpt", "previous.ckpt"):
        torch.save({"step": torch.arange(99)}, folder / name)
    assert last(tmp_path) == str(folder / "last.ckpt")
    content = bytearray((folder / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (bytes(content), bytes(content[:500]), bytes(len(content)), b""):
        (folder / "last.ckpt").write_bytes(damaged)
        assert last(tmp_path) == str(folder / "previous.ckpt")
        line = capsys.readouterr().out
        assert f"resuming from the checkpoint before it, {folder / 'previous.ckpt'}" in line
    (folder / "last.ckpt").unlink()  # killed between the two renames
    assert last(tmp_path) == str(folder / "previous.ckpt")
    (folder / "previous.ckpt").write_bytes(b"")
    (folder / "last.ckpt").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"previous.ckpt is truncated or not a checkpoint"):
        last(tmp_path)
