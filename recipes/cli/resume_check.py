"""Refuse to resume a run with another seed, network, rate or data."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks.batch_facts import global_batch_size
from modules.common.moved import new_path
from modules.common.torch_file import load_verified
from recipes.cli.doctor import prepared_folder
from recipes.cli.parser import RecipeCLI
from recipes.cli.saved_config import config_text
from recipes.cli.usage import UsageError

# They change where data is, how fast or where something is computed, or what a run starts from.
FREE = (
    "root", "raw", "shards", "val_shards", "prepared_dir", "num_workers", "workers",
    "prepare_processes", "device_cache", "games_at_once", "overlap", "bfloat16_play",
    "cuda_graph_play", "max_joint_nodes", "checkpoint", "from_scratch", "backbone_weights",
    "starting_accuracy",
)  # fmt: skip
NEEDED = (
    "loops",
    "optimizer_states",
)  # in a checkpoint: without them a run starts its schedule anew


def check_settings(cli: RecipeCLI) -> None:
    """Raise if a resumed run would go on with other settings; with ``--force_resume`` say so.

    Args:
        cli: The parsed command line; without ``ckpt_path`` nothing is checked.

    Raises:
        UsageError: One line that names every difference.
        ValueError: If the checkpoint has weights only; one line.
    """
    if not cli.config.ckpt_path:
        return
    path = Path(cli.config.ckpt_path)
    content = load_verified(path, mmap=True)
    # Of a folder of shards the optimizers are read later.
    if path.is_file() and (lacking := [key for key in NEEDED if not content.get(key)]):
        raise ValueError(
            f"{path} lacks {' and '.join(lacking)}, so no run can go on from it; pass a different "
            "file, or start a run from its weights with --init_weights"
        )
    saved = content.get("finishline_settings")
    before = json.loads(saved) if saved else _settings_of_folder(path.parent.parent)
    _refuse(cli, path, _differences(before, settings(cli)))


def settings(cli: RecipeCLI) -> dict[str, Any]:
    """Return the settings that training depends on: flag -> plain value."""
    return _training_settings(yaml.safe_load(config_text(cli)))


def differences_from_run(folder: Path, cli: RecipeCLI, *, any_seed: bool) -> list[str]:
    """List the settings in which a run was started otherwise than a command line says.

    Args:
        folder: The run's directory, with its ``config.yaml``.
        cli: The parsed command line.
        any_seed: Whether the seed may be another one.

    Returns:
        Such as ``model.learning_rate 0.1 instead of 0.2``, where the command line says 0.2.
    """
    content = yaml.safe_load((folder / "config.yaml").read_text())
    ours = yaml.safe_load(config_text(cli))
    before, now = _training_settings(content), _training_settings(ours)
    if None not in (batches := (_batch(content), _batch(ours))):
        before["global batch size"], now["global batch size"] = batches
    if any_seed:
        before.pop("seed_everything")
    return _differences(now, before)


class ResumeCheck(Callback):
    """Keep in each checkpoint what the run trains on, and compare when one is resumed from.

    Args:
        cli: The parsed command line.
    """

    def __init__(self, cli: RecipeCLI) -> None:
        self._cli = cli

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["finishline_settings"] = json.dumps(settings(self._cli))
        checkpoint["finishline_data"] = _data_facts(trainer)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # The data is prepared by now.
        before, now = checkpoint.get("finishline_data"), _data_facts(trainer)
        if before is None or trainer.state.fn != "fit":
            return
        if before.get("data_manifest") and before["data_manifest"] == now["data_manifest"]:
            before = {**before, "data_root": now["data_root"]}  # the same data was moved
        path = Path(str(trainer.ckpt_path))
        _refuse(self._cli, path, _differences(before, now))


def _training_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {"seed_everything": content.get("seed_everything")}
    for group in ("model", "data"):
        for name, value in (content.get(group) or {}).items():
            if not (name in FREE or name.endswith("batch_size")):
                chosen[f"{group}.{name}"] = value
    return chosen


def _batch(content: Mapping[str, Any]) -> int | None:
    """Return the samples of a step; ``None`` if the number of devices is found only later."""
    trainer = content.get("trainer") or {}
    factors: list[Any] = [(content.get("data") or {}).get("batch_size")]
    factors += [trainer.get(key) for key in ("devices", "num_nodes", "accumulate_grad_batches")]
    numbers = [int(factor) for factor in factors if str(factor).isdigit()]
    return math.prod(numbers) if len(numbers) == len(factors) else None


def _settings_of_folder(folder: Path) -> dict[str, Any]:
    """Return the settings in a run's ``config.yaml``: flag -> plain value; empty without one."""
    path = folder / "config.yaml"
    return _training_settings(yaml.safe_load(path.read_text())) if path.is_file() else {}


def _data_facts(trainer: L.Trainer) -> dict[str, Any]:
    """Return what identifies prepared data, and the batch in which a position in it counts."""
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
    root, streamed = getattr(datamodule, "root", None), getattr(datamodule, "streamed", None)
    if streamed is not None:
        return {
            "global batch size": global_batch_size(trainer),
            "ranks x loader processes": f"{trainer.world_size} x {max(1, datamodule.num_workers)}",
            "data_root": streamed.patterns.train,
            "data_manifest": streamed.digest(),
        }
    return {
        "global batch size": global_batch_size(trainer),
        "data_root": root and str(Path(root).resolve()),
        "data_manifest": None if root is None else _manifest_hash(datamodule, Path(root)),
    }


def _manifest_hash(datamodule: Any, root: Path) -> str | None:
    folder = prepared_folder(Path(getattr(datamodule, "prepared_dir", None) or root))
    manifests = sorted(folder.glob("*manifest*.json")) if folder else []
    if not manifests:
        return None
    return hashlib.sha256(b"".join(path.read_bytes() for path in manifests)).hexdigest()[:16]


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one line per setting that is another one; those that one side lacks are none."""
    both = before.keys() & now.keys()
    pairs = {name: (before[name], now[name]) for name in both if before[name] != now[name]}
    if nets := pairs.pop("model.net", None):
        pairs |= _net("model.net", *nets)
    return [f"{name} {new} instead of {old}" for name, (old, new) in sorted(pairs.items())]


def _net(name: str, before: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """Compare two networks, whose dotted paths may have moved, argument by argument."""
    (old_class, old), (new_class, new) = _parts(before), _parts(now)
    if old_class != new_class:
        return {name: (old_class, new_class)}
    return {f"{name}.{k}": (old[k], new[k]) for k in old.keys() & new.keys() if old[k] != new[k]}


def _parts(net: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(net, Mapping):
        return new_path(str(net["class_path"])), dict(net.get("init_args") or {})
    return new_path(str(net)), {}


def _refuse(cli: RecipeCLI, path: Path, lines: list[str]) -> None:
    if not lines:
        return
    text = f"--ckpt_path: {path} was trained with other settings: {'; '.join(lines)}"
    if not cli.config.force_resume:
        raise UsageError(f"{text}; --force_resume true trains on with the new ones")
    rank_zero_only(print)(f"Note: {text}", flush=True)
