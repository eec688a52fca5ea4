"""The data sheet of one benchmark: everything shared code needs to know about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from callbacks.target_text import target_text

if TYPE_CHECKING:
    import lightning as L


@dataclass(frozen=True)
class Rule:
    """A setting that the closed division does not leave free."""

    key: str
    """Flag without dashes, e.g. ``data.oversampling``."""
    text: str
    """The rule in words, with the rule book's name for the setting."""
    allows: Callable[[Any], bool] | None = None
    """Tells whether a value is allowed; ``None`` allows only the default."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the closed division takes in disk, memory and time; ``doctor`` compares and prints."""

    download_gb: float | None
    """Raw data as it has to lie in the root, in 10^9 bytes; ``None`` where not known."""
    prepared_gb: float
    """Most that ``prepare`` adds to that while it runs."""
    device_gib: float | None = None
    """Memory of all GPUs together that the closed settings need; ``None`` where not known."""
    demo_minutes: float
    """Timed minutes of the demo, as measured for README.md on one or two threads."""
    published_minutes: float | None = None
    """Score of NVIDIA's eight A100-SXM4-80GB in round v1.0; ``None`` for a benchmark without."""
    source: str
    """Where the sizes come from."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Facts of one benchmark in one place; a recipe builds exactly one."""

    name: str
    """Benchmark name in MLPerf logs and stem of all its files."""
    area: str
    dataset: str
    module: str
    """Dotted path of the LightningModule; a path, as torch takes seconds that ``--help`` need not
    wait for."""
    datamodule: str
    """Dotted path of the LightningDataModule."""
    metrics: Mapping[str, float]
    """Metric name -> closed division target; all must hold in one evaluation."""
    mode: Literal["max", "min"]
    """``max``: reached at or above the target; ``min``: at or below."""
    runs: int
    """Runs that one submission needs."""
    dropped: int
    """Fastest and slowest runs that the score leaves out, each."""
    evaluation: Mapping[str, Any]
    """Arguments of ``EvaluationSchedule`` in the closed division."""
    evaluation_every: Callable[[int], float] | None = None
    """Global batch size -> ``evaluation.every``, where the rules make it depend on the batch."""
    closed: tuple[Rule, ...] = ()
    """Settings that the closed division fixes."""
    free_net_arguments: tuple[str, ...] = ()
    """Arguments of the reference network that the closed division leaves free."""
    progress_unit: Literal["epochs", "samples", "fraction"] = "epochs"
    """What ``epoch_num`` of an evaluation counts in the log."""
    needs: Needs
    """Disk, memory and time."""
    quality_names: Mapping[str, str] = field(default_factory=dict)
    """Metric name -> name in the log's value, where one event holds several."""
    trainer: Mapping[str, Any] = field(default_factory=dict)
    """Trainer defaults of this benchmark."""
    warmup: Mapping[str, Any] = field(default_factory=dict)
    """``WarmUp`` defaults of this benchmark."""
    commands: Mapping[str, str] = field(default_factory=dict)
    """Further commands of this recipe: name -> dotted path of a function that takes the arguments
    and returns the exit status. The first line of its docstring is the command's help."""
    source: str
    """Where these facts come from."""

    def module_class(self) -> type[L.LightningModule]:
        """The module's class, imported now."""
        return _imported(self.module)

    def datamodule_class(self) -> type[L.LightningDataModule]:
        """The data module's class, imported now."""
        return _imported(self.datamodule)

    def command(self, name: str) -> Callable[[list[str]], int]:
        """One of ``commands``, imported now."""
        return _imported(self.commands[name])

    def target_text(self) -> str:
        """The target in words, e.g. ``mean_dice >= 0.908``."""
        return target_text(self.metrics, self.mode)


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
