"""Base class of all data modules: global batch, samplers and loader settings."""

import os
import signal
import threading
from typing import Any, ClassVar

import lightning as L
from lightning.fabric.utilities.seed import pl_worker_init_function

from datamodules.common.loaders import send_errors_instead_of_batches
from datamodules.common.memory import MemoryNeed
from datamodules.common.sampling import EpochSampler, ranks, resume_position, run_seed
from datamodules.common.stream.splits import StreamedSplits


class BenchmarkDataModule(L.LightningDataModule):
    """A data module that shards its samples over ranks itself.

    Attributes:
        batch_size: Samples per device and micro-step.
        num_workers: Loader processes per device; 0 loads in the training process.
        evaluation_sample: What an evaluation is counted in: ``image``, ``utterance``, ...
        synthetic: Whether ``use_synthetic_data`` has replaced the data.
        streamed: The shards that are streamed in place of a root; None for others.
    """

    batch_size: int
    num_workers: int
    evaluation_sample: ClassVar[str] = "sample"
    synthetic: bool = False
    streamed: StreamedSplits | None = None

    def differences(self) -> list[str]:
        """Say how the data in the root differs from the benchmark's.

        Reads listings and the manifest only and writes nothing. What only ``prepare`` can find out
        is told once it has run; training asks again then.

        Returns:
            One line per difference, such as ``10 classes instead of 1,000``; empty for the
            benchmark's own data and for demo data.
        """
        return []

    def net_facts(self) -> dict[str, Any]:
        """Return what the data fixes about a network, as constructor arguments.

        Returns:
            Argument name -> value, such as ``{"num_classes": 10, "image_size": 64}``.

        Raises:
            ValueError: If they are known only after ``prepare``, which has not run.
        """
        return {}

    def memory_needs(self) -> list[MemoryNeed]:
        """Return what every rank keeps in memory besides batches, for ``doctor``."""
        return []

    def use_synthetic_data(self, memory: float) -> list[str]:
        """Take the facts of the benchmark's whole data set; from now on no file is read.

        For ``speed --synthetic``: ``net_facts``, ``synthetic_batch`` and
        ``synthetic_evaluation_batch`` then work without any data.

        Args:
            memory: Bytes that what grows with the data, such as embedding tables or search trees,
                may take.

        Returns:
            What had to be scaled to that, with the factor; one line each.

        Raises:
            NotImplementedError: If the data module has no synthetic data.
        """
        raise NotImplementedError(f"{type(self).__name__} has no synthetic data")

    def synthetic_evaluation_batch(self, size: int) -> tuple[Any, int]:
        """Return a random evaluation batch on the CPU, and its number of ``evaluation_sample``.

        Args:
            size: Samples wanted, at least 1.

        Returns:
            A batch as ``val_dataloader`` gives them, and what it counts.

        Raises:
            NotImplementedError: If the data module has no synthetic data.
        """
        raise NotImplementedError(f"{type(self).__name__} has no synthetic data")

    @property
    def accumulation(self) -> int:
        """Micro-steps per optimizer step."""
        return 1 if self.trainer is None else self.trainer.accumulate_grad_batches

    @property
    def global_batch_size(self) -> int:
        """Samples per optimizer step over all ranks."""
        return self.batch_size * ranks(self.trainer)[1] * self.accumulation

    @property
    def loader_options(self) -> dict[str, Any]:
        """Worker and memory settings of all loaders."""
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": on_cuda,
            "worker_init_fn": start_worker,
        }

    @property
    def sampler_options(self) -> dict[str, Any]:
        """Rank, seed and position to resume from, as every training sampler takes them."""
        epoch, done = resume_position(self.trainer)
        rank, world_size = ranks(self.trainer)
        return {
            "rank": rank,
            "world_size": world_size,
            "seed": run_seed(),
            "start_batch": done,
            "start_epoch": epoch,
        }

    def epoch_sampler(self, num_samples: int) -> EpochSampler:
        """Return this rank's shuffled batches, from the resume position on."""
        return EpochSampler(
            num_samples, self.global_batch_size, batch_size=self.batch_size, **self.sampler_options
        )


def start_worker(number: int) -> None:
    """Seed a loader process, and leave Ctrl-C, SIGTERM and SIGHUP to the training process.

    Terminals and batch systems send them to all processes of a job; a loader process that ended
    would bring the run down before its checkpoint is written.

    Args:
        number: Number of the loader process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    send_errors_instead_of_batches()
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_for, args=(os.getppid(),), daemon=True).start()
    pl_worker_init_function(number)


def _end_for(parent: int) -> None:
    """End on SIGTERM from the parent: Python sends it at exit, then waits for its children."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
