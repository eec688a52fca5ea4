"""Multi-hot batches: fixed order, bags as prepared, and the published files read as they are."""

import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch

from datamodules.criteo.demo import write_logs
from datamodules.criteo.multi_hot import MultiHotDataModule, published
from datamodules.criteo.multi_hot.bags import BAG_SIZES, Bags
from datamodules.criteo.multi_hot.batches import logarithm
from datamodules.criteo.store import open_split

DAYS, ROWS = 3, 301


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("logs")
    write_logs(root, DAYS, ROWS)
    module = MultiHotDataModule(root=root, batch_size=64, evaluation_batch_size=100)
    module.prepare_data()
    module.setup("fit")
    return module


def batches(loader):
    return list(loader)


def whole(parts, name):
    return torch.cat([part[name] for part in parts]).numpy()


def test_batches_come_in_the_prepared_order_whatever_seed_and_epoch(data):
    files = open_split(data.prepared, "train")
    loader = data.train_dataloader()
    order = list(loader.batch_sampler or loader.sampler)
    assert [block.start for block in order] == list(range(0, 640, 64))
    loader.sampler.seed = 7
    loader.sampler.set_epoch(1)
    assert list(loader.sampler) == order
    parts = batches(loader)
    np.testing.assert_array_equal(whole(parts, "dense")[:602], logarithm(files["dense"]))
    np.testing.assert_array_equal(whole(parts, "label")[:602], files["label"])
    ids = whole(parts, "bags")
    assert ids.shape == (640, 214)
    first = np.cumsum([0, *BAG_SIZES])[:-1]
    np.testing.assert_array_equal(ids[:602][:, first], files["sparse"])
    np.testing.assert_array_equal(ids[602:], ids[:38])  # the last batch is filled from the start
    assert (ids < np.repeat(data.table_sizes, BAG_SIZES)).all()


def test_equal_rows_of_a_table_have_equal_bags(data):
    ids = whole(batches(data.train_dataloader()), "bags")
    start = sum(BAG_SIZES[:20])
    bag_of = {}
    for bag in ids[:, start : start + 100].tolist():
        assert bag_of.setdefault(bag[0], bag) == bag
    assert len(bag_of) > 20


def test_a_device_expands_the_same_bags(data):
    other = MultiHotDataModule(root=data.root, batch_size=64, expand_on_device=True)
    other.prepare_data()
    narrow, wide = next(iter(other.train_dataloader())), next(iter(data.train_dataloader()))
    assert narrow["bags"].shape == (64, 26)
    got = other.on_after_batch_transfer(narrow, 0)
    assert torch.equal(got["bags"], wide["bags"])
    assert got["bags"].dtype == torch.int32
    assert data.on_after_batch_transfer(wide, 0) is wide
    (need,) = other.memory_needs()
    assert need.on_device
    assert data.memory_needs() == []


def with_int(path, offset, value):
    content = bytearray(path.read_bytes())
    content[offset : offset + 4] = value.to_bytes(4, "little", signed=True)
    path.write_bytes(bytes(content))


def read_all(read):
    return [read.on_after_batch_transfer(batch, 0) for batch in read.train_dataloader()]


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("train_sparse.npy", lambda p: with_int(p, 128 + 104 * 10, 10**6), "train row 10 is not"),
        ("train_sparse.npy", lambda p: with_int(p, 128 + 104 * 10, -1), "train row 10 is not"),
        ("bags.npy", lambda p: with_int(p, 128 + 4 * 5, 10**6), "is not in its table"),
        ("bags.npy", lambda p: p.write_bytes(b"x" * 128 + p.read_bytes()[128:]), "its header"),
        ("bags.npy", lambda p: p.write_bytes(p.read_bytes()[:-400]), "should have"),
        ("bags.npy", lambda p: p.unlink(), "is missing"),
    ],
)
def test_a_damaged_prepared_file_is_named_and_no_other_row_is_read(
    data, tmp_path, name, change, words, on_device
):
    folder = tmp_path / "prepared"
    shutil.copytree(data.prepared, folder)
    change(folder / name)
    settings = {"root": data.root, "prepared_dir": folder, "batch_size": 64}
    with pytest.raises(ValueError, match=name) as error:
        read_all(MultiHotDataModule(**settings, expand_on_device=on_device))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_evaluation_reads_the_first_half_of_the_last_day_once(data):
    parts = batches(data.val_dataloader())
    files = open_split(data.prepared, "test")
    np.testing.assert_array_equal(whole(parts, "label"), files["label"])
    assert len(files["label"]) == data.mllog_facts()["eval_samples"] == 151


def test_loaders_can_be_sent_to_another_process(data):
    loader = data.train_dataloader()
    first = next(iter(loader))
    again = pickle.loads(pickle.dumps(loader.dataset))
    assert torch.equal(again[next(iter(loader.sampler))]["bags"], first["bags"])


def write_published(folder, data):
    """The prepared rows in the published layout, two training days and an evaluation day."""
    files, test = open_split(data.prepared, "train"), open_split(data.prepared, "test")
    rest = open_split(data.prepared, "validation")
    last = {name: np.concatenate([test[name], rest[name]]) for name in test}
    bags = Bags.open(data.prepared / "bags.npy", data.table_sizes)
    parts = [{k: v[a:b] for k, v in files.items()} for a, b in ((0, 250), (250, 602))]
    for day, part in enumerate([*parts, last]):
        np.save(folder / f"day_{day}_dense.npy", logarithm(np.asarray(part["dense"])))
        np.save(folder / f"day_{day}_labels.npy", part["label"].astype(np.int32)[:, None])
        ids = bags.expand(part["sparse"])
        members = np.split(ids, np.cumsum(BAG_SIZES)[:-1], 1)
        named = {str(t): np.ascontiguousarray(m) for t, m in enumerate(members)}
        np.savez(folder / f"day_{day}_sparse_multi_hot.npz", **named)


@pytest.fixture
def files(tmp_path, data, monkeypatch):
    root = tmp_path / "published"
    root.mkdir()
    write_published(root, data)
    monkeypatch.setattr(
        "datamodules.criteo.multi_hot.synthetic.TABLE_SIZES", tuple(data.table_sizes)
    )
    return root


def of(root):
    return MultiHotDataModule(root=root, batch_size=64, evaluation_batch_size=100)


def test_published_files_give_the_batches_that_are_made_on_the_fly(files, data, capsys):
    read = of(files)
    assert read.problems() == []
    read.prepare()
    assert "602 training and 151 test rows, all ids in range" in capsys.readouterr().out
    for theirs, ours in (
        (read.train_dataloader(), data.train_dataloader()),
        (read.val_dataloader(), data.val_dataloader()),
    ):
        for a, b in zip(theirs, ours, strict=True):
            assert a.keys() == b.keys()
            for name in a:
                assert torch.equal(a[name], b[name]), name
    assert read.differences() == ["3 days instead of 24"]


def bags_of(root, **changed):
    """Write the bags of day 1 again, with some members changed, or dropped if None."""
    path = root / "day_1_sparse_multi_hot.npz"
    with np.load(path) as archive:
        members = {name: archive[name].copy() for name in archive.files}
    for name, change in changed.items():
        members[name[1:]] = None if change is None else change(members[name[1:]])
    np.savez(path, **{name: member for name, member in members.items() if member is not None})


def with_value(array, where, value):
    array[where] = value
    return array


def cut(path, count):
    path.write_bytes(path.read_bytes()[:-count])


def labels(root, change):
    path = root / "day_1_labels.npy"
    np.save(path, change(np.load(path)))


def compressed(root):
    path = root / "day_1_sparse_multi_hot.npz"
    with np.load(path) as archive:
        members = {name: archive[name].copy() for name in archive.files}
    np.savez_compressed(path, **members)


def widened(root):
    path = root / "day_1_dense.npy"
    np.save(path, np.load(path).astype(np.float64))


def saved(root, array):
    np.save(root / "day_1_dense.npy", array)


def dense(root, value):
    path = root / "day_1_dense.npy"
    np.save(path, with_value(np.load(path), (17, 3), value))


def junk_member(root):
    bags_of(root, m4=None)
    with zipfile.ZipFile(root / "day_1_sparse_multi_hot.npz", "a") as archive:
        archive.writestr("4.npy", b"not an array")


def no_rows(root):
    for name in ("dense", "labels"):
        path = root / f"day_1_{name}.npy"
        np.save(path, np.load(path)[:0])
    bags_of(root, **{f"m{t}": lambda ids: ids[:0] for t in range(len(BAG_SIZES))})


def one_label(root):
    path = root / "day_2_labels.npy"
    np.save(path, np.ones_like(np.load(path)))


def equal_day(root):
    for name in ("dense.npy", "labels.npy", "sparse_multi_hot.npz"):
        shutil.copy(root / f"day_1_{name}", root / f"day_2_{name}")


def one_day(root):
    for path in [*root.glob("day_1_*"), *root.glob("day_2_*")]:
        path.unlink()


DAMAGE = {
    "no rows": no_rows,
    "one label": one_label,
    "equal": equal_day,
    "one day": one_day,
    "missing": lambda root: (root / "day_1_dense.npy").unlink(),
    "cut npy": lambda root: cut(root / "day_1_dense.npy", 5),
    "cut zip": lambda root: cut(root / "day_1_sparse_multi_hot.npz", 300),
    "compressed": compressed,
    "rows": lambda root: labels(root, lambda values: values[:-1]),
    "type": widened,
    "width": lambda root: bags_of(root, m20=lambda ids: ids[:, :99]),
    "member": lambda root: bags_of(root, m25=None),
    "id": lambda root: bags_of(root, m20=lambda ids: with_value(ids, (17, 3), 10**6)),
    "negative id": lambda root: bags_of(root, m0=lambda ids: with_value(ids, (17, 0), -1)),
    "number": lambda root: saved(root, np.float32(3)),
    "order": lambda root: bags_of(root, m3=lambda ids: ids.astype(">i4")),
    "junk": junk_member,
    "no logarithm": lambda root: dense(root, 1e9),
    "no number": lambda root: dense(root, np.nan),
    "last": lambda root: (root / "day_2_sparse_multi_hot.npz").unlink(),
    "label": lambda root: labels(root, lambda values: with_value(values, 9, 2)),
}


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no rows", "day_1_dense.npy has no rows"),
        ("one label", "day_2_labels.npy: all 151 rows of its first half"),
        ("equal", "day_2: 100% of the rows are also in day_1; replace one of them"),
        ("one day", "has day 0 only: at least two days are needed"),
        ("missing", "day_1_dense.npy missing"),
        ("cut npy", "day_1_dense.npy is not a whole .npy file"),
        ("cut zip", "day_1_sparse_multi_hot.npz is not a whole zip"),
        ("compressed", "0.npy is compressed"),
        ("rows", "day_1_labels.npy holds int32 (351, 1) instead of int32 (352, 1)"),
        ("type", "day_1_dense.npy holds float64"),
        ("width", "20.npy holds int32 (352, 99) instead of int32 (352, 100)"),
        ("member", "not a whole zip of 0.npy to 25.npy"),
        ("id", "day_1_sparse_multi_hot.npz, 20.npy, row 17: ids"),
        ("negative id", "0.npy, row 17: ids"),
        ("number", "day_1_dense.npy holds float32 () instead of"),
        ("order", "3.npy holds >i4"),
        ("junk", "day_1_sparse_multi_hot.npz: 4.npy is no .npy file"),
        ("no logarithm", "day_1_dense.npy, row 17: 1000000000.0 is no log(x + 3)"),
        ("no number", "day_1_dense.npy, row 17: nan is no log(x + 3)"),
        ("last", "day_2_sparse_multi_hot.npz missing"),
        ("label", "day_1_labels.npy, row 9: label"),
    ],
)
def test_damaged_published_files_are_named_in_one_line(files, what, words):
    DAMAGE[what](files)
    read = of(files)
    with pytest.raises(ValueError, match="day") as error:
        read.prepare()
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    if what in (
        "id",
        "negative id",
        "label",
        "no logarithm",
        "no number",
    ):  # what only reading finds, training finds too
        with pytest.raises(ValueError, match="day_1"):
            list(of(files).blocks("train")[block] for block in read.train_sampler())
    elif what not in ("one label", "equal"):
        assert words in read.problems()[0]


def test_members_may_be_stored_by_columns(files):
    expected = [batch["bags"] for batch in of(files).train_dataloader()]
    bags_of(files, m20=np.asfortranarray)
    for got, wanted in zip(of(files).train_dataloader(), expected, strict=True):
        assert torch.equal(got["bags"], wanted)


def test_members_of_a_zip_may_come_in_any_order(files):
    expected = [batch["bags"] for batch in of(files).train_dataloader()]
    path = files / "day_1_sparse_multi_hot.npz"
    with np.load(path) as archive:
        members = {name: archive[name].copy() for name in reversed(archive.files)}
    np.savez(path, **members)
    for got, wanted in zip(of(files).train_dataloader(), expected, strict=True):
        assert torch.equal(got["bags"], wanted)


def test_other_tables_than_the_published_ones_are_refused(files):
    read = MultiHotDataModule(root=files, max_rows=1000)
    (line,) = read.problems()
    assert "leave out --data.max_rows" in line
    with pytest.raises(ValueError, match="leave out"):
        read.prepare_data()


def test_too_little_memory_for_the_order_is_told_before_prepare(data, monkeypatch, tmp_path):
    root = tmp_path / "logs"
    root.mkdir()
    write_logs(root, 2, 20)
    read = MultiHotDataModule(root=root)
    assert read.problems() == []
    monkeypatch.setattr("datamodules.criteo.multi_hot.datamodule.machine_bytes", lambda: 10**9)
    (line,) = read.problems()
    assert "drawing the order of its rows needs about 1.0 GB of memory" in line
    monkeypatch.setattr("datamodules.criteo.stages.TEXT_BYTES_PER_ROW", 1)
    assert data.problems() == []  # prepared already


def test_a_member_beyond_the_zips_start_is_mapped_where_it_lies(tmp_path):
    path = tmp_path / "day_0_sparse_multi_hot.npz"
    rows = np.arange(12, dtype=np.int32).reshape(4, 3)
    np.savez(path, **{str(table): rows + table for table in range(26)})
    for table, member in enumerate(published._members(path)):
        np.testing.assert_array_equal(member, rows + table)
    with zipfile.ZipFile(path) as archive:
        assert archive.infolist()[0].compress_type == zipfile.ZIP_STORED
