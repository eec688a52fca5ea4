"""Multi-hot preparation: equal to the reference's steps on whole arrays, and restartable."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from datamodules.criteo import stages
from datamodules.criteo.checksums import verify
from datamodules.criteo.demo import write_logs
from datamodules.criteo.multi_hot import prepare as preparation
from datamodules.criteo.multi_hot.bags import BAG_SIZES, FILE, Bags, write_bags
from datamodules.criteo.multi_hot.batches import logarithm
from datamodules.criteo.multi_hot.numbering import FIRST_SLOTS, Numbering
from datamodules.criteo.multi_hot.order import write_positions
from datamodules.criteo.multi_hot.prepare import CappedRows
from datamodules.criteo.store import MultiHotSettings, open_split
from datamodules.criteo.text import NUM_FIELDS

DAYS, ROWS = 4, 301


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


def reference_rows(root, max_rows):
    """The published steps on arrays in memory: text, numbers from 2, a shuffled float32 array."""
    known = [{} for _ in range(26)]
    days = []
    for day in range(DAYS):
        rows = []
        for line in (root / f"day_{day}").read_text().splitlines():
            fields = [field or "0" for field in line.split("\t")]
            names = zip(known, fields[14:], strict=True)
            ids = [numbers.setdefault(int(x, 16), len(numbers) + 2) for numbers, x in names]
            rows.append([int(fields[0]), *map(int, fields[1:14]), *ids])
        days.append(np.array(rows))
    sizes = [min(len(numbers), max_rows) for numbers in known]
    train = np.concatenate(days[:-1]).astype(np.float32)
    state = np.random.RandomState(0)
    state.shuffle(train)
    splits = {"train": train.astype(np.int32), "test": days[-1][: -(-ROWS // 2)]}
    for rows in splits.values():
        rows[:, 14:] %= sizes
    return splits, tuple(sizes)


def rows_of(folder, split):
    files = open_split(folder, split)
    return np.column_stack([files["label"].astype(np.int32), files["dense"], files["sparse"]])


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.suffix in (".npy", ".json")
    }


@pytest.mark.parametrize("max_rows", [40_000_000, 50])
def test_rows_order_and_bags_equal_the_references(logs, tmp_path, max_rows):
    manifest = preparation.prepare(logs, tmp_path, MultiHotSettings(DAYS, max_rows))
    splits, sizes = reference_rows(logs, max_rows)
    assert manifest.table_sizes == sizes
    for split, wanted in splits.items():
        np.testing.assert_array_equal(rows_of(tmp_path, split), wanted)
    assert (open_split(tmp_path, "train")["dense"] == -1).any()  # negative numbers are kept
    # Each table's bags in one draw, as the reference makes them.
    state, ids = np.random.RandomState(0), splits["train"][:, 14:]
    bags = [state.randint(0, n, size=(n, b - 1)) for n, b in zip(sizes, BAG_SIZES, strict=True)]
    parts = [np.column_stack([ids[:, t], bags[t][ids[:, t]]]) for t in range(26)]
    got = Bags.open(tmp_path / FILE, sizes).expand(ids)
    np.testing.assert_array_equal(got, np.concatenate(parts, 1))
    assert got.shape[1] == 214
    assert verify(tmp_path, 1) == []


def test_first_draws_of_a_capped_table_are_the_published_ones():
    state = np.random.RandomState(0)
    drawn = state.randint(0, 40_000_000, size=4, dtype=np.int32)
    assert drawn.tolist() == [8325804, 2215104, 38712131, 15039847]


def test_bags_drawn_in_chunks_are_those_of_one_stream(tmp_path, monkeypatch):
    sizes = tuple(37 + 11 * table for table in range(26))
    write_bags(tmp_path / "whole.npy", sizes)
    monkeypatch.setattr("datamodules.criteo.multi_hot.bags.CHUNK_IDS", 50)
    write_bags(tmp_path / "parts.npy", sizes)
    assert (tmp_path / "whole.npy").read_bytes() == (tmp_path / "parts.npy").read_bytes()
    with pytest.raises(ValueError, match="manifest.json and run prepare"):
        Bags.open(tmp_path / "whole.npy", (5, *sizes[1:]))


def test_order_equals_the_shuffle_of_the_rows_themselves(tmp_path):
    days = {0: 700, 1: 1, 2: 1299}
    paths = {day: tmp_path / str(day) for day in days}
    write_positions(paths, days)
    places = np.concatenate([np.fromfile(paths[day], np.uint32) for day in days])
    rows = np.random.default_rng(1).random((2000, 3))
    shuffled = rows.copy()
    np.random.RandomState(0).shuffle(shuffled)
    np.testing.assert_array_equal(shuffled[places], rows)


def test_numbers_follow_first_appearance_while_the_table_grows():
    values = np.random.default_rng(2).integers(0, 2**32, 4 * FIRST_SLOTS, dtype=np.uint32)
    values = np.concatenate([values, values[::-3], np.array([0, 2**32 - 1, 0], np.uint32)])
    number, known = Numbering(), {}
    got = np.concatenate([number(part) for part in np.array_split(values, 9)])
    wanted = [known.setdefault(int(value), len(known) + 2) for value in values]
    assert got.tolist() == wanted
    assert number.known().tolist() == list(known)


def test_training_numbers_pass_through_float32_and_evaluation_numbers_do_not(tmp_path):
    """Above 2^24 the reference's float32 array rounds; the day for evaluation is not shuffled."""
    work = stages.Work(tmp_path, tmp_path, None, (1,), (10**9,) * 26)
    row = np.full((1, NUM_FIELDS), 227_605_431, np.int32)
    for rounded, wanted in ((True, 227_605_424), (False, 227_605_431)):
        read = CappedRows.__new__(CappedRows)
        read._read, read._rounded = lambda start, stop: row.copy(), rounded
        read._sizes = np.array(work.table_sizes, np.int32)
        assert (read(0, 1)[0, 14:] == wanted).all()
        assert (read(0, 1)[0, :14] == row[0, :14]).all()


def test_logarithm_is_that_of_the_number_plus_three():
    dense = np.array([[-2, -1, 0, 5, 2**31 - 4, 2**31 - 1]], np.int32)  # + 3 is beyond int32
    got = logarithm(dense)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.log(dense.astype(np.float64) + 3), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("stage", "after"),
    [("parse_day", 2), ("number_column", 11), ("draw", 0), ("scatter_day", 1), ("order_bucket", 4)],
)
def test_killed_and_continued_gives_the_same_bytes(logs, tmp_path, monkeypatch, stage, after):
    settings = MultiHotSettings(DAYS, 1000)
    preparation.prepare(logs, tmp_path / "whole", settings)
    work, calls = getattr(preparation, stage), []

    def dies(*args, **options):
        calls.append(args)
        result = work(*args, **options)  # the work is done, but no marker says so
        if len(calls) > after:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(preparation, stage, dies)
        with pytest.raises(KeyboardInterrupt):
            preparation.prepare(logs, tmp_path / "cut", settings)
    preparation.prepare(logs, tmp_path / "cut", settings)
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(logs, tmp_path, monkeypatch):
    monkeypatch.undo()  # workers have the module's own chunk sizes
    settings = MultiHotSettings(DAYS, 1000)
    preparation.prepare(logs, tmp_path / "1", settings, processes=1)
    preparation.prepare(logs, tmp_path / "2", settings, processes=2)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_a_number_below_minus_two_is_named(logs, tmp_path):
    root = tmp_path / "logs"
    root.mkdir()
    for day in range(DAYS):
        (root / f"day_{day}").write_bytes((logs / f"day_{day}").read_bytes())
    lines = Path(root / "day_1").read_text().splitlines()
    fields = lines[4].split("\t")
    fields[6] = "-3"
    lines[4] = "\t".join(fields)
    (root / "day_1").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"day_1 line 5: field 7 must be at least -2"):
        preparation.prepare(root, tmp_path / "out", MultiHotSettings(DAYS, 1000))
