"""Settings of W&B that a run should have without being told."""

from __future__ import annotations

import netrc
import os
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

LIGHTNING_PROJECT = "lightning_logs"  # WandbLogger's own default, which says nothing


def prepare_wandb(config: Any, *, group: str, job_type: str) -> None:
    """Fill in what the user left open in every ``WandbLogger`` among the trainer's loggers.

    Project ``finishline``, files below the output root, group by benchmark, job type by
    division; offline where no key is to be found, which is said once.

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
        if settings.get("project") == LIGHTNING_PROJECT:
            settings.project = "finishline"
        if str(settings.get("save_dir")) == ".":
            settings.save_dir = str(config.output_root)
        extra = logger.get("dict_kwargs") or {}
        logger.dict_kwargs = {"group": group, "job_type": job_type, **extra}
        if not settings.offline and not _has_key():
            settings.offline = True
            rank_zero_only(print)(
                "No W&B key found (WANDB_API_KEY or `wandb login`): logging offline; "
                f"send it later with `wandb sync {config.output_root}/wandb/offline-run-*`."
            )


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE"):
        return True
    try:
        hosts = netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host for host in hosts)
