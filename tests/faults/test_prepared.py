"""Kill preparation, fill its disk, flip bits in what it wrote: it ends with the same bytes."""

import multiprocessing
import os
import resource

import pytest

from datamodules.common.cache import build_once
from datamodules.common.preparation import units_to_redo
from tests.datamodules.common.test_preparation import files, out, prepare, root
from tests.faults.harness import Events, Outcomes, in_child, rounds

__all__ = ["out", "root"]  # fixtures
pytestmark = pytest.mark.fault


def watched(root, out, events, note):
    os.replace, os.fsync = events.watch(os.replace), events.watch(os.fsync)
    prepare(root, out)
    note.write_text(str(events.count))


def test_preparation_killed_anywhere_ends_with_the_same_bytes(root, tmp_path):
    whole, note, outcomes = tmp_path / "whole", tmp_path / "count", Outcomes()
    assert in_child(lambda: watched(root, whole, Events(None, None), note)) == 0
    count = int(note.read_text())
    assert count > 5
    for number, draw in enumerate(rounds()):
        folder = tmp_path / f"out{number}"
        events = Events(draw.randrange(count), draw)
        assert in_child(lambda f=folder, e=events: watched(root, f, e, note)) == -9
        prepare(root, folder)
        outcomes["finished" if files(folder) == files(whole) else "SILENT"] += 1
    outcomes.assert_none_silent("kills of preparation")


def limited(work, size, note):
    """Do something while no file can grow beyond a size, and note the error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        work()
    except ValueError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        note.write_text(str(error))


def test_a_full_disk_stops_preparation_with_a_line(root, tmp_path):
    whole, note, outcomes = tmp_path / "whole", tmp_path / "note", Outcomes()
    prepare(root, whole)
    for number, draw in enumerate(rounds()):
        folder, size = tmp_path / f"out{number}", int(10 ** draw.uniform(0, 4))
        note.write_text("")
        in_child(lambda f=folder, s=size: limited(lambda: prepare(root, f), s, note))
        line = note.read_text()
        good = line.startswith(f"{folder}: cannot be written (File too large)") or not line
        prepare(root, folder)
        good &= files(folder) == files(whole)
        outcomes[("named" if line else "had room") if good else "SILENT"] += 1
    outcomes.assert_none_silent("full disk of preparation")
    assert outcomes["named"]


def test_a_full_disk_stops_generated_data_with_a_line(tmp_path):
    target, note = tmp_path / "cache" / "demo", tmp_path / "note"

    def write(folder):
        (folder / "file").write_bytes(bytes(5000))

    in_child(lambda: limited(lambda: build_once(target, write), 1000, note))
    assert note.read_text().startswith(f"{target}: generated data cannot be written (File too la")
    assert not target.exists()
    assert (build_once(target, write) / "file").stat().st_size == 5000


def test_flipped_bits_in_prepared_files_are_found_by_prepare(root, tmp_path, capsys):
    whole, outcomes = tmp_path / "whole", Outcomes()
    prepare(root, whole)
    good = files(whole)
    for draw in rounds(50):
        name = draw.choice(sorted(good))
        flipped = bytearray(good[name])
        flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        (whole / name).write_bytes(flipped)
        try:
            prepare(root, whole, redo=units_to_redo(whole, root))
        except ValueError as error:  # such as a manifest that now names another data set
            named = str(error).startswith(str(whole))
            outcomes["refused" if named else "SILENT"] += 1
        else:
            data = {key: text for key, text in files(whole).items() if key.endswith(".out")}
            same = all(good[key] == text for key, text in data.items())
            outcomes["prepared again" if same else "SILENT"] += 1
        for key, text in good.items():
            (whole / key).write_bytes(text)
    capsys.readouterr()
    with capsys.disabled():
        outcomes.assert_none_silent("bits of prepared files")


def test_two_preparations_at_once_do_the_work_once(root, out):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=prepare, args=(root, out)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    done = [line for line in (out / "prepare.log").read_text().splitlines() if " done (" in line]
    assert len(done) == 4
