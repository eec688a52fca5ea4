"""The data sheet of one benchmark: all that shared code needs to know about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from callbacks.target_text import target_text

if TYPE_CHECKING:
    import lightning as L

    from recipes.cli.training_memory import TrainingMemory


@dataclass(frozen=True)
class Rule:
    """A setting that the closed division fixes."""

    key: str
    """Flag without dashes, e.g. ``data.oversampling``."""
    text: str
    """The rule in words, with the rule book's name for the setting."""
    allows: Callable[[Any], bool] | None = None
    """Whether a value is allowed; ``None`` allows only the default."""
    goes_with: Callable[[Any, Mapping[str, Any]], bool] | None = None
    """In place of ``allows`` where others decide too: the value, and all settings by flag."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Disk, memory and time that the closed division takes; ``doctor`` compares and prints them."""

    download_gb: float | None
    """Size of the raw data in the root, in 10^9 bytes; ``None`` where not known."""
    prepared_gb: float
    """Most that ``prepare`` adds to that while it runs, in 10^9 bytes."""
    checkpoint_gb: float | None = None
    """Size of one checkpoint of the closed reference (weights and optimizer, 4 bytes per number),
    in 10^9 bytes; ``None``: it also holds games, so not known."""
    device_gib: float | None = None
    """Memory of all GPUs together that the closed settings need, in GiB; ``None``: not known."""
    training: TrainingMemory | None = None
    """In its place: what a step of the closed settings takes on each device, by their number."""
    device_gib_of: Callable[[Mapping[str, Any]], float] | None = None
    """The same of own data, from its data module's ``net_facts()``."""
    published_minutes: float | None = None
    """NVIDIA's score on eight A100-SXM4-80GB in round v1.0; ``None`` where it has none."""
    source: str
    """Where the sizes come from."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Facts of one benchmark in one place; a recipe builds exactly one."""

    name: str
    """Name in MLPerf logs and stem of the benchmark's files."""
    area: str
    dataset: str
    module: str
    """Dotted path of the LightningModule; not a class, as importing torch takes seconds."""
    datamodule: str
    """Dotted path of the LightningDataModule."""
    metrics: Mapping[str, float]
    """Metric name -> closed division target; all must hold in one evaluation."""
    mode: Literal["max", "min"]
    """``max``: reached at or above the target; ``min``: at or below."""
    runs: int
    """Runs in a submission."""
    dropped: int
    """Runs that the score drops at each end, the fastest and the slowest."""
    evaluation: Mapping[str, Any]
    """Arguments of ``EvaluationSchedule`` in the closed division."""
    evaluation_every: Callable[[int], float] | None = None
    """Global batch size -> ``evaluation.every``, where the rules make it depend on that."""
    closed: tuple[Rule, ...] = ()
    """Settings that the closed division fixes."""
    free_net_arguments: tuple[str, ...] = ()
    """Arguments of the reference network that are free in the closed division."""
    progress_unit: Literal["epochs", "samples", "fraction", "fraction_from_zero"] = "epochs"
    """Unit of an evaluation's ``epoch_num`` in the log; the fraction of the epoch begins at 1,
    or at 0."""
    discloses: bool = False
    """Whether the log tells precision, parallelism and settings, as rounds from v6.1 on demand."""
    needs: Needs
    quality_names: Mapping[str, str] = field(default_factory=dict)
    """Metric name -> name in the log, where one event holds several metrics."""
    trainer: Mapping[str, Any] = field(default_factory=dict)
    """Trainer defaults of this benchmark."""
    warmup: Mapping[str, Any] = field(default_factory=dict)
    """``WarmUp`` defaults of this benchmark."""
    commands: Mapping[str, str] = field(default_factory=dict)
    """Further commands: name -> dotted path of a function that takes the arguments (a list) and
    returns the exit status; its docstring's first line is the command's help."""
    built_for_torch: tuple[str, ...] = ()
    """Packages that it imports and that load with some versions of torch only."""
    predicts: str = ""
    """Input and output of ``predict``, e.g. ``image -> class``; empty: there is no ``predict``."""
    source: str
    """Where these facts come from."""

    def module_class(self) -> type[L.LightningModule]:
        """Import the module's class."""
        return _imported(self.module)

    def datamodule_class(self) -> type[L.LightningDataModule]:
        """Import the data module's class."""
        return _imported(self.datamodule)

    def command(self, name: str) -> Callable[[list[str]], int]:
        """Import one of ``commands``."""
        return _imported(self.commands[name])

    def target_text(self) -> str:
        """Return the target in words, e.g. ``mean_dice >= 0.908``."""
        return target_text(self.metrics, self.mode)


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
