"""Lightning's loggers by name alone: directory, W&B's project and group, offline without a key."""

from __future__ import annotations

import json
import netrc
import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks.lightning_private import wandb_settings
from recipes.cli.usage import UsageError

LIGHTNING_PROJECT = "lightning_logs"  # WandbLogger's own default
# Where a logger writes if the user does not say -> the directory below the output root.
SAVE_DIRS = {".": "", "./mlruns": "mlruns"}
# Logger -> packages of which it needs one.
PACKAGES = {
    "CometLogger": ("comet_ml",),
    "MLFlowLogger": ("mlflow",),
    "TensorBoardLogger": ("tensorboard", "tensorboardX"),
    "WandbLogger": ("wandb",),
}


def give_default_directories() -> None:
    """Let the two loggers that must be given a directory take the current one, as W&B's does."""
    for logger in (CSVLogger, TensorBoardLogger):
        init: Any = logger.__init__
        if len(init.__defaults__) < init.__code__.co_argcount - 1:
            init.__defaults__ = (".", *init.__defaults__)


def prepare_loggers(config: Any, *, group: str, job_type: str) -> None:
    """Fill in what the user left open in every logger, in place before any is built."""
    for logger in _given(config.trainer.logger):
        _check_package(logger.class_path.rpartition(".")[2])
        settings = logger.init_args
        if (below := SAVE_DIRS.get(str(settings.get("save_dir")))) is not None:
            settings.save_dir = str(Path(config.output_root) / below)
        if logger.class_path.endswith("WandbLogger"):
            _prepare_wandb(logger, config, group=group, job_type=job_type)


def _given(loggers: Any) -> Iterator[Any]:
    """Yield the settings of the loggers that are named."""
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if hasattr(logger, "class_path"):
            yield logger


def _check_package(name: str) -> None:
    packages = PACKAGES.get(name, ())
    if packages and not any(find_spec(package) for package in packages):
        install = packages[0].replace("_", "-")
        raise UsageError(f"--trainer.logger: {name} needs {packages[0]}: pip install {install}")


def _prepare_wandb(logger: Any, config: Any, *, group: str, job_type: str) -> None:
    settings = logger.init_args
    if settings.get("project") in (None, LIGHTNING_PROJECT) and not os.getenv("WANDB_PROJECT"):
        settings.project = "finishline"
    given = {**settings.as_dict(), **(logger.get("dict_kwargs") or {})}
    for key, value in {"group": group, "job_type": job_type}.items():
        if given.get(key) is None:
            settings[key] = value
    if settings.get("id") is None and config.ckpt_path:
        settings.id = _recorded_run(Path(config.ckpt_path))  # the W&B run is resumed too
    if not settings.offline and not _has_key():
        _go_offline(settings)
        folder = Path(settings.save_dir) / "wandb"
        rank_zero_only(print)(
            "No W&B key found (WANDB_API_KEY or `wandb login`): logging offline.\n"
            f"Send it later: wandb sync {shlex.quote(str(folder))}/offline-run-*"
        )


def silence_wandb_warnings(loggers: Iterable[Any]) -> None:
    """Silence W&B warnings about a deprecated setting and a directory that does not exist yet."""
    for logger in loggers:
        settings = wandb_settings(logger)
        if settings.get("anonymous") is None:
            settings.pop("anonymous", None)
        if settings.get("dir"):
            with suppress(OSError):  # the run directory's own check reports what cannot be written
                Path(settings["dir"]).mkdir(parents=True, exist_ok=True)


def _go_offline(settings: Any) -> None:
    # Lightning refuses ``offline`` with ``log_model``; W&B itself supports both together.
    if settings.log_model:
        os.environ["WANDB_MODE"] = "offline"
    else:
        settings.offline = True


def _recorded_run(checkpoint: Path) -> str | None:
    """Return W&B's identifier of the run that wrote a checkpoint."""
    try:
        record = json.loads((checkpoint.parent.parent / "run.json").read_text())
    except (OSError, ValueError):
        return None
    return record.get("wandb_run") if isinstance(record, dict) else None


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE"):
        return True
    try:
        hosts = netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host for host in hosts)
