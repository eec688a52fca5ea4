"""Settings of W&B that a run should have without being told."""

from __future__ import annotations

import json
import netrc
import os
import shlex
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks.lightning_private import wandb_settings

LIGHTNING_PROJECT = "lightning_logs"  # WandbLogger's own default, which says nothing


def prepare_wandb(config: Any, *, group: str, job_type: str) -> None:
    """Fill in what the user left open in every ``WandbLogger`` among the trainer's loggers.

    Project ``finishline``, files below the output root, group by benchmark, job type by
    division; offline where no key is to be found, which is said once. A resumed training run
    goes on in its W&B run.

    Args:
        config: Parsed flags; changed in place before anything is built.
        group: W&B's group.
        job_type: W&B's job type.
    """
    loggers = config.trainer.logger
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if not str(getattr(logger, "class_path", "")).endswith("WandbLogger"):
            continue
        settings = logger.init_args
        if settings.get("project") in (None, LIGHTNING_PROJECT) and not os.getenv("WANDB_PROJECT"):
            settings.project = "finishline"
        if str(settings.get("save_dir")) == ".":
            settings.save_dir = str(config.output_root)
        given = {**settings.as_dict(), **(logger.get("dict_kwargs") or {})}
        for key, value in {"group": group, "job_type": job_type}.items():
            if given.get(key) is None:
                settings[key] = value
        if settings.get("id") is None and config.ckpt_path:
            settings.id = _earlier_run(Path(config.ckpt_path))
        if not settings.offline and not _has_key():
            _go_offline(settings)
            folder = Path(settings.save_dir) / "wandb"
            rank_zero_only(print)(
                "No W&B key found (WANDB_API_KEY or `wandb login`): logging offline.\n"
                f"Send it later: wandb sync {shlex.quote(str(folder))}/offline-run-*"
            )


def spare_warnings(loggers: Iterable[Any]) -> None:
    """Keep W&B from warning of what Lightning hands it: a setting of old, a folder not yet made.

    Args:
        loggers: The trainer's loggers, before any of them is used; changed in place.
    """
    for logger in loggers:
        settings = wandb_settings(logger)
        if settings.get("anonymous") is None:
            settings.pop("anonymous", None)
        if settings.get("dir"):
            with suppress(OSError):  # the run folder's own check names what cannot be written
                Path(settings["dir"]).mkdir(parents=True, exist_ok=True)


def _go_offline(settings: Any) -> None:
    """Lightning refuses ``offline`` with ``log_model``, which W&B itself can do."""
    if settings.log_model:
        os.environ["WANDB_MODE"] = "offline"
    else:
        settings.offline = True


def _earlier_run(checkpoint: Path) -> str | None:
    """W&B's identifier in the record of the run that a checkpoint comes from."""
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
