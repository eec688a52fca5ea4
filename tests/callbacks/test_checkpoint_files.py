"""The two kept checkpoints, files and folders: one of them is whole at every moment."""

import os
import shutil

import pytest

from callbacks import checkpoint_files
from callbacks.checkpoint_files import checkpoint_of, is_checkpoint, keep


class Killed(BaseException):
    pass


def make(path, folder, text):
    if folder:
        path.mkdir()
        for name in (".metadata", "meta.pt", "__0_0.distcp"):
            (path / name).write_text(text)
    else:
        path.write_text(text)


def whole(path):
    """The text of a checkpoint none of whose parts is missing."""
    if not path.is_dir():
        return path.read_text() if path.exists() else None
    texts = [file.read_text() for file in path.iterdir()]
    return texts[0] if len(texts) == 3 and len(set(texts)) == 1 else None


@pytest.mark.parametrize("kinds", [(0, 0, 0), (1, 1, 1), (0, 1, 1), (1, 0, 0), (0, 0, 1)])
@pytest.mark.parametrize("power_cut", [0, 1, 2, 3, 4, 5, 6, 7, 8])
def test_killed_between_any_two_calls_one_is_whole(kinds, power_cut, tmp_path, monkeypatch):
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    names = ("previous.ckpt", "last.ckpt", "last.ckpt.new")
    for name, folder, text in zip(names, kinds, "123", strict=True):
        make(checkpoints / name, folder, text)
    calls = []

    def watch(module, name):
        call = getattr(module, name)

        def counted(*args, **kwargs):
            calls.append(name)
            if len(calls) > power_cut:
                raise Killed
            return call(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    watch(os, "replace")
    watch(checkpoint_files, "_sync")
    watch(os, "unlink")  # rmtree's, file by file
    try:
        keep(checkpoints / "last.ckpt.new")
    except Killed:
        pass
    else:
        assert whole(checkpoints / "last.ckpt") == "3"
        assert whole(checkpoints / "previous.ckpt") == "2"
    found = checkpoint_of(tmp_path)
    assert whole(found) in ("2", "3")
    assert is_checkpoint(found)


def test_a_folder_that_is_no_checkpoint_is_none(tmp_path):
    assert not is_checkpoint(tmp_path)
    (tmp_path / "last.ckpt").mkdir()
    assert not is_checkpoint(tmp_path / "last.ckpt")
    shutil.rmtree(tmp_path / "last.ckpt")
    assert not is_checkpoint(tmp_path / "last.ckpt")
