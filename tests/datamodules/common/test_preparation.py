"""Preparation: records, restarts, changed raw files, settings, locks, and one line per problem."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import namedtuple
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from datamodules.common import atomic, records
from datamodules.common import preparation as module
from datamodules.common.atomic import atomic_file
from datamodules.common.preparation import (
    Done,
    Preparation,
    Unit,
    damage_lines,
    preparing,
    units_to_redo,
)
from datamodules.common.records import (
    OutdatedError,
    changed_units,
    raw_file,
    read_manifest,
    read_records,
)

NAMES = ("a", "b", "c", "d")
WORKED: list[str] = []  # units done in this process


def double(path: Path, out: Path, bad: str = "", killed: str = "") -> Done:
    """Write a raw file's text twice."""
    if path.stem == killed:
        raise KeyboardInterrupt
    WORKED.append(path.stem)
    text = path.read_text()
    if path.stem == bad:
        raise ValueError(f"{path}: is bad")
    with atomic_file(out / f"{path.stem}.out") as file:
        file.write((text * 2).encode())
    return Done(len(text), [raw_file(path)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Raw files a.txt to d.txt."""
    WORKED.clear()
    (tmp_path / "raw").mkdir()
    for number, name in enumerate(NAMES):
        (tmp_path / "raw" / f"{name}.txt").write_text(name * (number + 1))
    return tmp_path / "raw"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def units(root: Path, **fingerprints: str) -> list[Unit]:
    return [
        Unit(name, root / f"{name}.txt", (f"{name}.out",), fingerprints.get(name, ""), 10)
        for name in NAMES
    ]


def prepare(
    root: Path,
    out: Path,
    *,
    settings: dict[str, Any] | None = None,
    fingerprints: dict[str, str] | None = None,
    version: int = 2,
    processes: int = 1,
    redo: Any = (),
    **options: str,
) -> dict[str, Any]:
    with preparing(
        out, "toy", settings or {"size": (1, 2)}, version=version, root=root, redo=redo
    ) as preparation:
        if preparation.manifest is not None:
            return preparation.manifest
        lengths = preparation.run(
            "doubling",
            partial(double, out=out, **options),
            units(root, **(fingerprints or {})),
            processes=processes,
        )
        return preparation.finish({"lengths": lengths})


def files(folder: Path) -> dict[str, bytes]:
    """Bytes by name, without lock and log."""
    hidden = {".lock", "prepare.log", ".files.partial-abc"}
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in hidden}


def test_folder_gets_files_records_and_a_manifest(root: Path, out: Path) -> None:
    manifest = prepare(root, out)
    assert manifest == read_manifest(out, "toy", version=2)
    assert manifest == {
        "dataset": "toy",
        "format": 2,
        "settings": {"size": [1, 2]},
        "lengths": {"a": 1, "b": 2, "c": 3, "d": 4},
    }
    assert set(files(out)) == {"manifest.json", "records.jsonl", *(f"{n}.out" for n in NAMES)}
    (entry,) = read_records(out)["b"]["raw"]
    path = root / "b.txt"
    assert entry[:3] == ["b.txt", 2, path.stat().st_mtime_ns]
    assert len((out / "prepare.log").read_text().splitlines()) == 6  # begin, four units, ready


def test_ready_folder_is_not_prepared_again(root: Path, out: Path) -> None:
    prepare(root, out)
    before = files(out)
    WORKED.clear()
    prepare(root, out)
    assert WORKED == []
    assert files(out) == before


HEADER = '{"unit": "", "dataset": "toy", "format": 2, "settings": {"size": [1, 2]}}'


@pytest.mark.parametrize("line", ['{"unit": "b"}', "[1]", '"b"', '{"unit": ["b"]}', "\udcff", "{"])
def test_damaged_records_are_done_again(root: Path, out: Path, line: str) -> None:
    prepare(root, out)
    whole = files(out)
    (out / "manifest.json").unlink()
    (out / "records.jsonl").write_text(f"{HEADER}\n{line}\n", errors="surrogateescape")
    prepare(root, out)
    assert files(out) == whole


@pytest.mark.parametrize("header", ['{"unit": ""}', ""])
def test_records_without_their_settings_are_not_used(root: Path, out: Path, header: str) -> None:
    prepare(root, out)
    _, *records = (out / "records.jsonl").read_text().splitlines()
    (out / "records.jsonl").write_text("\n".join([header, *records]))
    (out / "manifest.json").unlink()
    WORKED.clear()
    prepare(root, out)
    assert sorted(WORKED) == list(NAMES)


def test_prepared_file_that_is_missing_or_truncated_is_named_and_redone(
    root: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(root, out)
    whole = files(out)
    (out / "b.out").write_bytes(b"b")
    (out / "c.out").unlink()
    lines = [f"{out / 'b.out'} has 1 of 4 bytes", f"{out / 'c.out'} is missing"]
    assert damage_lines(out) == [f"{line}; run the recipe's prepare command" for line in lines]
    redo = units_to_redo(out, root)
    assert capsys.readouterr().out.splitlines() == [f"{x}; preparing it again" for x in lines]
    WORKED.clear()
    prepare(root, out, redo=redo)
    assert sorted(WORKED) == ["b", "c"]
    assert files(out) == whole


def test_raw_file_that_cannot_be_read_is_named_itself(root: Path, out: Path) -> None:
    (root / "b.txt").unlink()
    (root / "b.txt").mkdir()
    with pytest.raises(ValueError, match=r"^\S+/raw/b.txt: cannot be read \(Is a directory\)"):
        prepare(root, out)


def test_manifest_without_a_needed_fact_counts_as_damaged(root: Path, out: Path) -> None:
    prepare(root, out)
    assert read_manifest(out, "toy", version=2, keys=["lengths"]) is not None
    assert read_manifest(out, "toy", version=2, keys=["lengths", "more"]) is None


@pytest.mark.parametrize("killed", NAMES)
def test_killed_run_continues_and_ends_with_the_same_bytes(
    root: Path, out: Path, tmp_path: Path, killed: str
) -> None:
    prepare(root, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        prepare(root, out, killed=killed)
    assert read_manifest(out, "toy", version=2) is None
    (out / ".x.out.partial-4711").touch()
    (out / "x.partial-4711").touch()  # as version 0.1 named them
    (out / ".files.partial-abc").mkdir()  # another program's
    if (out / "records.jsonl").is_file():
        (out / "records.jsonl").open("a").write('\n{"unit": "c", "fing')  # half a line
    WORKED.clear()
    prepare(root, out)
    assert list(NAMES[NAMES.index(killed) :]) == WORKED
    assert files(out) == files(tmp_path / "whole")


def test_every_bad_unit_is_named_and_good_ones_are_kept(root: Path, out: Path) -> None:
    with pytest.raises(ValueError, match="b.txt: is bad$"):
        prepare(root, out, bad="b")
    WORKED.clear()
    assert "b.txt: is bad" in (out / "prepare.log").read_text()
    assert prepare(root, out)["lengths"]["b"] == 2
    assert WORKED == ["b"]


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("cut")])
def test_unit_whose_file_is_gone_or_cut_is_redone_alone(root: Path, out: Path, spoil: Any) -> None:
    prepare(root, out)
    before = files(out)
    spoil(out / "c.out")
    (out / "manifest.json").unlink()
    WORKED.clear()
    prepare(root, out)
    assert WORKED == ["c"]
    assert files(out) == before


def test_unit_of_another_fingerprint_is_redone(root: Path, out: Path) -> None:
    prepare(root, out)
    (out / "manifest.json").unlink()
    WORKED.clear()
    prepare(root, out, fingerprints={"d": "other text"})
    assert WORKED == ["d"]


def test_folder_is_closed_to_readers_while_units_are_redone(root: Path, out: Path) -> None:
    prepare(root, out)
    (root / "b.txt").write_text("BB")
    with pytest.raises(KeyboardInterrupt):
        prepare(root, out, redo={"b"}, killed="b")
    assert read_manifest(out, "toy", version=2) is None
    WORKED.clear()
    prepare(root, out)
    assert WORKED == ["b"]


def test_changed_raw_files_are_found_by_size_and_by_hash(root: Path, out: Path) -> None:
    prepare(root, out)
    assert changed_units(out, root) == {}
    a, b, c, d = (root / f"{name}.txt" for name in NAMES)
    a.write_text("longer")
    b.write_text("BB")
    os.utime(c, ns=(0, 5))  # the same bytes
    d.unlink()  # absent, which is no change
    lines = changed_units(out, root)
    assert lines == {
        "a": f"{a} changed since it was prepared",
        "b": f"{b} changed since it was prepared",
    }
    WORKED.clear()
    d.write_text("dddd")
    assert prepare(root, out, redo=lines)["lengths"]["a"] == 6
    assert WORKED == ["a", "b"]
    assert (out / "b.out").read_text() == "BBBB"
    assert changed_units(out, root) == {}


def test_raw_file_that_was_only_touched_is_hashed_once(
    root: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(root, out)
    os.utime(root / "c.txt", ns=(0, 5))
    assert units_to_redo(out, root) == set()
    assert read_records(out)["c"]["raw"][0][2] == 5
    monkeypatch.setattr(records, "file_hash", lambda path: pytest.fail(f"{path} was read"))
    assert changed_units(out, root) == {}


def test_second_process_does_not_redo_what_the_first_has_redone(root: Path, out: Path) -> None:
    prepare(root, out)
    (root / "a.txt").write_text("longer")
    first, second = units_to_redo(out, root), units_to_redo(out, root)
    assert first == second == {"a"}
    WORKED.clear()
    assert prepare(root, out, redo=first) == prepare(root, out, redo=second)
    assert WORKED == ["a"]


def test_raw_file_that_exists_but_cannot_be_read_is_named(
    root: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(root, out)

    def stale(path: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(records.os, "stat", stale)
    with pytest.raises(ValueError, match=r"a.txt: cannot be read \(Stale file handle\)"):
        changed_units(out, root)


def test_raw_folder_may_move(root: Path, out: Path) -> None:
    prepare(root, out)
    moved = root.rename(root.with_name("moved"))
    (moved / "a.txt").write_text("longer")
    assert list(changed_units(out, moved)) == ["a"]


@pytest.mark.parametrize("finished", [True, False])
def test_folder_of_other_settings_is_one_line(root: Path, out: Path, finished: bool) -> None:
    if finished:
        prepare(root, out)
    else:
        with pytest.raises(KeyboardInterrupt):
            prepare(root, out, killed="b")
    with pytest.raises(
        ValueError, match=r"with size \[1, 2\], this run needs \[3\]: give"
    ) as error:
        prepare(root, out, settings={"size": (3,)})
    assert "\n" not in str(error.value)


def test_folder_of_another_version_is_named_and_prepared_again(root: Path, out: Path) -> None:
    prepare(root, out, version=1, settings={"old": 1})
    with pytest.raises(OutdatedError, match="by another version of finishline: run the recipe's"):
        read_manifest(out, "toy", version=2)
    WORKED.clear()
    assert prepare(root, out)["format"] == 2
    assert list(NAMES) == WORKED


def test_folder_of_an_earlier_version_can_be_read_by_an_upgrade(out: Path) -> None:
    out.mkdir()
    (out / "manifest.json").write_text('{"format": 1, "size": 3}')
    read = partial(read_manifest, out, "toy", version=2)
    assert read(upgrade=lambda old: {"settings": {"size": old["size"]}}) == {
        "settings": {"size": 3}
    }
    with pytest.raises(OutdatedError):
        read(upgrade=lambda old: None)


def test_folder_of_another_data_set_is_refused(root: Path, out: Path) -> None:
    prepare(root, out)
    with pytest.raises(ValueError, match="manifest.json belongs to toy: give another directory"):
        read_manifest(out, "game", version=2)


def test_prepared_file_of_other_bytes_is_named_and_redone(
    root: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(root, out)
    whole = files(out)
    (out / "b.out").write_bytes(b"bbbB")  # of the same size
    assert damage_lines(out) == []  # which looks at sizes only
    redo = units_to_redo(out, root)
    line = f"{out / 'b.out'} changed since it was written; preparing it again"
    assert capsys.readouterr().out.splitlines() == [line]
    prepare(root, out, redo=redo)
    assert files(out) == whole


def test_changed_figure_in_a_manifest_counts_as_damage(root: Path, out: Path) -> None:
    prepare(root, out)
    path = out / "manifest.json"
    path.write_text(path.read_text().replace('"b": 2', '"b": 3'))
    assert read_manifest(out, "toy", version=2) is None


@pytest.mark.parametrize("content", ["", '{"format": 2, "da', "[]", "{}"])
def test_damaged_manifest_is_written_again(root: Path, out: Path, content: str) -> None:
    prepare(root, out)
    before = files(out)
    (out / "manifest.json").write_text(content)
    assert read_manifest(out, "toy", version=2) is None
    WORKED.clear()
    prepare(root, out)
    assert (files(out), WORKED) == (before, [])


def test_full_disk_is_said_before_anything_is_done(
    root: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(100, 61, 39))
    with pytest.raises(ValueError, match="preparing needs 0.00 GB, the disk has 0.00 GB free"):
        prepare(root, out)
    assert (files(out), WORKED) == ({}, [])


def test_disk_that_fills_up_is_one_line(
    root: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Preparation, "remember", fill_up)
        with pytest.raises(ValueError, match=r"out: cannot be written \(No space left") as error:
            prepare(root, out)
    assert "--data.prepared_dir" in str(error.value)
    assert len(prepare(root, out)["lengths"]) == 4


def test_folder_that_cannot_be_made_is_one_line(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="out: cannot be written"):
        prepare(root, tmp_path / "file" / "out")


def test_second_process_waits_and_finds_the_folder_ready(
    root: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda: results.append(prepare(root, out))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(WORKED) == list(NAMES)
    assert results[0] == results[1] == results[2]


def test_waiting_for_another_process_is_said_once_it_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(atomic, "SILENT_SECONDS", 0.01)
    entered = threading.Event()

    def hold() -> None:
        with atomic.locked(tmp_path / "lock"):
            entered.set()
            time.sleep(0.3)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    with atomic.locked(tmp_path / "lock"):
        thread.join()
    assert capsys.readouterr().err == f"waiting for the process that holds {tmp_path / 'lock'}\n"


def test_work_recorded_for_an_earlier_version_is_not_done_again(root: Path, out: Path) -> None:
    out.mkdir()
    (out / "a.out").write_text("aa")
    with preparing(out, "toy", {}, version=2, root=root) as preparation:
        preparation.remember(units(root)[0], Done(1))
        assert [unit.name for unit in preparation.unfinished(units(root))] == ["b", "c", "d"]


def test_discarded_records_stay_away_after_a_kill(root: Path, out: Path) -> None:
    prepare(root, out)
    (out / "manifest.json").unlink()
    with preparing(out, "toy", {"size": (1, 2)}, version=2, root=root) as preparation:
        assert preparation.unfinished(units(root)) == []
        preparation.discard_records()
        job = partial(double, out=out, killed="b")
        with pytest.raises(KeyboardInterrupt):
            preparation.run("doubling", job, units(root), processes=1)
    assert list(read_records(out)) == ["", "a"]


def test_killed_run_over_a_folder_of_another_version_continues(root: Path, out: Path) -> None:
    prepare(root, out, version=1)
    with pytest.raises(KeyboardInterrupt):
        prepare(root, out, killed="c")
    WORKED.clear()
    prepare(root, out)
    assert WORKED == ["c", "d"]


def test_used_up_files_go_once_the_record_is_written(root: Path, out: Path) -> None:
    seen = []
    with preparing(out, "toy", {}, version=2, root=root) as preparation:
        preparation.run(
            "doubling",
            partial(double, out=out),
            units(root),
            processes=1,
            after=lambda unit: seen.append(unit.name in read_records(out)),
        )
    assert seen == [True] * 4
