"""Out of memory ends in one line with the flags that keep the global batch."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from jsonargparse import Namespace

from modules.unet3d import UNet3DModule
from recipes.cli.main import run
from recipes.cli.memory import explained_memory_errors
from recipes.unet3d import BENCHMARK

GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
MAC = RuntimeError("MPS backend out of memory (MPS allocated: 8.86 GB, other allocations: ...)")


def advice(error, *, training=True, device="cuda:1", accumulation=3, **config):
    strategy = SimpleNamespace(root_device=torch.device(device))
    trainer = SimpleNamespace(strategy=strategy, accumulate_grad_batches=accumulation)
    settings = Namespace({"data.batch_size": 32, **config})
    with (
        pytest.raises(ValueError, match="out of memory") as caught,
        explained_memory_errors(settings, torch.nn.Linear(1, 1).train(training), trainer),
    ):
        raise error
    return str(caught.value)


@pytest.mark.parametrize("error", [GPU, CPU, MAC, MemoryError()])
def test_every_kind_names_the_two_flags_with_their_values(error):
    assert advice(error) == (
        "out of memory on CUDA:1 in training; run the same command with --data.batch_size 16 "
        "--trainer.accumulate_grad_batches 6: the global batch stays"
    )


def test_a_batch_that_cannot_be_halved_is_split_evenly():
    text = advice(GPU, **{"data.batch_size": 9})
    assert "--data.batch_size 3 --trainer.accumulate_grad_batches 9:" in text
    assert "bf16-mixed" in advice(GPU, **{"data.batch_size": 1})


def test_in_evaluation_the_evaluation_batch_is_named_where_there_is_one():
    size = {"data.evaluation_batch_size": 500}
    text = advice(GPU, training=False, **size)
    assert " in evaluation; " in text
    assert text.endswith("run the same command with --data.evaluation_batch_size 250")
    assert "--data.batch_size 16" in advice(GPU, training=False)


def test_other_errors_stay():
    with (
        pytest.raises(RuntimeError, match="mat1 and mat2"),
        explained_memory_errors(Namespace(), torch.nn.Linear(1, 1), SimpleNamespace()),
    ):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_a_run_ends_in_one_line(tmp_path: Path, monkeypatch, capsys):
    def too_large(self, batch, index):
        raise GPU

    monkeypatch.setattr(UNet3DModule, "training_step", too_large)
    args = ["fit", "--trainer.accelerator", "cpu", "--output_root", str(tmp_path)]
    assert run(BENCHMARK, [*args, "--warmup.steps", "0", "--data.batch_size", "4"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    flags = "--data.batch_size 2 --trainer.accumulate_grad_batches 2"
    assert line.startswith("error: out of memory on this machine in training; run the same")
    assert flags in line
