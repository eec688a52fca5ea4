"""Counters of energy: every GPU and package once, through wrap-arounds, else a reason."""

import pytest
import torch

from callbacks.energy_counters import EnergyUnknown, GpuCounter, ProcessorCounter
from tests.callbacks.fake_energy import NVMLError, fake_nvml, package
from tests.toy import FakeTime


def test_gpus_are_added_and_two_ranks_on_one_gpu_count_it_once(monkeypatch):
    counters = {"GPU-a": 5_000, "GPU-b": 70_000, "GPU-other": 1}
    fake_nvml(monkeypatch, counters)
    gpus = GpuCounter(["GPU-a", "GPU-b", "GPU-a"])
    assert gpus.joules() == 0
    counters.update({"GPU-a": 6_500, "GPU-b": 72_000, "GPU-other": 10**9})
    assert gpus.joules() == 3.5


def test_without_a_gpu_there_is_a_reason():
    with pytest.raises(EnergyUnknown, match="the run used no NVIDIA GPU"):
        GpuCounter([])


def test_without_the_package_there_is_a_reason(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    with pytest.raises(EnergyUnknown, match="nvidia-ml-py is not installed"):
        GpuCounter(["GPU-a"])


def test_nvml_says_what_is_wrong(monkeypatch):
    counters = {"GPU-old": NVMLError("Not Supported")}
    fake_nvml(monkeypatch, counters)
    with pytest.raises(EnergyUnknown, match="NVML says Not Supported"):
        GpuCounter(["GPU-old"])
    with pytest.raises(EnergyUnknown, match="NVML says Not Found"):
        GpuCounter(["MIG-1"])


def test_a_gpu_that_was_reset_meanwhile_is_not_a_small_figure(monkeypatch):
    counters = {"GPU-a": 5_000, "GPU-b": 5_000}
    fake_nvml(monkeypatch, counters)
    gpus = GpuCounter(["GPU-a", "GPU-b"])
    counters.update({"GPU-a": 10, "GPU-b": 90_000})
    with pytest.raises(EnergyUnknown, match="began anew"):
        gpus.joules()


def test_packages_are_added_and_what_is_inside_or_around_them_is_not(tmp_path):
    for number, name in (("0", None), ("1", None), ("0:0", "core"), ("2", "psys")):
        package(tmp_path, number, 1_000_000, name=name)
    (tmp_path / "intel-rapl").mkdir()
    (tmp_path / "intel-rapl-mmio:0").mkdir()
    (tmp_path / "intel-rapl-mmio:0" / "name").write_text("package-0\n")
    counter = ProcessorCounter(tmp_path)
    for number in ("0", "1", "0:0", "2"):
        name = {"0:0": "core", "2": "psys"}.get(number)
        package(tmp_path, number, 3_500_000, name=name)
    assert counter.joules() == 5.0


def test_a_counter_that_wraps_around_goes_on(tmp_path):
    package(tmp_path, 0, 90_000_000, size=100_000_000)
    package(tmp_path, 1, 0, size=100_000_000)
    time = FakeTime()
    counter = ProcessorCounter(tmp_path, now=time)
    assert counter.longest_gap == pytest.approx(0.1)
    for first, second, joules in ((99, 40, 49), (5, 80, 95), (95, 10, 215)):
        time.now += 0.09
        package(tmp_path, 0, first * 10**6, size=100_000_000)
        package(tmp_path, 1, second * 10**6, size=100_000_000)
        assert counter.joules() == joules


def test_a_counter_that_was_not_read_for_too_long_is_not_known_from_then_on(tmp_path):
    package(tmp_path, 0, 0, size=100_000_000)
    time = FakeTime()
    counter = ProcessorCounter(tmp_path, now=time)
    for _ in range(2):
        time.now += 0.2
        with pytest.raises(EnergyUnknown, match="wrapped around while it was not read"):
            counter.joules()


def test_a_machine_without_counters_says_so(tmp_path):
    with pytest.raises(EnergyUnknown, match="this machine shows no RAPL counter"):
        ProcessorCounter(tmp_path / "missing")


def test_a_counter_that_only_root_may_read_is_named(tmp_path, monkeypatch):
    zone = package(tmp_path, 0, 7)
    (zone / "energy_uj").chmod(0)
    read = type(zone).read_text

    def refuse(path, *args, **kwargs):  # the tests may run as root, who may read everything
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **kwargs)

    monkeypatch.setattr(type(zone), "read_text", refuse)
    with pytest.raises(EnergyUnknown, match=f"{zone}/energy_uj may not be read: allow it with"):
        ProcessorCounter(tmp_path)


@pytest.mark.parametrize("content", ["", "many\n"])
def test_a_counter_that_is_no_number_is_named(tmp_path, content):
    (package(tmp_path, 0, 7) / "energy_uj").write_text(content)
    with pytest.raises(EnergyUnknown, match="energy_uj cannot be read"):
        ProcessorCounter(tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_gpu_uses_energy():
    gpus = GpuCounter([f"GPU-{torch.cuda.get_device_properties(0).uuid}"])
    x = torch.randn(4096, 4096, device="cuda")
    for _ in range(200):
        x = torch.nn.functional.normalize(x @ x)
    torch.cuda.synchronize()
    assert 0 < gpus.joules() < 2000
