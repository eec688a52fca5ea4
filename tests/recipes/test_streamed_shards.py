"""Training on streamed shards from the command line: servers that fail, resuming, two ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from datamodules.common.stream import opening
from datamodules.imagenet import prepare as builder
from recipes.cli.main import run
from recipes.resnet import BENCHMARK
from tests.datamodules.common.stream.shard_server import ShardServer, serving
from tests.datamodules.imagenet.tiny_imagenet import COUNTS, write_tiny

ROOT = Path(__file__).parents[2]
ARGUMENTS = [
    "fit", "--config", str(ROOT / "recipes/presets/resnet/demo.yaml"), "--seed_everything", "5",
    "--trainer.accelerator", "cpu", "--model.net.width", "4", "--model.net.blocks", "[1,1,1,1]",
    "--data.image_size", "32", "--data.batch_size", "16", "--data.shuffle_buffer", "8",
    "--evaluation.first", "1", "--evaluation.every", "1", "--evaluation.limit", "2",
    "--checkpoint.every_seconds", "0",
]  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShardServer]:
    monkeypatch.setattr(opening, "STALL_SECONDS", 1.0)
    folder = tmp_path / "prepared"
    root = write_tiny(tmp_path / "tiny")
    builder.write_all_shards(root, folder, COUNTS, processes=1, samples_per_shard=12)
    with serving(folder) as server:
        yield server


def weights(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


def last_run(root: Path) -> Path:
    return max((root / "resnet").iterdir(), key=lambda path: path.stat().st_mtime)


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("status:404", "the server answered 404 Not Found"),
        ("break:700", "the connection ended after"),
        ("stall:700", "no data for 1 s after"),
    ],
)
def test_a_shard_that_fails_in_an_epoch_is_one_line_and_the_run_resumes_to_the_bit(
    tmp_path: Path,
    server: ShardServer,
    fault: str,
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opening, "FIRST_DELAY", 0.01)
    shards = ["--data.shards", server.url]
    assert run(BENCHMARK, [*ARGUMENTS, *shards, "--output_root", str(tmp_path / "whole")]) == 3
    said = capsys.readouterr().out
    assert said.count("Open division: --data.shards") == 1
    record = json.loads((last_run(tmp_path / "whole") / "run.json").read_text())
    assert (record["division"], record["demo"]) == ("open", False)
    assert record["dataset"] == f"shards {server.url}"

    server.faults["train-00005.tar"] = f"later {fault}"
    cut = ["--output_root", str(tmp_path / "cut")]
    assert run(BENCHMARK, [*ARGUMENTS, *shards, *cut]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert f"error: {server.url}/train-00005.tar: {line}" in error
    assert "Traceback" not in error
    assert (last_run(tmp_path / "cut") / "checkpoints" / "last.ckpt").is_file()

    server.faults.clear()
    assert run(BENCHMARK, ["fit", "--ckpt_path", "last", *cut]) == 3
    one, other = weights(last_run(tmp_path / "whole")), weights(last_run(tmp_path / "cut"))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_another_number_of_loader_processes_is_another_order_and_refused(
    tmp_path: Path, server: ShardServer, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--output_root", str(tmp_path), "--trainer.max_steps", "10"]
    run(BENCHMARK, [*ARGUMENTS, "--data.shards", server.url, *words])
    checkpoint = str(last_run(tmp_path) / "checkpoints" / "last.ckpt")
    again = ["fit", "--ckpt_path", checkpoint, "--output_root", str(tmp_path)]
    again += ["--trainer.max_steps", "12"]
    assert run(BENCHMARK, [*again, "--data.num_workers", "2"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "ranks x loader processes 1 x 2 instead of 1 x 1" in said


def test_two_ranks_with_loader_processes_evaluate_each_image_once(
    tmp_path: Path, server: ShardServer
) -> None:
    words = [
        "--data.shards", server.url, "--output_root", str(tmp_path), "--trainer.devices", "2",
        "--trainer.strategy", "ddp", "--data.num_workers", "2", "--data.batch_size", "8",
        "--evaluation.limit", "1",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "recipes/resnet.py", *ARGUMENTS, *words],
        cwd=ROOT, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    record = json.loads((last_run(tmp_path) / "run.json").read_text())
    correct = record["quality"]["accuracy"] * COUNTS.val
    assert correct == pytest.approx(round(correct), abs=1e-6)
    assert record["samples"] == 144
