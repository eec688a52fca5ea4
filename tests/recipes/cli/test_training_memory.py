"""Memory by arithmetic: per device, by their number, and refused before anything is allocated."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn

from recipes.cli import doctor_memory, memory
from recipes.cli.memory import check_training_memory
from recipes.cli.strategy import build_strategy
from recipes.cli.training_memory import TrainingMemory
from recipes.cli.usage import UsageError
from recipes.gpt_oss_20b import BENCHMARK
from tests.toy import toy_trainer
from tests.toy_decoder import DecoderModule

GIB = 2**30
H200 = int(139.8 * GIB)
EXAMPLE = TrainingMemory(parameters=GIB, activations=2 * GIB, logits=GIB, gathered=3 * GIB)


def test_state_is_divided_among_ranks_and_the_rest_is_not():
    assert EXAMPLE.parts(8) == {
        "weights": GIB / 2, "gradients": GIB / 2, "moments": GIB, "activations": 2 * GIB,
        "logits": GIB, "gathered weights": 3 * GIB,
    }  # fmt: skip
    assert EXAMPLE.on_each(1) == 22 * GIB
    assert EXAMPLE.on_each(8, sharded=False) == 19 * GIB
    assert [EXAMPLE.fewest_ranks(n * GIB) for n in (22, 21, 8, 6)] == [1, 2, 8, None]


def test_a_shortage_names_parts_and_a_number_of_devices_that_is_enough():
    assert EXAMPLE.shortage(22 * GIB, 1) is None
    line = EXAMPLE.shortage(10 * GIB, 2, kind="GPU")
    assert line == (
        "each GPU would need 14.0 GiB (weights 2.0, gradients 2.0, moments 4.0, activations 2.0, "
        "logits 1.0, gathered weights 3.0), but has 10.0 GiB; take 4 GPUs with --trainer.strategy "
        "fsdp2, or another preset"
    )
    assert EXAMPLE.shortage(6 * GIB, 2).endswith("--data.batch_size, or recompute more activations")


@pytest.mark.parametrize(("gpus", "lacks"), [(1, True), (2, True), (4, False), (8, False)])
def test_the_doctor_compares_each_device(gpus, lacks, monkeypatch):
    monkeypatch.setattr(doctor_memory, "device_bytes", lambda: [H200] * gpus)
    lines = list(doctor_memory.shortages(BENCHMARK, SimpleNamespace(), own_data=False))
    assert bool(lines) == lacks
    assert f"each GPU, of {gpus} (one sequence" in doctor_memory.closed_memory(BENCHMARK)
    if lacks:
        assert "take 4 GPUs with --trainer.strategy fsdp2" in lines[0]


class Later(L.LightningModule):
    """Builds its network in ``setup``, which never comes."""

    def memory_facts(self, datamodule):
        return {"parameters": datamodule.parameters}


def test_fit_refuses_before_anything_is_allocated(monkeypatch):
    monkeypatch.setattr(memory, "machine_bytes", lambda: 100 * GIB)
    data, trainer = SimpleNamespace(parameters=6 * GIB), toy_trainer([])
    check_training_memory(Later(), data, trainer)
    data.parameters = 7 * GIB
    with pytest.raises(UsageError, match=r"memory: each process would need 112.0 GiB \(weights 28"):
        check_training_memory(Later(), data, trainer)
    two = toy_trainer([], strategy=build_strategy("fsdp2", DecoderModule()), devices=2)
    check_training_memory(Later(), SimpleNamespace(parameters=4 * GIB), two)
    with pytest.raises(UsageError, match="each process would need 56.0 GiB"):  # 50 for each of 2
        check_training_memory(Later(), data, two)
    mixed = toy_trainer([], precision="bf16-mixed")
    with pytest.raises(UsageError, match=r"moments 48.0, copies 12.0\)"):
        check_training_memory(Later(), SimpleNamespace(parameters=6 * GIB), mixed)


def test_a_built_network_is_held_against_a_gpu(monkeypatch):
    class Built(L.LightningModule):
        def __init__(self):
            super().__init__()
            with torch.device("meta"):
                self.net = nn.Linear(2**15, 2**18)

    on_gpu = SimpleNamespace(root_device=torch.device("cuda"))
    trainer = SimpleNamespace(strategy=on_gpu, world_size=1, num_devices=1, precision="32-true")
    monkeypatch.setattr(memory, "device_bytes", lambda: [80 * GIB])
    check_training_memory(Built(), None, trainer)
    monkeypatch.setattr(memory, "device_bytes", lambda: [63 * GIB])
    with pytest.raises(UsageError, match=r"each GPU would need 64.0 GiB \(weights 32.0, gradients"):
        check_training_memory(Built(), None, trainer)
