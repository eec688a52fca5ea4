"""Own click logs: fewer days, equal days, damaged files, and other rows than Criteo's."""

import gzip
import json
import shutil

import numpy as np
import pytest

from datamodules.criteo import CriteoDataModule
from datamodules.criteo.demo import write_logs
from datamodules.criteo.sketch import SIZE, equal_days, extend, shared
from datamodules.criteo.store import DAY_ROWS, REFERENCE_ROWS
from datamodules.criteo.text import read_day
from tests.tools.flips import flips

ROWS = 60


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    write_logs(root, 3, ROWS)
    return root


@pytest.fixture
def root(original, tmp_path):
    return shutil.copytree(original, tmp_path / "own")


@pytest.fixture(scope="module")
def ready(original, tmp_path_factory):
    root = shutil.copytree(original, tmp_path_factory.mktemp("ready") / "own")
    module(root).prepare()
    return root


def module(root, **settings):
    return CriteoDataModule(root=root, **{"max_ind_range": 5000, "batch_size": 20, **settings})


def test_days_are_those_that_are_there_before_and_after_prepare(original, ready, tmp_path):
    assert module(original).settings.num_days == 3
    assert module(original).differences() == ["3 days instead of 24"]
    with pytest.raises(ValueError, match="is not prepared"):
        module(original).net_facts()
    facts = module(ready).net_facts()
    assert facts["num_dense"] == 13
    assert len(facts["table_sizes"]) == 26
    alone = tmp_path / "alone"
    shutil.copytree(ready, alone, ignore=shutil.ignore_patterns("day_*"))
    assert module(alone).settings.num_days == 3
    (folder,) = alone.glob("finishline-*")
    assert module(tmp_path, prepared_dir=folder).settings.num_days == 3
    module(tmp_path, prepared_dir=folder).prepare_data()


def test_a_day_that_is_missing_between_others_is_named(root):
    (root / "day_1").unlink()
    assert "day_1 (or .gz) missing" in module(root).problems()[0]


def test_one_day_is_not_enough(root):
    for number in (1, 2):
        (root / f"day_{number}").unlink()
    (line,) = module(root).problems()
    assert "has one day, but the last of at least two is the evaluation's" in line
    with pytest.raises(FileNotFoundError, match="has one day"):
        module(root).prepare_data()


def test_rows_of_24_days_are_compared_with_the_published_ones(ready, monkeypatch):
    monkeypatch.setattr("datamodules.criteo.base.REFERENCE_DAYS", 3)
    assert sum(DAY_ROWS) == sum(REFERENCE_ROWS.values())
    assert sum(DAY_ROWS[:-1]) == REFERENCE_ROWS["train"]
    lines = module(ready).differences()
    assert lines[0] == "day_0 has 60 rows instead of 195,841,983"
    assert len(lines) == 3
    monkeypatch.setattr("datamodules.criteo.base.DAY_ROWS", (60, 60, 60))
    assert module(ready).differences()[1] == "30 test rows instead of 89,137,319"
    published = {"train": 120, "test": 30, "validation": 30}
    monkeypatch.setattr("datamodules.criteo.base.REFERENCE_ROWS", published)
    assert module(ready).differences() == []


def test_days_too_small_for_the_published_rows_are_told_before_prepare(root, monkeypatch):
    monkeypatch.setattr("datamodules.criteo.base.REFERENCE_DAYS", module(root).settings.num_days)
    size = (root / "day_0").stat().st_size
    lines = module(root).differences()
    assert lines[0] == f"day_0 has {size:,} bytes, too few for the published 195,841,983 rows"
    assert len(lines) == 3
    monkeypatch.setattr("datamodules.criteo.base.DAY_ROWS", (ROWS,) * 3)
    assert module(root).differences() == []


def test_test_rows_of_one_label_are_refused(root):
    lines = (root / "day_2").read_bytes().splitlines(keepends=True)
    (root / "day_2").write_bytes(b"".join(b"0" + line[1:] for line in lines))
    with pytest.raises(ValueError, match=r"day_2: all 30 rows of its first half.* have label 0"):
        module(root).prepare()


# Days that are the same.


def copied(content: bytes, other: bytes) -> dict[str, bytes]:
    """Ways in which rows of ``content`` get into another day."""
    lines = content.splitlines(keepends=True)
    half = b"".join([*other.splitlines(keepends=True)[: ROWS // 2], *lines[: ROWS // 2]])
    return {
        "whole": content,
        "reversed": b"".join(lines[::-1]),
        "windows": content.replace(b"\n", b"\r\n"),
        "half": half,
        "appended": other + b"".join(lines[:20]),
    }


@pytest.mark.parametrize("kind", ["whole", "reversed", "windows", "half", "appended"])
def test_evaluation_day_with_rows_of_a_training_day_is_refused(root, kind):
    good = (root / "day_2").read_bytes()
    (root / "day_2").write_bytes(copied((root / "day_0").read_bytes(), good)[kind])
    with pytest.raises(ValueError, match=r"day_2: \d+% of the rows are also in day_0; replace"):
        module(root).prepare()
    (root / "day_2").write_bytes(good)  # the finished days are kept, this one is read again
    module(root).prepare()
    assert module(root).manifest.rows["train"] == 2 * ROWS


def test_equal_day_that_is_compressed_is_refused(root):
    (root / "day_1").unlink()
    (root / "day_1.gz").write_bytes(gzip.compress((root / "day_0").read_bytes()))
    with pytest.raises(ValueError, match="day_1: 100% of the rows are also in day_0"):
        module(root).prepare()


def test_sketches_of_large_days_estimate_the_share_of_equal_rows():
    rng = np.random.default_rng(0)
    hashes = np.unique(rng.integers(0, 2**63, 60_000, dtype=np.uint64))
    rng.shuffle(hashes)
    one = np.sort(hashes[:40_000])[:SIZE]
    for shared_rows in (0, 8_000, 20_000):
        other = np.sort(hashes[40_000 - shared_rows : 60_000])[:SIZE]
        share = shared_rows / min(40_000, 20_000 + shared_rows)
        assert shared(one, other) == pytest.approx(share, abs=0.06)
    assert equal_days({0: one, 3: one[:10]}) == ["day_3: 100% of the rows are also in day_0"]


def test_sketch_does_not_depend_on_the_blocks(original):
    whole = small = np.empty(0, np.uint64)
    for rows in read_day(original / "day_0", 5000):
        whole = extend(whole, rows)
    for rows in read_day(original / "day_0", 5000, block_bytes=4000):
        small = extend(small, rows)
    assert np.array_equal(whole, small)
    assert len(whole) == ROWS


# Files that are not what they seem.


def test_half_unpacked_day_beside_its_archive_is_named(root):
    text = (root / "day_1").read_bytes()
    (root / "day_1.gz").write_bytes(gzip.compress(text))
    assert module(root).problems() == []
    (root / "day_1").write_bytes(text[: text.index(b"\n", 5000) + 1])
    (line,) = module(root).problems()
    assert "is not the size of the text in day_1.gz: unpack it again" in line
    with pytest.raises(ValueError, match=r"day_1\.gz: unpack it again"):
        module(root).prepare_data()


def test_no_flipped_bit_of_a_compressed_day_gives_other_rows(original, tmp_path):
    path = tmp_path / "day_0.gz"
    whole = gzip.compress((original / "day_0").read_bytes(), mtime=0)
    path.write_bytes(whole)
    wanted = [rows.sparse.tobytes() for rows in read_day(path, 5000)]
    messages = []
    for damaged in flips(whole, 80):
        path.write_bytes(damaged)
        try:
            read = [rows.sparse.tobytes() for rows in read_day(path, 5000)]
        except ValueError as error:
            messages.append(str(error))
            continue
        assert read == wanted  # a bit of the header's time stamp, say
    assert len(messages) > 70
    assert all(message.startswith(str(path)) for message in messages)


@pytest.mark.parametrize("name", ["train_sparse", "test_label", "validation_dense"])
def test_no_flipped_byte_of_a_header_is_read(ready, tmp_path, name):
    folder = shutil.copytree(next(ready.glob("finishline-*")), tmp_path / "prepared")
    path, whole = folder / f"{name}.npy", (folder / f"{name}.npy").read_bytes()
    for damaged in flips(whole[:128], 64):
        path.write_bytes(damaged + whole[128:])
        with pytest.raises(ValueError, match=f"{name}.npy: its header is damaged; delete"):
            module(ready, prepared_dir=folder).prepare()


def test_damaged_checksums_are_named(ready, tmp_path):
    folder = shutil.copytree(next(ready.glob("finishline-*")), tmp_path / "prepared")
    path = folder / "checksums.json"
    for content in (path.read_text()[:50], json.dumps([["train_label.npy", 0]])):
        path.write_text(content)
        with pytest.raises(ValueError, match="checksums.json is damaged; delete"):
            module(ready, prepared_dir=folder).prepare()


def test_doctor_tells_that_a_day_has_changed(root):
    module(root).prepare()
    assert module(root).problems() == []
    shutil.copy(root / "day_0", root / "day_1")
    (line,) = module(root).problems()
    assert "day_1 changed since it was prepared; delete" in line
