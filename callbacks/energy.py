"""Measure what a run used from ``run_start`` to ``run_stop``: energy, and what its time cost."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from callbacks.energy_counters import POWERCAP, EnergyUnknown, GpuCounter, ProcessorCounter
from callbacks.quality_target import RunState, StopReason, StopRun

Counter = GpuCounter | ProcessorCounter

JOULES_PER_WH = 3600.0
SAMPLE_SECONDS = 20.0
GPU, CPU = "gpu", "cpu"
NOT_ENDED, RESUMED = "the run has not ended", "since the run was resumed, without what was before"
NOT_ALL = "an error or interruption ended the run, so not every node reported"
Figures = dict[str, float | str]
"""``gpu`` and ``cpu`` -> watt-hours, or the reason why they are not known."""


class Energy(Callback):
    """Read the energy counters when the clock starts and when it stops.

    On each node one rank reads all GPUs that the node's ranks train on, and its processors. Its
    place is behind ``QualityTarget``, which owns the clock, and before ``RunRecord``.

    Args:
        state: The run's shared state.
        cost_per_hour: Price of an hour of everything that the run trains on, in any currency.
        powercap: Directory of the processors' counters.
    """

    def __init__(
        self, state: RunState, *, cost_per_hour: float | None = None, powercap: Path = POWERCAP
    ) -> None:
        self._state, self._price, self._powercap = state, cost_per_hour, powercap
        self._node: _NodeMeter | None = None
        self._nodes = 1
        self._before_evaluation: Figures | None = None
        self._used: Figures = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        ranks = _from_all_ranks((trainer.node_rank, _gpu_name(trainer.strategy.root_device)))
        self._nodes = len({node for node, _ in ranks})
        if trainer.local_rank == 0:
            gpus = [gpu for node, gpu in ranks if node == trainer.node_rank and gpu]
            self._node = _NodeMeter(gpus, self._powercap)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._node is not None:
            self._node.start()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Where the weights stop the clock, only the evaluation tells that it has stopped.
        if self._node is not None and getattr(pl_module, "stops_at_weights", False):
            self._before_evaluation = self._node.figures()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if "run_stop" in self._state.clock.marks:
            self._stop(self._before_evaluation)

    def on_late_evaluation(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop before the last checkpoint is written, if the result stopped the clock."""
        if "run_stop" in self._state.clock.marks:
            self._stop()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        # All ranks leave together where the budget is used up or a value is not finite; an error
        # or a signal may have ended only this one.
        if isinstance(exception, StopRun) and exception.reason is not StopReason.INTERRUPTED:
            self._stop()

    def _stop(self, figures: Figures | None = None, *, together: bool = True) -> None:
        """Keep the figures of all nodes; not ``together`` where other ranks may have ended."""
        if self._used:
            return
        if self._node is not None:
            self._used = figures or self._node.figures()
            self._node.stop()
        if self._nodes > 1:
            alone: Figures = {GPU: NOT_ALL, CPU: NOT_ALL}
            self._used = _sum(_from_all_ranks(self._used)) if together else alone

    def record(self) -> dict[str, Any]:
        """Return the record's entries: numbers, or null with the reason.

        Returns:
            ``energy_wh`` (watt-hours of ``gpu`` and ``cpu``), ``energy_note``, ``cost`` and
            ``cost_note``.
        """
        if "run_stop" in self._state.clock.marks and not self._used:
            self._stop(together=False)
        used = self._used or dict.fromkeys((GPU, CPU), NOT_ENDED)
        notes = [f"{name}: {why}" for name, why in used.items() if isinstance(why, str)]
        cost, why = self._cost()
        if self._state.resumed:
            notes, why = [*notes, RESUMED], RESUMED if why is None else f"{why}; {RESUMED}"
        return {
            "energy_wh": {k: v if isinstance(v, float) else None for k, v in used.items()},
            "energy_note": "; ".join(notes) or None,
            "cost": cost,
            "cost_note": why,
        }

    def _cost(self) -> tuple[float | None, str | None]:
        clock = self._state.clock
        if self._price is None:
            return None, "no --cost_per_hour was given"
        if "run_stop" not in clock.marks:
            return None, NOT_ENDED
        return self._price * clock.seconds / 3600, None


class _NodeMeter:
    """The counters of one machine, from ``start`` on."""

    def __init__(self, gpus: list[str], powercap: Path) -> None:
        self._powercap = powercap
        # NVML takes a moment to load; it is loaded before the clock starts.
        self._counters: dict[str, Counter | str] = {GPU: _counter(lambda: GpuCounter(gpus))}
        self._begin: Figures = {}
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin at zero, and read the processors' counters before they wrap around."""
        self._counters[CPU] = _counter(lambda: ProcessorCounter(self._powercap))
        self._begin = self._read()
        if isinstance(counter := self._counters[CPU], ProcessorCounter):
            seconds = min(SAMPLE_SECONDS, counter.longest_gap / 4)
            threading.Thread(target=self._sample, args=(seconds,), daemon=True).start()

    def figures(self) -> Figures:
        """Return watt-hours since ``start``."""
        return {name: _difference(self._begin[name], now) for name, now in self._read().items()}

    def stop(self) -> None:
        self._ended.set()

    def _sample(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            self._read()

    def _read(self) -> Figures:
        return {name: _watt_hours(counter) for name, counter in self._counters.items()}


def _counter(make: Callable[[], Counter]) -> Counter | str:
    try:
        return make()
    except EnergyUnknown as reason:
        return str(reason)


def _watt_hours(counter: Counter | str) -> float | str:
    try:
        return counter if isinstance(counter, str) else counter.joules() / JOULES_PER_WH
    except EnergyUnknown as reason:
        return str(reason)


def _difference(begin: float | str, now: float | str) -> float | str:
    if isinstance(begin, str) or isinstance(now, str):
        return begin if isinstance(begin, str) else now
    return now - begin


def _gpu_name(device: torch.device) -> str | None:
    """Return NVML's name of a rank's GPU; None for another device."""
    if device.type != "cuda":
        return None
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _from_all_ranks(value: Any) -> list[Any]:
    """Return every rank's value, in order of rank."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def _sum(nodes: list[Figures]) -> Figures:
    """Add the figures of all nodes; a figure that one does not know is not known."""
    reported = [figures for figures in nodes if figures]
    total: Figures = {}
    for name in (GPU, CPU):
        values = [figures[name] for figures in reported]
        reasons = [value for value in values if isinstance(value, str)]
        known = [value for value in values if isinstance(value, float)]
        total[name] = reasons[0] if reasons else math.fsum(known)
    return total
