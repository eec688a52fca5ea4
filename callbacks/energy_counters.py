"""Energy counters of one machine: its GPUs' by NVML, its processors' by RAPL (Linux powercap)."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
# A processor package stays below this, so a counter's range tells how long it takes to wrap.
MOST_WATTS = 1000


class EnergyUnknown(Exception):  # noqa: N818  (an answer, not an error)
    """Raised with the reason why a counter cannot be read."""


class GpuCounter:
    """Energy that some GPUs of this machine have used since their driver was loaded.

    Args:
        uuids: NVML's names of the GPUs, such as ``GPU-5d1c...``; each counts once.

    Raises:
        EnergyUnknown: If there is no GPU, or NVML or its counter (since Volta) is not there.
    """

    def __init__(self, uuids: Sequence[str]) -> None:
        if not uuids:
            raise EnergyUnknown("the run used no NVIDIA GPU")
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ImportError:
            raise EnergyUnknown("nvidia-ml-py is not installed") from None
        with self._asked():
            self._nvml.nvmlInit()
            self._handles = [self._nvml.nvmlDeviceGetHandleByUUID(name) for name in set(uuids)]
        self._first = self._millijoules()

    def joules(self) -> float:
        """Return the energy since this counter was made, over all its GPUs.

        Returns:
            Joules.

        Raises:
            EnergyUnknown: If NVML fails, or a driver was loaded anew meanwhile.
        """
        used = [now - first for now, first in zip(self._millijoules(), self._first, strict=True)]
        if min(used) < 0:
            raise EnergyUnknown("a GPU's counter began anew during the run (driver or GPU reset)")
        return sum(used) / 1000

    def _millijoules(self) -> list[int]:
        with self._asked():
            return [self._nvml.nvmlDeviceGetTotalEnergyConsumption(h) for h in self._handles]

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except self._nvml.NVMLError as error:
            raise EnergyUnknown(f"NVML says {error}") from None


class ProcessorCounter:
    """Energy that this machine's processor packages have used, whichever process used it.

    The kernel's counters wrap around, so ``joules`` must be called at least every
    ``longest_gap`` seconds; it may be called from several threads.

    Args:
        root: Directory of the powercap zones.
        now: Source of monotonic seconds.

    Raises:
        EnergyUnknown: If there is no counter, or it may not be read.

    Source:
        Linux, Documentation/power/powercap/powercap.rst.
    """

    def __init__(self, root: Path = POWERCAP, *, now: Callable[[], float] = time.monotonic) -> None:
        # Each package once: intel-rapl-mmio repeats it, and its cores are zones of their own.
        self._zones = [z for z in sorted(root.glob("intel-rapl:*")) if _is_package(z)]
        if not self._zones:
            raise EnergyUnknown("this machine shows no RAPL counter")
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in self._zones]
        self.longest_gap = min(self._ranges) / 1e6 / MOST_WATTS
        self._now, self._lock, self._microjoules = now, threading.Lock(), 0
        self._last, self._read_at = self._read(), now()

    def joules(self) -> float:
        """Return the energy since this counter was made, over all packages.

        Returns:
            Joules.

        Raises:
            EnergyUnknown: If a counter cannot be read any more, or was not read for so long that
                it may have wrapped around unseen.
        """
        with self._lock:
            fresh, gap = self._read(), self._now() - self._read_at
            if gap > self.longest_gap:
                self._ranges = []  # from now on nothing is known
            if not self._ranges:
                raise EnergyUnknown("the counter may have wrapped around while it was not read")
            for before, after, size in zip(self._last, fresh, self._ranges, strict=True):
                self._microjoules += after - before + (size if after < before else 0)
            self._last, self._read_at = fresh, self._read_at + gap
            return self._microjoules / 1e6

    def _read(self) -> list[int]:
        return [_number(zone / "energy_uj") for zone in self._zones]


def _is_package(zone: Path) -> bool:
    try:
        return (zone / "name").read_text().startswith("package")
    except OSError:
        return False


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except PermissionError:
        raise EnergyUnknown(f"{path} may not be read: allow it with chmod a+r, as root") from None
    except (OSError, ValueError) as error:
        raise EnergyUnknown(f"{path} cannot be read ({error})") from None
