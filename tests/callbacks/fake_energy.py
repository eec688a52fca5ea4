"""A pretended NVML and a folder of pretended RAPL counters."""

import sys
from types import SimpleNamespace


class NVMLError(Exception):
    pass


def fake_nvml(monkeypatch, millijoules):
    """Put a module ``pynvml`` into place whose GPUs have these counters; an exception is raised."""

    def handle(name):
        if name not in millijoules:
            raise NVMLError("Not Found")
        return name

    def read(name):
        if isinstance(millijoules[name], Exception):
            raise millijoules[name]
        return millijoules[name]

    module = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetTotalEnergyConsumption=read,
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)


def package(root, number, microjoules, *, size=262_143_328_850, name=None):
    """Write one zone of ``/sys/class/powercap``, or its counter anew."""
    zone = root / f"intel-rapl:{number}"
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "name").write_text(f"{name or f'package-{number}'}\n")
    (zone / "max_energy_range_uj").write_text(f"{size}\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    return zone
