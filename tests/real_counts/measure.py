"""Run one stage of a data set in this process and print what it cost."""

import json
import multiprocessing
import resource
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

DATA_MODULES = {
    "imagenet": "datamodules.imagenet.ImageNetDataModule",
    "librispeech": "datamodules.librispeech.LibriSpeechDataModule",
    "coco": "datamodules.coco.COCOMaskDataModule",
    "criteo": "datamodules.criteo.CriteoDataModule",
    "c4": "datamodules.c4.C4DataModule",
}
BATCH_SIZE = 8


class Cost(NamedTuple):
    """Processor time and largest resident memory of a stage."""

    main_seconds: float
    worker_seconds: float
    before_mb: float
    """Of the main process with all libraries imported."""
    main_mb: float
    worker_mb: float


def prepare(datamodule: Any) -> None:
    datamodule.prepare()


def doctor(datamodule: Any) -> None:
    datamodule.problems()
    datamodule.differences()


def start_of_fit(datamodule: Any) -> None:
    datamodule.prepare_data()
    datamodule.differences()
    datamodule.setup("fit")
    datamodule.train_dataloader()
    datamodule.val_dataloader()


MEASURES: dict[str, Callable[[Any], None]] = {
    "prepare": prepare,
    "prepare again": prepare,
    "doctor": doctor,
    "start of fit": start_of_fit,
}


def cost_of(work: Callable[[], None]) -> Cost:
    """Do the work and measure it; workers count once they have ended."""
    before, children = (resource.getrusage(who) for who in _WHO)
    watch = WorkerMemory()
    work()
    watch.stop()
    after, grown = (resource.getrusage(who) for who in _WHO)
    return Cost(
        _seconds(after) - _seconds(before),
        _seconds(grown) - _seconds(children),
        before.ru_maxrss / 1000,
        after.ru_maxrss / 1000,
        watch.largest_mb,
    )


class WorkerMemory:
    """Watch how much memory the workers of this process have had at most, each by itself.

    Not by ``getrusage``: until it starts its own program, a new process has its parent's memory.
    """

    def __init__(self) -> None:
        self.largest_mb, self._end = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.1):
            for worker in multiprocessing.active_children():
                with suppress(OSError, KeyError, IndexError):
                    folder = Path(f"/proc/{worker.pid}")
                    if b"multiprocessing" in (folder / "cmdline").read_bytes():
                        lines = (folder / "status").read_text().splitlines()
                        peak = next(each for each in lines if each.startswith("VmHWM"))
                        self.largest_mb = max(self.largest_mb, int(peak.split()[1]) / 1000)


_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def _seconds(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def main(dataset: str, stage: str, folder: str) -> None:
    path, _, name = DATA_MODULES[dataset].rpartition(".")
    datamodule = getattr(import_module(path), name)(root=Path(folder), batch_size=BATCH_SIZE)
    cost = cost_of(lambda: MEASURES[stage](datamodule))
    print(json.dumps(cost))


if __name__ == "__main__":
    main(*sys.argv[1:])
