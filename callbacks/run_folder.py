"""The folder that a run leaves behind, made once and equal on every rank."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback


def fresh_seed() -> int:
    """Draw a run's seed from the operating system's entropy, as the rules ask.

    Returns:
        A seed in ``[0, 2**32)``.
    """
    return secrets.randbits(32)


def new_run_folder(root: Path, stem: str, seed: int) -> Path:
    """Make a run folder that did not exist before.

    Args:
        root: Folder of all runs.
        stem: Benchmark name.
        seed: The run's seed, part of the name.

    Returns:
        The path ``root/stem/YYYYmmdd-HHMMSS-seed<seed>``.

    Raises:
        ValueError: If the folder cannot be made; the message says where and why.
    """
    while True:
        folder = root / stem / f"{time.strftime('%Y%m%d-%H%M%S')}-seed{seed}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            time.sleep(1)  # a run of the same second: the next second has a name of its own
        except OSError as error:
            raise ValueError(
                f"cannot make the run folder {folder}: {error.strerror}; "
                "choose a writable place with --output_root DIR"
            ) from error


class RunFolder(Callback):
    """Gives all ranks rank 0's folder and seed before the model meets the data.

    Processes started by ``torchrun`` or SLURM draw seeds of their own; the run must have one.

    Args:
        root: Folder of all runs.
        stem: Benchmark name.
        seed: The seed that this process was given or drew.
    """

    def __init__(self, root: Path, stem: str, seed: int) -> None:
        self._root, self._stem, self._seed = root, stem, seed
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """The run's folder; exists once training has been set up."""
        assert self._path is not None, "the run folder exists only after setup"
        return self._path

    @property
    def created(self) -> bool:
        """Whether the folder exists already."""
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
