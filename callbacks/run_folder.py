"""The directory of a run, created once and equal on every rank."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback


def fresh_seed() -> int:
    """Draw a seed in ``[0, 2**32)`` from the operating system's entropy, as the rules require."""
    return secrets.randbits(32)


def new_run_folder(root: Path, stem: str, seed: int) -> Path:
    """Create the directory ``root/stem/YYYYmmdd-HHMMSS-seed<seed>``, which must be new."""
    while True:
        folder = root / stem / f"{time.strftime('%Y%m%d-%H%M%S')}-seed{seed}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            time.sleep(1)  # another run started in this second
        except OSError as error:
            raise ValueError(
                f"cannot create the run directory {folder}: {error.strerror}; "
                "choose a writable directory with --output_root DIR"
            ) from error


class RunFolder(Callback):
    """Give all ranks rank 0's directory and seed before the model meets the data.

    Processes started by ``torchrun`` or SLURM draw seeds of their own; the run must have one.

    Args:
        root: Directory of all runs.
        stem: Benchmark name.
        seed: The seed that this process was given or drew.
    """

    def __init__(self, root: Path, stem: str, seed: int) -> None:
        self._root, self._stem, self._seed = root, stem, seed
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """The run's directory; exists once training has been set up."""
        assert self._path is not None, "the run directory exists only after setup"
        return self._path

    @property
    def created(self) -> bool:
        return self._path is not None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._path is not None:
            return
        seed = int(trainer.strategy.broadcast(self._seed))
        if seed != self._seed:
            L.seed_everything(seed, workers=True, verbose=False)
        path: Path | None = None
        if trainer.is_global_zero:
            path = new_run_folder(self._root, self._stem, seed)
        self._path = Path(str(trainer.strategy.broadcast(str(path))))
