"""Damaged files of torch.save are refused, though torch itself reads many of them."""

import random
from contextlib import suppress

import pytest
import torch

from modules.common.torch_file import check_sums, load_verified


def same(a, b):
    return torch.equal(a["w"], b["w"]) and a["step"] == b["step"]


def refusal(path):
    try:
        load_verified(path)
    except ValueError as error:
        return str(error)
    return None


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    path, content = tmp_path / "a.ckpt", {"w": torch.randn(200), "step": 7}
    torch.save(content, path)
    good, draw = path.read_bytes(), random.Random(3)
    refused = unseen_by_torch = 0
    for _ in range(150):
        flipped = bytearray(good)
        flipped[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        if (line := refusal(path)) is None:
            assert same(load_verified(path), content), "SILENT"
            continue
        assert line.startswith(f"{path} is ")
        assert "\n" not in line
        refused += 1
        with suppress(Exception):
            torch.load(path, weights_only=True)
            unseen_by_torch += 1
    assert refused > 60
    assert unseen_by_torch > 30, "otherwise torch checks by now"


@pytest.mark.parametrize("mmap", [False, True])
def test_sound_files_are_read(mmap, tmp_path):
    torch.save({"w": torch.arange(5), "step": 1}, tmp_path / "new.pt")
    assert load_verified(tmp_path / "new.pt", mmap=mmap)["w"].tolist() == [0, 1, 2, 3, 4]
    torch.save({"step": 2}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    check_sums(tmp_path / "old.pt")
    assert load_verified(tmp_path / "old.pt") == {"step": 2}


def test_what_is_no_checkpoint_is_named(tmp_path):
    for content in (b"", b"PK\x03\x04 cut short", b"text"):
        (tmp_path / "a.ckpt").write_bytes(content)
        with pytest.raises(ValueError, match="a.ckpt is truncated or not a checkpoint"):
            load_verified(tmp_path / "a.ckpt")
