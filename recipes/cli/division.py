"""Closed or open: compare a run's settings with what the closed division fixes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from modules.common.moved import new_path
from recipes.cli.benchmark import Benchmark
from recipes.cli.shards import UNORDERED

# Settings that change what is trained or evaluated; the closed division fixes all of them.
TRAINER_RULES = {
    "limit_train_batches": "every training sample is used",
    "limit_val_batches": "the whole evaluation set is used",
    "overfit_batches": "every training sample is used",
    "fast_dev_run": "the run trains until the target",
    "gradient_clip_val": "the optimizer is the reference's",
    "gradient_clip_algorithm": "the optimizer is the reference's",
    "callbacks": "no callback may change the training",
    "max_epochs": "the run trains until the target",
    "min_epochs": "the run ends when the clock stops",
    "min_steps": "the run ends when the clock stops",
    "max_time": "the run trains until the target",
    "max_steps": "the run trains until the target",
}

OWN_RULES = {
    "module": "closed trains as the reference does",
    "init_weights": "closed fixes the starting weights",
}


def violations(
    benchmark: Benchmark,
    config: Mapping[str, Any],
    defaults: Mapping[str, Any],
    *,
    demo: bool,
) -> list[str]:
    """Return one line per setting that breaks a closed rule; flags are dotted names."""
    broken = []
    if demo:
        broken.append(f"data: generated demo data, but closed trains on {benchmark.dataset}")
    if config.get("data.shards"):
        broken.append(f"data.shards {UNORDERED}, but closed fixes the order")
    given = [key for key in OWN_RULES if config[key]]
    broken += [f"{key} is {config[key]}, but {OWN_RULES[key]}" for key in given]
    nets = config["model.net"], defaults["model.net"]
    broken += _changed_net(*nets, benchmark.free_net_arguments)
    if dict(config["target.metrics"]) != dict(benchmark.metrics):
        broken.append(f"target.metrics is not the closed target {benchmark.target_text()}")
    if config["target.mode"] != benchmark.mode:
        broken.append(f"target.mode is {config['target.mode']}, closed has {benchmark.mode}")
    own_rules = {rule.key for rule in benchmark.closed}
    for key, value in config.items():
        fixed = key.startswith("evaluation.") and key not in own_rules
        if fixed and value != defaults[key]:
            broken.append(f"{key} is {value}, but closed fixes the evaluation schedule")
    for name, rule in TRAINER_RULES.items():
        key = f"trainer.{name}"
        if config.get(key) != defaults.get(key):
            broken.append(f"{key} is {config[key]}, but in closed {rule}")
    return broken + _broken_rules(benchmark, config, defaults)


def _changed_net(net: Any, reference: Any, free: Collection[str]) -> list[str]:
    """Say how the network differs from the reference, if it does."""
    if net_name(net) != net_name(reference):
        return [f"model.net is {net_name(net)}, but closed fixes the network"]
    given, fixed = net_arguments(net), net_arguments(reference)
    changed = [key for key, value in given.items() if value != fixed.get(key) and key not in free]
    words = ", ".join(f"{key}={given[key]}" for key in changed)
    return [f"model.net has {words}, but closed fixes the network"] if changed else []


def _broken_rules(
    benchmark: Benchmark, config: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[str]:
    broken = []
    for rule in benchmark.closed:
        value, default = config[rule.key], defaults[rule.key]
        if rule.goes_with:
            allowed = rule.goes_with(value, config)
        elif rule.allows:
            allowed = rule.allows(value)
        else:
            allowed = _plain(value) == _plain(default)
        if not allowed:
            broken.append(f"{rule.key} is {value}, but {rule.text}")
    return broken


def global_batch(config: Mapping[str, Any]) -> int:
    """Return the samples per optimizer step that a run's settings mean on this machine."""
    processes = _num_devices(config["trainer.accelerator"], config["trainer.devices"])
    processes *= config["trainer.num_nodes"]
    steps: int = config["trainer.accumulate_grad_batches"]
    return int(config["data.batch_size"]) * processes * steps


def _num_devices(accelerator: Any, devices: Any) -> int:
    if isinstance(devices, list | tuple):
        return len(devices)
    if "," in str(devices):  # such as "0,1"
        return len([part for part in str(devices).split(",") if part.strip()])
    if str(devices).isdigit():
        return int(devices)
    import torch

    return max(1, torch.cuda.device_count()) if accelerator in ("auto", "gpu", "cuda") else 1


def net_name(net: Any) -> str:
    """Return the dotted path of ``model.net``: a path or a ``class_path`` mapping."""
    return new_path(str(net["class_path"] if isinstance(net, Mapping) else net))


def net_arguments(net: Any) -> dict[str, Any]:
    """Return the arguments in ``model.net``: name -> plain value."""
    return dict(net.get("init_args") or {}) if isinstance(net, Mapping) else {}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
