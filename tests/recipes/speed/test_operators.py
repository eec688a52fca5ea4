"""The table of the costliest operators."""

from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

from recipes.speed.operators import costliest


def event(key, device, device_us, cpu_us=0.0, *, note=False):
    return SimpleNamespace(
        key=key, device_type=device, self_device_time_total=device_us, self_cpu_time_total=cpu_us,
        is_user_annotation=note, count=2,
    )  # fmt: skip


EVENTS = [
    event("aten::mm", DeviceType.CPU, 3000.0, 100.0),  # has the time of the kernel that it started
    event("gemm", DeviceType.CUDA, 3000.0),
    event("add", DeviceType.CUDA, 1000.0),
    event("Optimizer.step#SGD.step", DeviceType.CUDA, 900.0, note=True),
    event("cudaLaunchKernel", DeviceType.CPU, 0.0, 300.0),
]


def test_a_gpus_kernels_count_once():
    rows = costliest(EVENTS, on_gpu=True)
    assert [(row["name"], row["ms"], row["share"]) for row in rows] == [
        ("gemm", 3.0, 0.75), ("add", 1.0, 0.25),
    ]  # fmt: skip


def test_a_cpus_operators_count_by_their_own_time():
    rows = costliest(EVENTS, on_gpu=False)
    assert [row["name"] for row in rows[:2]] == ["cudaLaunchKernel", "aten::mm"]
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
