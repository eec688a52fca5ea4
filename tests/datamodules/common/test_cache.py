"""Cache folders: whole or not at all, once."""

import threading
from pathlib import Path

import pytest

from datamodules.common.atomic import atomic_folder
from datamodules.common.cache import build_once, cache_dir, demo_folder


def test_cache_dir_environment_variable_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FINISHLINE_CACHE", str(tmp_path / "x"))
    assert cache_dir() == tmp_path / "x"


def test_demo_folder_changes_with_version_and_parameters() -> None:
    base = demo_folder("a", "1", {"n": 1})
    assert base == demo_folder("a", "1", {"n": 1})
    assert len({base, demo_folder("a", "2", {"n": 1}), demo_folder("a", "1", {"n": 2})}) == 3


def test_atomic_folder_error_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "a") as partial:
            (partial / "half").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_atomic_folder_success_takes_the_name(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "deep" / "a") as partial:
        (partial / "file").write_text("x")
        assert not (tmp_path / "deep" / "a").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a"]
    assert (tmp_path / "deep" / "a" / "file").read_text() == "x"


def test_atomic_folder_second_writer_keeps_the_first(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a") as late:
        (late / "who").write_text("late")
        with atomic_folder(tmp_path / "a") as early:
            (early / "who").write_text("early")
    assert (tmp_path / "a" / "who").read_text() == "early"
    assert len(list(tmp_path.iterdir())) == 1


def test_build_once_threads_write_once_and_leftovers_go(tmp_path: Path) -> None:
    stale = tmp_path / ".a.partial-killed"
    stale.mkdir()
    written: list[int] = []

    def write(folder: Path) -> None:
        written.append(1)
        (folder / "file").touch()

    threads = [threading.Thread(target=build_once, args=(tmp_path / "a", write)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 1
    assert not stale.exists()
    assert (tmp_path / "a" / "file").exists()
