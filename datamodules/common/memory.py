"""Memory that a data module needs besides a batch, and what this machine has of it."""

import os
from typing import NamedTuple

GIB = 2**30


class MemoryNeed(NamedTuple):
    """Memory that every rank takes for as long as it runs."""

    what: str
    """Such as ``volumes (--data.device_cache)``."""
    num_bytes: float
    """Of one rank."""
    on_device: bool
    """Whether it lies on the accelerator; on a CPU that is the machine's memory too."""
    advice: str
    """Advice if there is too little."""


def machine_bytes() -> int:
    """Return the memory of this machine that programs can still have; all of it but on Linux."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
