"""COCO's average precision in a process of its own, while the next epoch trains."""

import os
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from modules.detection.coco_metric import CocoAP

STATES = ("index", "count", "box", "score", "label", "mask", "mask_length")
ORPHAN_CHECK_S = 5.0


class LateScores:
    """One process that computes average precisions, one after the other.

    A process, because building the records holds Python's lock, for which a GPU's next kernel would
    wait. Letters: as in ``CocoAP``.
    """

    def __init__(self) -> None:
        # Not forked: a copy of a process that uses CUDA, with its threads, may hang.
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), _prepare, (os.getpid(),))
        self._truth: Mapping[str, Any] | None = None

    def start(self) -> None:
        """Start the process and wait for it: its imports take seconds."""
        self._pool.submit(_ready).result()

    def submit(self, metric: CocoAP) -> "Future[dict[str, float]]":
        """Score what a metric has gathered.

        Args:
            metric: Of the only rank; it can be reset at once.

        Returns:
            Gives the values of ``CocoAP.compute`` by name.
        """
        if metric.truth is not self._truth:
            self._truth = metric.truth
            self._pool.submit(_keep_truth, metric.truth)
        # Arrays: torch would share its tensors through files that the training must keep open.
        states = {
            name: torch.cat(getattr(metric, name)).cpu().numpy()
            for name in STATES
            if getattr(metric, name)
        }
        return self._pool.submit(_score, metric.masks, states)

    def close(self) -> None:
        """End the process; a score that is still computed is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)


_kept: dict[str, Mapping[str, Any]] = {}


def _prepare(parent: int) -> None:
    """Leave signals to the training process, and end with it."""
    # Batch systems send SIGTERM to every process of a job; only that one writes a checkpoint then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHAN_CHECK_S)
    os._exit(1)


def _ready() -> None:
    import faster_coco_eval  # noqa: F401  (a second)


def _keep_truth(truth: Mapping[str, Any]) -> None:
    _kept["truth"] = truth


def _score(masks: bool, states: Mapping[str, Any]) -> dict[str, float]:
    metric = CocoAP(masks=masks)
    metric.begin(_kept["truth"])
    for name, array in states.items():
        getattr(metric, name).append(torch.from_numpy(array))
    # The class's own: a metric warns of a compute() without an update().
    return {name: float(value) for name, value in CocoAP.compute(metric).items()}
