"""Files that others wrote: unreadable folders, links, and small files that unpack without end."""

import gzip
import io
import os
from pathlib import Path

import pytest

from datamodules.common.reading import BoundedGzip, entries, files_below, reading


def test_an_error_without_a_name_gets_the_files(tmp_path):
    with (
        pytest.raises(ValueError, match=r"shard-7: cannot be read \(Stale file handle\)"),
        reading(tmp_path / "shard-7"),
    ):
        raise OSError(116, "Stale file handle")


def test_an_unreadable_folder_is_named_not_empty(tmp_path, monkeypatch):
    # Root may read everything, so the system's refusal is played.
    (tmp_path / "games").mkdir()

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(ValueError, match=r"games: cannot be read \(Permission denied\)"):
        entries(tmp_path / "games")


def test_a_gzip_stream_is_read_to_its_limit():
    packed = gzip.compress(bytes(5000))
    with BoundedGzip(io.BytesIO(packed), Path("day_0.gz"), 5000) as file:
        assert sum(len(block) for block in iter(lambda: file.read(1000), b"")) == 5000
    with (
        BoundedGzip(io.BytesIO(packed), Path("day_0.gz"), 4999) as file,
        pytest.raises(ValueError, match="day_0.gz: unpacks to more than 4,999 bytes"),
    ):
        list(iter(lambda: file.read(1000), b""))


def test_a_folder_that_does_not_exist_has_no_entries(tmp_path):
    (tmp_path / "b").touch()
    (tmp_path / "a").mkdir()
    assert [path.name for path in entries(tmp_path)] == ["a", "b"]
    assert entries(tmp_path / "none") == []
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"link: cannot be read \(No such file"):
        entries(tmp_path / "link")


def test_files_below_follow_links_and_are_sorted(tmp_path):
    (tmp_path / "root/b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("root/b/2.zz", "root/b/other", "root/1.zz", "elsewhere/3.zz"):
        (tmp_path / name).touch()
    (tmp_path / "root/c").symlink_to(tmp_path / "elsewhere")
    found = files_below(tmp_path / "root", ".zz")
    assert [str(p.relative_to(tmp_path / "root")) for p in found] == ["1.zz", "b/2.zz", "c/3.zz"]


def test_links_in_a_circle_are_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="a/up: a link to a folder that it is in"):
        files_below(tmp_path)


def test_an_unreadable_folder_below_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"cannot be read \(Permission denied\)"):
        files_below(tmp_path)
