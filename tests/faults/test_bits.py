"""Flip bits in every binary input that carries checksums: refused, or read as it was written."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.criteo.demo import write_logs
from datamodules.criteo.text import read_day
from datamodules.kits19.raw import read_case, scan_case
from datamodules.librispeech.flac import decode_checked
from datamodules.selfplay.demo import first_games
from datamodules.selfplay.go.records import read_game, write_game
from modules.common.sharded_file import save_sharded
from modules.common.tensor_bundle import TensorBundle
from modules.common.torch_file import load_verified
from modules.minigo.net import DualNet
from tests.datamodules.kits19.tiny_kits19 import write_case
from tests.datamodules.librispeech.tiny_librispeech import write_tiny
from tests.faults.harness import Outcomes, rounds
from tests.tools.tensor_bundle_writer import save_bundle

pytestmark = pytest.mark.fault


def checkpoint(folder):
    torch.save({"weight": torch.randn(500), "step": 3}, folder / "last.ckpt")
    return folder / "last.ckpt", load_verified


def sharded(folder, name):
    path = folder / "last.ckpt"
    content = {"state_dict": {"net.weight": torch.randn(500)}, "optimizer_states": [], "step": 3}
    save_sharded(content, path, main=True)
    return path / name, lambda _: load_verified(path)


def checkpoint_share(folder):
    return sharded(folder, "__0_0.distcp")


def checkpoint_index(folder):
    return sharded(folder, ".metadata")


NAMES = ("conv2d/kernel", "global_step")


def bundle(folder, ending):
    prefix = folder / "model.ckpt-1"
    save_bundle(DualNet(size=5, width=4, blocks=1, fc_width=4), prefix)

    def read(path):
        return {name: TensorBundle(prefix).read(name) for name in NAMES}

    return prefix.with_name(prefix.name + ending), read


def bundle_index(folder):
    return bundle(folder, ".index")


def bundle_data(folder):
    return bundle(folder, ".data-00000-of-00001")


def game(folder):
    (played,) = first_games(5, 7.5, 1)
    path = folder / "0.tfrecord.zz"
    write_game(path, played)
    return path, lambda path: list(read_game(path, 5))


def criteo_day(folder):
    write_logs(folder, num_days=1, rows_per_day=200)
    path = folder / "day_0.gz"
    path.write_bytes(gzip.compress((folder / "day_0").read_bytes()))
    return path, lambda path: [
        np.concatenate([r.ravel() for r in rows]) for rows in read_day(path, 1000)
    ]


def kits_image(folder):
    case = write_case(folder, "00000")
    return case / "imaging.nii.gz", lambda path: list(read_case(scan_case(path.parent)))


def recording(folder):
    path = next(write_tiny(folder, 1).rglob("*.flac"))
    return path, lambda path: list(decode_checked(path, path.read_bytes()).samples)


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))


@pytest.mark.parametrize(
    "make",
    [
        checkpoint,
        checkpoint_share,
        checkpoint_index,
        bundle_index,
        bundle_data,
        game,
        criteo_day,
        kits_image,
        recording,
    ],  # fmt: skip
    ids=lambda f: f.__name__,
)
def test_flipped_bits_are_refused_or_change_nothing(make, tmp_path):
    path, read = make(tmp_path)
    good, whole, outcomes = path.read_bytes(), read(path), Outcomes()
    for draw in rounds(100):
        flipped = bytearray(good)
        flipped[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            outcomes["harmless" if same(read(path), whole) else "SILENT"] += 1
        except (ValueError, OSError, KeyError) as error:
            outcomes["SILENT" if "\n" in str(error) else "refused"] += 1
    outcomes.assert_none_silent(f"bits of {Path(path).name}")
