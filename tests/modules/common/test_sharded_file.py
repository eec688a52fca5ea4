"""Folders of torch's distributed checkpoint: read as a file is, and refused if damaged."""

import pickle
import zlib

import pytest
import torch
from torch import nn

from modules.common.sharded_file import INDEX, INDEX_SUM, REST, load_sharded, save_sharded
from modules.common.torch_file import load_verified


@pytest.fixture
def folder(tmp_path):
    net = nn.Linear(3, 2)
    named = {"state": {"net.weight": {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 3)},
                       "net.bias": {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}},
             "param_groups": [{"lr": 0.5, "params": ["net.weight", "net.bias"]}]}  # fmt: skip
    content = {"state_dict": {f"net.{k}": v.detach() for k, v in net.named_parameters()},
               "optimizer_states": [named], "global_step": 3}  # fmt: skip
    save_sharded(content, tmp_path / "last.ckpt", main=True)
    return tmp_path / "last.ckpt", net


def test_content_is_that_of_a_file(folder):
    path, net = folder
    content = load_sharded(path, optimizers=True)
    assert content["global_step"] == 3
    assert torch.equal(content["state_dict"]["net.weight"], net.weight)
    (state,) = content["optimizer_states"]
    assert state["param_groups"] == [{"lr": 0.5, "params": [0, 1]}]
    assert torch.equal(state["state"][0]["exp_avg"], torch.ones(2, 3))
    assert "optimizer_states" not in load_verified(path)
    lazy = load_verified(path, mmap=True)["state_dict"]
    assert [(k, x.device.type, tuple(x.shape)) for k, x in sorted(lazy.items())] == [
        ("net.bias", "meta", (2,)), ("net.weight", "meta", (2, 3))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "part"),
    [("__0_0.distcp", b"\x00\x00\x80?" * 6), (INDEX, b"net.weight"), (REST, b"global_step")],
)
def test_a_damaged_or_missing_file_is_named_in_one_line(name, part, folder):
    path, _ = folder
    good = (path / name).read_bytes()
    assert part in good
    for bad in (good[:-7], good.replace(part, part[:-1] + b"!"), good.replace(part, b""), b""):
        (path / name).write_bytes(bad)
        with pytest.raises(ValueError, match=r"last.ckpt is damaged \(") as error:
            load_verified(path, mmap=True)
        assert "\n" not in str(error.value)
    (path / name).unlink()
    with pytest.raises(ValueError, match="cut short or missing"):
        load_verified(path)


class Code:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code ran')",))


def test_code_in_the_index_or_a_value_is_not_run(folder):
    path, _ = folder
    (path / INDEX).write_bytes(pickle.dumps(Code()))
    rest = torch.load(path / REST, weights_only=True)
    torch.save({**rest, INDEX_SUM: zlib.crc32((path / INDEX).read_bytes())}, path / REST)
    with pytest.raises(ValueError, match="is damaged"):
        load_verified(path)
    other = path.with_name("other.ckpt")
    save_sharded({"state_dict": {"net.code": Code()}}, other, main=True)
    with pytest.raises(ValueError, match="is damaged"):
        load_verified(other)
