"""Criteo preprocessing: equal to plain Python, restartable anywhere with the same bytes, fast."""

import gc
import hashlib
import json
import time
import tracemalloc
from functools import partial

import numpy as np
import pytest

from datamodules.common.records import read_records
from datamodules.criteo import prepare as preparation
from datamodules.criteo import stages
from datamodules.criteo.checksums import verify
from datamodules.criteo.demo import write_logs
from datamodules.criteo.store import Settings, open_split, read_manifest
from datamodules.criteo.text import read_day

DAYS, ROWS = 4, 301
RANGE = 5000  # the real 40,000,000 is in the first test; it takes a second to clear such tables
SETTINGS = Settings(num_days=DAYS, max_ind_range=RANGE)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    root = tmp_path_factory.mktemp("logs")
    write_logs(root, DAYS, ROWS)
    return root


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Several chunks and buckets, so that their borders matter."""
    monkeypatch.setattr(stages, "CHUNK_ROWS", 128)
    monkeypatch.setattr(stages, "BUCKET_ROWS", 100)
    monkeypatch.setattr(stages, "SPLIT_CHUNKS", 1)


def plain_rows(root, max_ind_range):
    """All rows as 40-tuples, numbered by first appearance in day and row order."""
    known = [{} for _ in range(26)]
    days = []
    for day in range(DAYS):
        rows = []
        for line in (root / f"day_{day}").read_text().splitlines():
            fields = [field or "0" for field in line.split("\t")]
            hashes = [int(field, 16) % max_ind_range for field in fields[14:]]
            ids = [names.setdefault(h, len(names)) for names, h in zip(known, hashes, strict=True)]
            dense = [max(0, int(field)) for field in fields[1:14]]
            rows.append((int(fields[0]), *dense, *ids))
        days.append(rows)
    return days, tuple(len(names) for names in known)


def rows_of(folder, split):
    files = open_split(folder, split)
    table = np.column_stack([files["label"].astype(np.int32), files["dense"], files["sparse"]])
    return [tuple(row) for row in table.tolist()]


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.suffix in (".npy", ".json")
    }


@pytest.mark.parametrize("max_ind_range", [40_000_000, 50])
def test_result_equals_plain_python(logs, tmp_path, max_ind_range):
    settings = Settings(DAYS, max_ind_range)
    manifest = preparation.prepare(logs, tmp_path, settings)
    days, sizes = plain_rows(logs, max_ind_range)
    assert manifest.table_sizes == sizes
    assert manifest.rows == {"train": 3 * ROWS, "test": 151, "validation": 150}
    assert rows_of(tmp_path, "test") == days[-1][:151]
    assert rows_of(tmp_path, "validation") == days[-1][151:]
    everything = [row for day in days[:-1] for row in day]
    train = rows_of(tmp_path, "train")
    assert sorted(train) == sorted(everything)
    assert train != everything
    assert not (tmp_path / "work").exists()


def test_shuffle_mixes_days_evenly(logs, tmp_path):
    preparation.prepare(logs, tmp_path, SETTINGS)
    days, _ = plain_rows(logs, RANGE)
    day_of = {row: number for number, rows in enumerate(days) for row in rows}
    order = [day_of[row] for row in rows_of(tmp_path, "train")]
    for third in np.array_split(order, 3):
        counts = np.bincount(third, minlength=3)
        assert counts.min() > 70  # 100 expected, standard deviation 7
    same_neighbour = np.mean(np.array(order[1:]) == np.array(order[:-1]))
    assert 0.25 < same_neighbour < 0.42


@pytest.mark.parametrize(
    ("stage", "after"),
    [("parse_day", 2), ("number_column", 11), ("scatter_day", 1), ("permute_bucket", 4)],
)
def test_killed_and_continued_gives_the_same_bytes(logs, tmp_path, monkeypatch, stage, after):
    preparation.prepare(logs, tmp_path / "whole", SETTINGS)
    work, calls = getattr(preparation, stage), []

    def dies(*args):
        calls.append(args)
        result = work(*args)  # the work is done, but no marker says so
        if len(calls) > after:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(preparation, stage, dies)
        with pytest.raises(KeyboardInterrupt):
            preparation.prepare(logs, tmp_path / "cut", SETTINGS)
    redone = []
    monkeypatch.setattr(preparation, stage, lambda *a: (redone.append(a[1]), work(*a))[1])
    preparation.prepare(logs, tmp_path / "cut", SETTINGS)
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
    assert redone[0] == after  # what was finished is not done again


@pytest.mark.slow
def test_number_of_processes_does_not_change_the_bytes(logs, tmp_path, monkeypatch):
    monkeypatch.undo()  # workers have the module's own chunk sizes
    preparation.prepare(logs, tmp_path / "1", SETTINGS, processes=1)
    preparation.prepare(logs, tmp_path / "2", SETTINGS, processes=2)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_missing_days_are_all_named(tmp_path):
    write_logs(tmp_path, 2, 5)
    with pytest.raises(FileNotFoundError) as error:
        preparation.prepare(tmp_path, tmp_path / "out", SETTINGS)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{tmp_path}: day_2, day_3 (or .gz) missing; get it from Criteo AI Lab")


def test_mistyped_root_gets_one_line_and_nothing_is_made_there(tmp_path):
    root = tmp_path / "tpyo"
    with pytest.raises(FileNotFoundError, match="contains no day of the click logs") as error:
        preparation.prepare(root, root / "out", SETTINGS)
    assert "\n" not in str(error.value)
    assert not root.exists()


def test_days_that_were_parsed_before_a_kill_may_be_gone(tmp_path, monkeypatch):
    write_logs(tmp_path, DAYS, 30)
    wanted = preparation.prepare(tmp_path, tmp_path / "whole", SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "number_column", lambda work, column: 1 / 0)
        with pytest.raises(ValueError, match="division by zero"):
            preparation.prepare(tmp_path, tmp_path / "cut", SETTINGS)
    (tmp_path / "day_2").unlink()
    assert preparation.prepare(tmp_path, tmp_path / "cut", SETTINGS) == wanted


def test_files_of_other_days_that_lie_in_the_folder_are_replaced(tmp_path):
    for rows in (30, 50, 20):  # the manifest is deleted, as the message about damage says
        write_logs(tmp_path, DAYS, rows)
        assert preparation.prepare(tmp_path, tmp_path, SETTINGS).rows["train"] == 3 * rows
        (tmp_path / "manifest.json").unlink()
    assert verify(tmp_path, 1) == []
    preparation.prepare(tmp_path, tmp_path, SETTINGS)
    assert read_manifest(tmp_path, SETTINGS) is not None  # sizes are as they must be


def test_bad_days_are_all_named_and_good_ones_kept(tmp_path):
    write_logs(tmp_path, DAYS, 20)
    good = {day: (tmp_path / f"day_{day}").read_bytes() for day in (1, 2)}
    for day, text in good.items():
        (tmp_path / f"day_{day}").write_bytes(text + b"1\t2\n")
    with pytest.raises(ValueError, match="40 tab-separated") as error:
        preparation.prepare(tmp_path, tmp_path / "out", SETTINGS)
    assert len(str(error.value).splitlines()) == 2
    for day, text in good.items():
        (tmp_path / f"day_{day}").write_bytes(text)
    assert preparation.prepare(tmp_path, tmp_path / "out", SETTINGS).rows["train"] == 60


def test_folder_of_other_settings_or_damaged_file_is_refused(logs, tmp_path):
    preparation.prepare(logs, tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="prepared with max_ind_range 5000, this run needs 50"):
        preparation.prepare(logs, tmp_path, Settings(DAYS, 50))
    path = tmp_path / "train_sparse.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="train_sparse.npy should have") as error:
        preparation.prepare(logs, tmp_path, SETTINGS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ['{"version": 1}', "[1]", "half a"])
def test_manifest_of_something_else_is_named(logs, tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match="manifest.json is not of prepared Criteo data"):
        preparation.prepare(logs, tmp_path, SETTINGS)


def test_folder_of_version_1_is_read_as_it_is(logs, tmp_path):
    wanted = preparation.prepare(logs, tmp_path, SETTINGS)
    (tmp_path / "records.jsonl").unlink()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["settings"]["format"] = 1
    old = {name: manifest[name] for name in ("settings", "rows", "table_sizes")}
    (tmp_path / "manifest.json").write_text(json.dumps(old))
    before = digests(tmp_path)
    assert preparation.prepare(tmp_path / "nowhere", tmp_path, SETTINGS) == wanted
    assert digests(tmp_path) == before
    with pytest.raises(ValueError, match="prepared with max_ind_range 5000, this run needs 50"):
        preparation.prepare(logs, tmp_path, Settings(DAYS, 50))


def test_the_last_day_is_copied_in_parts_to_the_same_bytes(logs, tmp_path, monkeypatch):
    preparation.prepare(logs, tmp_path / "parts", SETTINGS)
    monkeypatch.setattr(stages, "SPLIT_CHUNKS", 1000)
    preparation.prepare(logs, tmp_path / "whole", SETTINGS)
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")
    parts = [name for name in read_records(tmp_path / "parts") if name.startswith("split_")]
    assert len(parts) == 4  # two of either half


def test_half_made_folder_of_version_1_is_begun_anew(logs, tmp_path):
    preparation.prepare(logs, tmp_path / "whole", SETTINGS)
    work = tmp_path / "cut" / "work"
    (work / "day_00").mkdir(parents=True)
    (work / "settings.json").write_text('{"num_days": 4, "max_ind_range": 5000, "format": 1}')
    (work / "parse_00000.done").write_text("7")
    (work / "buckets.npy").write_bytes(b"of another size")
    preparation.prepare(logs, tmp_path / "cut", SETTINGS)
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


def test_folder_of_another_version_gets_one_line_and_prepare_replaces_it(logs, tmp_path):
    preparation.prepare(logs, tmp_path, SETTINGS)
    before = digests(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(ValueError, match="another version .* run the recipe's prepare") as error:
        preparation.prepare(logs, tmp_path, SETTINGS)
    assert "\n" not in str(error.value)
    preparation.prepare(logs, tmp_path, SETTINGS, replace=True)
    assert digests(tmp_path) == before


@pytest.mark.parametrize("name", ["train_sparse.npy", "test_label.npy", "dictionary_07.npy"])
def test_one_changed_byte_is_found_when_files_are_read_back(logs, tmp_path, name):
    preparation.prepare(logs, tmp_path, SETTINGS)
    assert verify(tmp_path, 1) == []
    content = bytearray((tmp_path / name).read_bytes())
    content[-3] ^= 4
    (tmp_path / name).write_bytes(content)
    (line,) = verify(tmp_path, 1)
    assert f"{name}, bytes " in line
    assert "manifest.json and run prepare again" in line


def peak_memory(root, out):
    """Bytes at the worst moment."""
    gc.collect()
    tracemalloc.start()
    try:
        preparation.prepare(root, out, SETTINGS)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_input(logs, tmp_path, monkeypatch):
    """Chunks take 9 MB here: large next to Python's own garbage, small next to the longer input."""
    monkeypatch.setattr(stages, "CHUNK_ROWS", 1 << 12)
    monkeypatch.setattr(stages, "BUCKET_ROWS", 1 << 12)
    monkeypatch.setattr(stages, "read_day", partial(read_day, block_bytes=1 << 20))
    preparation.prepare(logs, tmp_path / "warm", SETTINGS)  # the compiler's memory is no part of it
    peaks, sizes = [], []
    for rows in (10_000, 40_000):
        root = tmp_path / str(rows)
        root.mkdir()
        write_logs(root, DAYS, rows)
        sizes.append(sum(path.stat().st_size for path in root.iterdir()))
        # The lower of two, as what runs for the first time in this process can only add.
        peaks.append(min(peak_memory(root, tmp_path / f"out{rows}-{n}") for n in range(2)))
    assert sizes[1] - sizes[0] > 2 * peaks[0], "the longer input must show if it is held"
    assert peaks[1] < 1.15 * peaks[0], peaks
    assert stages.choose_processes(10**13) * stages.WORKER_BYTES < 4e9


@pytest.mark.speed
@pytest.mark.slow
def test_parsing_is_five_times_faster_than_pandas(tmp_path):
    pandas = pytest.importorskip("pandas")
    write_logs(tmp_path, 1, 20_000)
    path = tmp_path / "day_0"

    def theirs():
        names = [str(number) for number in range(40)]
        text = {name: str for name in names[14:]}
        table = pandas.read_csv(path, sep="\t", header=None, names=names, dtype=text)
        table[names[1:14]] = table[names[1:14]].fillna(0).clip(lower=0).astype("int32")
        for name in names[14:]:
            hashes = table[name].fillna("0").map(lambda word: int(word, 16) % 40_000_000)
            table[name] = hashes.astype("int32")
        return table.to_numpy()

    def ours():
        return [rows for rows in read_day(path, 40_000_000)]

    ours()  # compiles
    seconds = [min(_timed(work) for _ in range(3)) for work in (ours, theirs)]
    np.testing.assert_array_equal(ours()[0].sparse.T, theirs()[:, 14:])
    assert seconds[1] / seconds[0] >= 5, seconds


def _timed(work):
    start = time.process_time()
    work()
    return time.process_time() - start
