"""Writes the system description (``systems/<system>.json``) from machine and run records."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scoring.rules.rounds import round_names
from scoring.runs.result_sets import ResultSet
from scoring.runs.settings import num_nodes

# Every field that the official checker requires; those with a star must not be empty.
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
# Fields that the runs and the command line decide -> where each comes from.
FIXED = {
    "submitter": "--org",
    "division": "the runs' own",
    "status": "--availability",
    "system_name": "--system",
}
# From this round on the checker accepts only these words.
LONG_STATUS_SINCE = "v4.0"
LONG_STATUS = {
    "cloud": "Available cloud",
    "onprem": "Available on-premise",
    "preview": "Preview",
    "research": "Research, Development, or Internal (RDI)",
}
# Without an accelerator these may be empty.
ACCELERATOR_ONLY = ("accelerator_memory_configuration", "accelerator_memory_capacity")


def describe(
    result: ResultSet,
    *,
    org: str,
    system: str,
    division: str,
    status: str,
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """Fill the 33 fields as far as known, else with empty text; ``overrides`` win but for FIXED."""
    # Run records take precedence over this machine: the runs may be from a different one.
    names = [name.removesuffix("*") for name in FIELDS]
    unknown = sorted(set(overrides) - set(names))
    if unknown:
        raise ValueError(f"unknown system fields {unknown}; choose from {names}")
    fixed = {
        "submitter": org,
        "division": division,
        "status": status,
        "system_name": system,
    }
    for name, source in FIXED.items():
        if name in overrides and not _is_same(name, overrides[name], fixed[name]):
            raise ValueError(
                f"--system_json: {name} is {overrides[name]!r}, but {source} {fixed[name]!r} "
                "counts; leave the field out"
            )
    known = {
        **(_host() if is_this_machine(result) else {}),
        **_recorded(result),
        **overrides,
        **fixed,
    }
    # The checker joins some fields as text and crashes on a number.
    keep = {"other_software_stack"}
    return {n: known.get(n, "") if n in keep else str(known.get(n, "")) for n in names}


def _is_same(name: str, given: Any, fixed: str) -> bool:
    """Return whether two values mean the same: a status has a short and a long form."""
    if name == "status" and isinstance(given, str):
        short = {words.lower(): word for word, words in LONG_STATUS.items()}
        given, fixed = (short.get(text.strip().lower(), text) for text in (given, fixed))
    return bool(given == fixed)


def status_words(availability: str, round_name: str) -> str:
    """Return the status of a description in the words that its round's checker accepts.

    Args:
        availability: The value of ``--availability``.
        round_name: Such as ``v5.1``.

    Returns:
        The value itself before v4.0.
    """
    names = round_names()
    early = names.index(round_name) < names.index(LONG_STATUS_SINCE)
    return availability if early else LONG_STATUS[availability]


def unfilled(description: Mapping[str, Any]) -> list[str]:
    """List the required fields that are still empty."""
    # The rules require only one of the two counts.
    optional = {"host_processor_core_count"} if description.get("host_processor_vcpu_count") else {}
    cpu_only = str(description.get("accelerators_per_node")) == "0"
    needed = [n for n in REQUIRED if not (cpu_only and n in ACCELERATOR_ONLY)]
    return [name for name in needed if not description.get(name) and name not in optional]


def is_this_machine(result: ResultSet) -> bool:
    """Return whether processor and cores in the runs' records are those of this machine."""
    system = result.common("system") or {}
    here = {"cpu": _cpu().get("model"), "cpu_cores": os.cpu_count()}
    return all(system.get(key) in (None, value) for key, value in here.items())


def load_overrides(path: Path | None) -> dict[str, Any]:
    """Read the user's fields from a JSON file; None for no fields."""
    if path is None:
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(facts, dict):
        raise ValueError(f"{path} must hold one JSON object of system fields")
    for name, value in facts.items():
        if not isinstance(value, str | int | float):
            raise ValueError(f"{path}: {name} is {value!r:.60}; give a text or a number")
    return facts


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(repeated)} is given more than once")
    return dict(pairs)


def _recorded(result: ResultSet) -> dict[str, Any]:
    """Take machine and software from the runs' own records."""
    system = result.common("system") or {}
    versions = result.common("versions") or {}
    devices = result.common("devices")
    accelerator = system.get("accelerator")
    nodes = max((num_nodes(run) for run in result.runs), default=1)
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
    """Describe this machine (Linux)."""
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
    """Read model, sockets and cores per socket from ``/proc/cpuinfo``."""
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
    """Return the kind of memory of known GPUs; empty for others."""
    if shutil.which("nvidia-smi") is None:
        return ""
    names = _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return "HBM" if any(word in names for word in ("A100", "H100", "H200", "V100")) else ""


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
