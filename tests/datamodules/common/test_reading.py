"""Files that others wrote: unreadable folders, links, and small files that unpack without end."""

import gzip
import io
import os
import zlib
from pathlib import Path

import pytest
from PIL import Image

from datamodules.common.reading import (
    BoundedGzip,
    check_pixels,
    entries,
    files_below,
    inflate,
    open_image,
    reading,
)


def test_an_error_without_a_name_gets_the_files(tmp_path):
    with (
        pytest.raises(ValueError, match=r"shard-7: cannot be read \(Stale file handle\)"),
        reading(tmp_path / "shard-7"),
    ):
        raise OSError(116, "Stale file handle")


def test_files_below_follow_links_and_are_sorted(tmp_path):
    (tmp_path / "root/b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("root/b/2.zz", "root/b/other", "root/1.zz", "elsewhere/3.zz"):
        (tmp_path / name).touch()
    (tmp_path / "root/c").symlink_to(tmp_path / "elsewhere")
    found = files_below(tmp_path / "root", ".zz")
    assert [str(p.relative_to(tmp_path / "root")) for p in found] == ["1.zz", "b/2.zz", "c/3.zz"]
    assert [path.name for path in entries(tmp_path / "root")] == ["1.zz", "b", "c"]


def test_links_in_a_circle_are_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="a/up: a link to a folder that it is in"):
        files_below(tmp_path)


def test_an_unreadable_folder_is_named_not_empty(tmp_path, monkeypatch):
    # Root may read everything, so the system's refusal is played.
    (tmp_path / "games").mkdir()

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "listdir", refuse)
    for read in (entries, files_below):
        with pytest.raises(ValueError, match=r"games: cannot be read \(Permission denied\)"):
            read(tmp_path / "games")


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress], ids=["zlib", "gzip"])
def test_inflate_verifies_and_bounds(pack):
    path, content = Path("game.zz"), bytes(range(256)) * 40
    packed = pack(content)
    assert inflate(packed, len(content), path) == content
    with pytest.raises(ValueError, match="game.zz: unpacks to more than 10,239 bytes"):
        inflate(packed, len(content) - 1, path)
    with pytest.raises(ValueError, match="game.zz: truncated"):
        inflate(packed[:-3], len(content), path)
    for position in (len(packed) // 2, len(packed) - 2):
        damaged = bytearray(packed)
        damaged[position] ^= 1
        with pytest.raises(ValueError, match="game.zz: (damaged|truncated|unpacks)"):
            inflate(bytes(damaged), len(content), path)


def test_a_bomb_is_refused_before_it_fills_the_memory():
    packed = zlib.compress(bytes(2**26), 9)
    assert len(packed) < 2**17
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        inflate(packed, 1000, Path("bomb"))


def test_several_gzip_members_are_one_content():
    packed = gzip.compress(b"one,") + gzip.compress(b"two") + b"\0\0"
    assert inflate(packed, 100, Path("a.gz")) == b"one,two"


def test_a_gzip_stream_is_read_to_its_limit():
    packed = gzip.compress(bytes(5000))
    with BoundedGzip(io.BytesIO(packed), Path("day_0.gz"), 5000) as file:
        assert sum(len(block) for block in iter(lambda: file.read(1000), b"")) == 5000
    with (
        BoundedGzip(io.BytesIO(packed), Path("day_0.gz"), 4999) as file,
        pytest.raises(ValueError, match="day_0.gz: unpacks to more than 4,999 bytes"),
    ):
        list(iter(lambda: file.read(1000), b""))


def test_images_are_opened_or_refused_by_their_header(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "good.png")
    assert open_image(tmp_path / "good.png", "good.png").size == (8, 6)
    with pytest.raises(ValueError, match="bad.png: is not a readable image"):
        open_image(io.BytesIO(b"no image"), "bad.png")
    for side in (12_000, 20_000):
        bomb = io.BytesIO()
        Image.new("1", (side, side)).save(bomb, "PNG")
        with pytest.raises(ValueError, match="bomb.png: .*remove it or make it smaller"):
            open_image(io.BytesIO(bomb.getvalue()), "bomb.png")
    check_pixels(4000, 3000, "photo")
