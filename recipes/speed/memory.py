"""How much memory a measurement may take, and how much it took."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from recipes.cli.usage import UsageError

GIB = 2**30
SMALLER_NETWORK = (
    "use a device with more memory or a smaller network (--model.net.help lists its arguments)"
)
LIMITS = (  # of a container
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
# Of the memory for what grows with the data; activations, gradients and copies take the rest.
SHARE = 0.7
SHARE_WITH_VARIANTS = 0.35  # which are compared from one start, so weights are kept twice


def machine_memory() -> float:
    """Return the bytes of this machine, or of the container that this process is in."""
    limits = [float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))]
    for path in LIMITS:
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():  # "max" is no limit
            limits.append(float(text))
    return min(limits)


def trains_on_cuda(cli: Any) -> bool:
    """Return whether the flags choose a CUDA device."""
    accelerator = cli.config.trainer.accelerator
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def memory_limit(cli: Any) -> float:
    """Return the bytes that training may take: the flag's, the GPU's or the machine's."""
    if cli.config.memory_gib is not None:
        return float(cli.config.memory_gib) * GIB
    if trains_on_cuda(cli):
        return float(torch.cuda.get_device_properties(0).total_memory)
    return machine_memory()


def check_weights_fit(cli: Any) -> None:
    """Refuse a network whose weights alone do not fit into memory, before it is built."""
    try:
        with torch.device("meta"):
            net = cli.net()
    except Exception:  # cannot be built without numbers, or not at all, which its building tells
        return
    size = sum(weight.numel() * weight.element_size() for weight in net.parameters())
    check_fits(size, memory_limit(cli), "the network's weights need")


def check_fits(size: float, limit: float, what: str) -> None:
    """Raise a UsageError in one line where ``what`` is more than the limit; both in bytes."""
    if size > limit:
        have = f"{limit / GIB:.3g} GiB"
        raise UsageError(f"{what} {size / GIB:.3g} GiB, there are {have}; {SMALLER_NETWORK}")


def share_for_tables(cli: Any) -> float:
    """Return the bytes for embedding tables or search trees, which are in main memory."""
    limit = memory_limit(cli)
    if getattr(cli.datamodule, "grows_in_main_memory", False):
        limit = min(limit, machine_memory())
    if not cli.variants:
        return SHARE * limit
    if not trains_on_cuda(cli):
        return SHARE_WITH_VARIANTS * limit
    return min(SHARE * limit, SHARE_WITH_VARIANTS * machine_memory())


def forget_peak() -> None:
    """Count the peak of a GPU's memory from here; that of a process cannot be forgotten."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_memory(device: torch.device) -> float:
    """Return the most bytes used so far: by torch on a GPU, else by the whole process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit
