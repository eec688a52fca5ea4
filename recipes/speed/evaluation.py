"""The cost of an evaluation, on a synthetic batch."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch

from callbacks.warm_up import without_logging
from recipes.cli.memory import EVALUATION_FLAGS
from recipes.speed.flags import SpeedCLI
from recipes.speed.loops import synchronize

COMPILING = 2  # evaluations that compile the network, or warm up and capture graphs of it


def measure_evaluation(cli: SpeedCLI, trainer: L.Trainer, share: float) -> dict[str, Any]:
    """Evaluate the network as it is, twice, and time the second pass, the metric included.

    Where the first one takes longer than a step may, it counts and is the only one. Where the
    first ones compile the network, they do not count.

    An untrained network finds and writes other things than a trained one, so detectors and
    transcribers may be cheaper or dearer here than late in a run.

    Args:
        cli: Module and data module, synthetic.
        trainer: That of a finished Lightning round.
        share: Size of the batch relative to the flags', in (0, 1].

    Returns:
        Milliseconds per sample, what a sample is, and their number.
    """
    module: Any = cli.model
    data: Any = cli.datamodule
    if hasattr(module, "begin_speed_evaluation"):
        module.begin_speed_evaluation(data)
    size = max(1, round(share * _evaluation_size(cli)))
    batch, samples = data.synthetic_evaluation_batch(size)
    replay, trainer.datamodule = trainer.datamodule, data  # type: ignore[attr-defined]
    module.eval()
    try:
        untimed = COMPILING if _compiles(cli, module) else 0
        for _ in range(untimed):
            _evaluate(module, data, trainer, batch)
        seconds = _evaluate(module, data, trainer, batch)
        if not untimed and seconds <= cli.config.step_seconds:
            seconds = _evaluate(module, data, trainer, batch)
    finally:
        trainer.datamodule = replay  # type: ignore[attr-defined]
        module.train()
    return {
        "ms_per_sample": 1000 * seconds / samples,
        "sample": data.evaluation_sample,
        "samples": samples,
    }


def _compiles(cli: SpeedCLI, module: Any) -> bool:
    """Whether the first evaluations compile the network or capture graphs of it."""
    return cli.config_init.warmup.compile or getattr(module, "cuda_graph_play", False)


def _evaluation_size(cli: SpeedCLI) -> int:
    """Return the samples that the flags evaluate at once."""
    flags = (*EVALUATION_FLAGS, "data.eval_games")
    return next((int(size) for flag in flags if (size := cli.config.get(flag))), 1)


@torch.no_grad()
def _evaluate(module: Any, data: Any, trainer: L.Trainer, batch: Any) -> float:
    synchronize()
    start = time.perf_counter()
    on_device = data.transfer_batch_to_device(batch, trainer.strategy.root_device, 0)
    with without_logging(module), trainer.precision_plugin.val_step_context():
        module.on_validation_epoch_start()
        module.validation_step(on_device, 0)
        module.on_validation_epoch_end()
    synchronize()
    return time.perf_counter() - start
