"""The system description (``systems/<system>.json``), filled from machine and run records."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scoring.runs.result_sets import ResultSet
from scoring.runs.settings import num_nodes

# Every field the official checker wants present; a star marks those that need a meaningful value.
FIELDS = [
    "submitter*",
    "division*",
    "status*",
    "system_name*",
    "number_of_nodes*",
    "host_processors_per_node*",
    "host_processor_model_name*",
    "host_processor_core_count*",
    "host_processor_vcpu_count",
    "host_processor_frequency",
    "host_processor_caches",
    "host_processor_interconnect",
    "host_memory_capacity*",
    "host_storage_type*",
    "host_storage_capacity*",
    "host_networking",
    "host_networking_topology",
    "host_memory_configuration",
    "accelerators_per_node*",
    "accelerator_model_name*",
    "accelerator_host_interconnect",
    "accelerator_frequency",
    "accelerator_on-chip_memories",
    "accelerator_memory_configuration*",
    "accelerator_memory_capacity*",
    "accelerator_interconnect",
    "accelerator_interconnect_topology",
    "cooling",
    "hw_notes",
    "framework*",
    "other_software_stack*",
    "operating_system*",
    "sw_notes",
]
REQUIRED = tuple(name.removesuffix("*") for name in FIELDS if name.endswith("*"))
# Without an accelerator these have nothing to say.
ACCELERATOR_ONLY = ("accelerator_memory_configuration", "accelerator_memory_capacity")


def describe(
    found: ResultSet,
    *,
    org: str,
    system: str,
    division: str,
    availability: str,
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """Fill the 33 fields as far as the machine and the run records tell.

    What the records say goes before what this machine says: the runs may come from another one.

    Args:
        found: The runs.
        org: The submitter.
        system: Short name of the system.
        division: ``closed`` or ``open``.
        availability: The log word: cloud, onprem, preview or research.
        overrides: Fields given by the user; they win.

    Returns:
        Field -> text; fields that are not known are empty texts.

    Raises:
        ValueError: If ``overrides`` names a field that does not exist.
    """
    names = [name.removesuffix("*") for name in FIELDS]
    unknown = sorted(set(overrides) - set(names))
    if unknown:
        raise ValueError(f"unknown system fields {unknown}; there are {names}")
    known = {
        "submitter": org,
        "division": division,
        "status": availability,
        "system_name": system,
        **(_host() if is_this_machine(found) else {}),
        **_recorded(found),
        **overrides,
    }
    # The checker joins some fields as text and dies of a number.
    keep = {"other_software_stack"}
    return {n: known.get(n, "") if n in keep else str(known.get(n, "")) for n in names}


def unfilled(description: Mapping[str, Any]) -> list[str]:
    """List the required fields that are still empty.

    Args:
        description: A system description.

    Returns:
        Field names, in the order of the rules.
    """
    # The rules want one of the two counts.
    needless = {"host_processor_core_count"} if description.get("host_processor_vcpu_count") else {}
    cpu_only = str(description.get("accelerators_per_node")) == "0"
    needed = [n for n in REQUIRED if not (cpu_only and n in ACCELERATOR_ONLY)]
    return [name for name in needed if not description.get(name) and name not in needless]


def is_this_machine(found: ResultSet) -> bool:
    """Tell whether runs may have been made here, as far as processor and cores can say.

    Args:
        found: The runs.

    Returns:
        False only if their records name another processor or another number of cores.
    """
    system = found.common("system") or {}
    here = {"cpu": _cpu().get("model"), "cpu_cores": os.cpu_count()}
    return all(system.get(key) in (None, value) for key, value in here.items())


def load_overrides(path: Path | None) -> dict[str, Any]:
    """Read the user's fields.

    Args:
        path: A JSON object's file; None for no fields.

    Returns:
        Field -> value.

    Raises:
        ValueError: If the file does not hold a JSON object.
    """
    if path is None:
        return {}
    try:
        facts = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(facts, dict):
        raise ValueError(f"{path} must hold one JSON object of system fields")
    return facts


def _recorded(found: ResultSet) -> dict[str, Any]:
    """What the runs' own records say about the machine and its software."""
    system = found.common("system") or {}
    versions = found.common("versions") or {}
    devices = found.common("devices")
    accelerator = system.get("accelerator")
    nodes = max((num_nodes(run) for run in found.runs), default=1)
    facts: dict[str, Any] = {"number_of_nodes": str(nodes)}
    if system.get("cpu_cores"):
        facts["host_processor_vcpu_count"] = str(system["cpu_cores"])
    if system.get("cpu"):
        facts["host_processor_model_name"] = system["cpu"]
    if system.get("memory_gib"):
        facts["host_memory_capacity"] = f"{system['memory_gib']} GiB"
    if system.get("os"):
        facts["operating_system"] = system["os"]
    facts["accelerators_per_node"] = str(devices // nodes) if accelerator and devices else "0"
    facts["accelerator_model_name"] = accelerator or "N/A"
    if system.get("accelerator_memory_gib"):
        facts["accelerator_memory_capacity"] = f"{system['accelerator_memory_gib']} GiB"
    if versions:
        facts["framework"] = f"PyTorch {versions.get('torch', '')}".strip()
        others = [f"{name} {value}" for name, value in versions.items() if name != "torch"]
        facts["other_software_stack"] = ", ".join(others)
    return facts


def _host() -> dict[str, str]:
    """What this machine says; Linux, and as little as others tell."""
    cpu = _cpu()
    disk = shutil.disk_usage(Path.cwd())
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "host_processors_per_node": cpu.get("sockets", "1"),
        "host_processor_model_name": cpu.get("model", platform.processor()),
        "host_processor_core_count": cpu.get("cores", ""),
        "host_processor_vcpu_count": str(os.cpu_count() or ""),
        "host_memory_capacity": f"{pages / 2**30:.0f} GiB",
        "host_storage_type": "local disk",
        "host_storage_capacity": f"{disk.total / 2**30:.0f} GiB",
        "operating_system": platform.platform(),
        "accelerator_memory_configuration": _gpu_memory_kind(),
    }


def _cpu() -> dict[str, str]:
    """Model, sockets and cores per socket from ``/proc/cpuinfo``."""
    try:
        blocks = Path("/proc/cpuinfo").read_text().strip().split("\n\n")
    except OSError:
        return {}
    parsed = [_pairs(block) for block in blocks]
    first = parsed[0] if parsed else {}
    facts = {"sockets": str(len({p.get("physical id", "0") for p in parsed}) or 1)}
    if first.get("model name"):
        facts["model"] = first["model name"]
    facts["cores"] = first.get("cpu cores", str(os.cpu_count() or ""))
    return facts


def _pairs(block: str) -> dict[str, str]:
    parted = (line.partition(":") for line in block.splitlines())
    return {name.strip(): value.strip() for name, _, value in parted}


def _gpu_memory_kind() -> str:
    """``nvidia-smi``'s name of the memory it can tell, or nothing."""
    if shutil.which("nvidia-smi") is None:
        return ""
    told = _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return "HBM" if any(word in told for word in ("A100", "H100", "H200", "V100")) else ""


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
