"""Criteo text: parsing equals plain Python line by line, and every bad line gets one clear line."""

import gzip

import numpy as np
import pytest

from datamodules.criteo.demo import write_logs
from datamodules.criteo.text import assign_ids, compiled, day_file, read_day

GOOD = "\t".join(["1", *[str(i) for i in range(13)], *[f"{i * 7919:08x}" for i in range(26)]])


def plain(path, max_ind_range):
    """The same rules in the plainest Python."""
    label, dense, sparse = [], [], []
    for line in path.read_text().splitlines():
        fields = [field or "0" for field in line.split("\t")]
        label.append(int(fields[0]))
        dense.append([max(0, int(field)) for field in fields[1:14]])
        sparse.append([int(field, 16) % max_ind_range for field in fields[14:]])
    return np.array(label), np.array(dense), np.array(sparse).T


def read(path, max_ind_range=40_000_000, **options):
    parts = list(read_day(path, max_ind_range, **options))
    axes = (0, 0, 1)
    return [np.concatenate(c, axis=a) for c, a in zip(zip(*parts, strict=True), axes, strict=True)]


@pytest.mark.parametrize("max_ind_range", [40_000_000, 500, 1])
@pytest.mark.parametrize("block_bytes", [400, 5000, 1 << 25])
def test_rows_equal_plain_python_whatever_the_block(tmp_path, max_ind_range, block_bytes):
    write_logs(tmp_path, 1, 300)
    path = tmp_path / "day_0"
    wanted = plain(path, max_ind_range)
    assert (wanted[1] == 0).any()
    for ours, theirs in zip(
        read(path, max_ind_range, block_bytes=block_bytes), wanted, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_empty_fields_negatives_case_and_missing_last_newline(tmp_path):
    path = tmp_path / "day_0"
    path.write_text("0" + "\t" * 39 + "\n" + GOOD.replace("\t3\t", "\t-3\t").upper())
    label, dense, sparse = read(path)
    assert label.tolist() == [0, 1]
    assert dense[0].tolist() == [0] * 13
    assert dense[1].tolist() == [0, 1, 2, 0, *range(4, 13)]
    assert sparse[:, 0].tolist() == [0] * 26
    assert sparse[:, 1].tolist() == [i * 7919 for i in range(26)]


def test_windows_line_ends_give_the_same_rows(tmp_path):
    path = tmp_path / "day_0"
    text = GOOD + "\n0" + "\t" * 39 + "\n" + GOOD + "\n"
    path.write_bytes(text.encode())
    wanted = read(path)
    path.write_bytes(text.replace("\n", "\r\n").encode())
    for block_bytes in (7, 300, 1 << 20):
        for ours, theirs in zip(read(path, block_bytes=block_bytes), wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    path.write_bytes(f"{GOOD}\r\n1\r\n".encode())
    with pytest.raises(ValueError, match="line 2: must have 40"):
        read(path)


def test_gzip_gives_the_same_rows_and_plain_text_comes_first(tmp_path):
    write_logs(tmp_path, 1, 50)
    plain_file = tmp_path / "day_0"
    (tmp_path / "day_0.gz").write_bytes(gzip.compress(plain_file.read_bytes()))
    assert day_file(tmp_path, 0) == plain_file
    for a, b in zip(read(plain_file), read(tmp_path / "day_0.gz"), strict=True):
        np.testing.assert_array_equal(a, b)


def field(number, text):
    fields = GOOD.split("\t")
    fields[number - 1] = text
    return "\t".join(fields)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (GOOD + "\t1", "must have 40 tab-separated fields"),
        (GOOD.rpartition("\t")[0], "must have 40 tab-separated fields"),
        ("", "must have 40 tab-separated fields"),
        (field(1, "2"), "label"),
        (field(1, ""), "label"),
        (field(1, "x"), "label"),
        (field(5, "1.5"), "field 5 must be an integer"),
        (field(5, "-"), "field 5 must be an integer"),
        (field(14, "2147483648"), "field 14 must be an integer"),
        (field(15, "0000000g"), "field 15 must be a category"),
        (field(40, "123456789"), "field 40 must be a category"),
        (field(20, "-1"), "field 20 must be a category"),
    ],
)
def test_bad_line_is_named_with_file_line_and_field(tmp_path, line, words):
    path = tmp_path / "day_3"
    path.write_text(f"{GOOD}\n{GOOD}\n{line}\n{GOOD}\n")
    with pytest.raises(ValueError, match="day_3 line 3: ") as error:
        read(path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_line_number_counts_earlier_blocks(tmp_path):
    path = tmp_path / "day_0"
    path.write_text(f"{GOOD}\n" * 1500 + "1\t2\n")
    with pytest.raises(ValueError, match="line 1,501"):
        read(path, block_bytes=10_000)


def test_truncated_gzip_and_empty_file_say_so(tmp_path):
    write_logs(tmp_path, 1, 200)
    whole = gzip.compress((tmp_path / "day_0").read_bytes())
    cut = tmp_path / "day_1.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated or damaged gzip"):
        read(cut)
    empty = tmp_path / "day_2"
    empty.touch()
    with pytest.raises(ValueError, match="day_2 is empty"):
        read(empty)


def test_ids_follow_first_appearance():
    table, order = np.full(10, -1, np.int32), np.empty(10, np.int32)
    ids = np.empty(6, np.int32)
    number = compiled(assign_ids)
    assert number(np.array([7, 3, 7, 0, 3, 9], np.int32), table, order, 0, ids) == 4
    assert ids.tolist() == [0, 1, 0, 2, 1, 3]
    assert number(np.array([9, 5, 7], np.int32), table, order, 4, ids) == 5
    assert ids[:3].tolist() == [3, 4, 0]
    assert order[:5].tolist() == [7, 3, 0, 9, 5]


def test_a_day_that_unpacks_without_end_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "day_0.gz"
    path.write_bytes(gzip.compress(bytes(1 << 23)))
    with pytest.raises(ValueError, match="day_0.gz: a line of more than 1,048,576 bytes"):
        list(read_day(path, 1000, block_bytes=1 << 20))
    monkeypatch.setattr("datamodules.criteo.text.MOST_BYTES", 1000)
    path.write_bytes(gzip.compress(b"0" + b"\t" * 39 + b"\n" + (b"0" + b"\t" * 39 + b"\n") * 9999))
    with pytest.raises(ValueError, match="day_0.gz: unpacks to more than .* bytes"):
        list(read_day(path, 1000))
