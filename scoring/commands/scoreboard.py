"""The scoreboard of model swaps: networks on the same benchmark, data and clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from scoring.drawing.tables import Table, number
from scoring.rules.judged_runs import CONVERGED, LEFT_OUT
from scoring.rules.rounds import load_round
from scoring.rules.scores import Score, finite
from scoring.runs.result_sets import ResultSet
from scoring.runs.run import Run, configuration_words, without_moved_paths

LONGEST_NAME = 24
OWN_DATA = "own data"  # start of a run's data set that is not the benchmark's


@dataclass(frozen=True)
class NetRow:
    """The runs with one network."""

    net: str
    """Class path and arguments."""
    configuration: str
    """Data, target, batch and devices of its runs."""
    hardware: str
    """Processor or accelerator, and the number of devices."""
    reference: bool
    """Whether its class is the benchmark's reference network."""
    runs: int
    reached: int
    """Runs that reached the target."""
    median_seconds: float | None
    """Seconds to target, over the runs that reached it."""
    best_quality: dict[str, float]
    parameters: int | None
    flops_per_sample: float | None
    samples_per_second: float | None


@dataclass(frozen=True)
class Scoreboard:
    """All networks of one benchmark on the same data and to the same target, fastest first.

    A network has a row for each batch size and machine that it ran with.
    """

    benchmark: str
    demo: bool
    target: dict[str, float]
    rows: tuple[NetRow, ...]
    dataset: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the board as plain JSON values."""
        plain: dict[str, Any] = finite(asdict(self))
        return plain

    @property
    def names(self) -> list[str]:
        """One short name per row: the class, numbered where several share it."""
        classes = [_class_name(row.net) for row in self.rows]
        names = []
        for position, (name, row) in enumerate(zip(classes, self.rows, strict=True)):
            number = f" #{classes[: position + 1].count(name)}" if classes.count(name) > 1 else ""
            names.append(name + number + (" (reference)" if row.reference else ""))
        return names

    def table(self) -> Table:
        """Return the board as a table; with names of usual length it fits into 80 columns."""
        metrics = list(dict.fromkeys(name for row in self.rows for name in row.best_quality))
        columns = ["net", "target reached", "seconds to target", *(f"best {m}" for m in metrics)]
        columns += ["params", "FLOPs per sample", "samples/s"]
        own = self.dataset if self.dataset.startswith(OWN_DATA) else "real data"
        title = f"{self.benchmark}: networks ({'demo data' if self.demo else own})"
        rules = load_round().benchmarks.get(self.benchmark)
        if rules and sorted(self.target.values()) != sorted(rules.target.values()):
            title += ", target " + " and ".join(f"{k} {v}" for k, v in self.target.items())
        table = Table(title, columns, numeric=frozenset(columns[1:]))
        for name, row in zip(self.names, self.rows, strict=True):
            quality = [row.best_quality.get(metric) for metric in metrics]
            cells = [name, f"{row.reached}/{row.runs}", row.median_seconds, *quality]
            cells += [_count(row.parameters), _count(row.flops_per_sample), row.samples_per_second]
            table.rows.append(cells)
        return table

    def notes(self) -> list[str]:
        """Explain each short name, and compare its time with the reference's."""
        nets = [row.net for row in self.rows]
        lines = []
        for name, row in zip(self.names, self.rows, strict=True):
            line = f"{name}: {row.net}"
            if nets.count(row.net) > 1 or len({other.hardware for other in self.rows}) > 1:
                line += f"\n  {row.configuration}, on {row.hardware}"
            # Times on different machines cannot be compared.
            same = [r for r in self.rows if r.reference and r.hardware == row.hardware]
            base = same[0] if len(same) == 1 else None
            if base and row is not base and row.median_seconds and base.median_seconds:
                ratio = number(base.median_seconds / row.median_seconds)
                line += f"\n  {ratio}x as fast as the reference, "
                line += f"median of {row.reached} against {base.reached} run(s)"
            lines.append(line)
        if any(row.reached < 3 for row in self.rows):
            lines.append("Times vary with the seed: make at least three runs of each.")
        return lines


def _class_name(net: str) -> str:
    """Return the class's name, shortened to fit a table."""
    name = net.partition("(")[0].rpartition(".")[2]
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."


def _count(value: float | None) -> str | None:
    """Format a large count with a unit letter."""
    if value is None:
        return None
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f}"


def scoreboard(scored: Sequence[tuple[ResultSet, Score]]) -> list[Scoreboard]:
    """Make one board per benchmark whose runs used more than one network.

    Runs without a ``net`` in run.json are skipped.
    """
    groups: dict[tuple[str, bool, str, str], dict[tuple[str, ...], list[tuple[Run, str]]]] = {}
    for result, item in scored:
        outcomes = {judged.path: judged.outcome for judged in item.runs}
        for run in result.runs:
            outcome = outcomes.get(str(run.path), LEFT_OUT)
            if outcome != LEFT_OUT and run.net:
                dataset = str(run.fact("dataset") or "")
                key = (item.benchmark, item.demo, str(run.fact("target")), dataset)
                rows_of = groups.setdefault(key, {})
                rows_of.setdefault(run.configuration, []).append((run, outcome))
    boards = []
    for (benchmark, demo, _, dataset), rows_of in sorted(groups.items()):
        rows = [_net_row(benchmark, runs) for runs in rows_of.values()]
        if len({without_moved_paths(row.net) for row in rows}) > 1:
            rows.sort(key=lambda row: (-row.reached / row.runs, row.median_seconds or 0))
            target = dict(next(iter(rows_of.values()))[0][0].fact("target") or {})
            boards.append(Scoreboard(benchmark, demo, target, tuple(rows), dataset))
    return boards


def _hardware(run: Run) -> str:
    system = run.fact("system") or {}
    name = system.get("accelerator") or system.get("cpu") or "an unnamed machine"
    threads = "" if system.get("accelerator") else f", {system.get('threads')} threads"
    return f"{run.fact('devices')} x {name}{threads if system.get('threads') else ''}"


def _net_row(benchmark: str, runs: Sequence[tuple[Run, str]]) -> NetRow:
    first = runs[0][0]
    net = first.net or ""
    good = [run for run, outcome in runs if outcome == CONVERGED]
    seconds = [run.log.seconds for run in good if run.log.seconds is not None]
    speeds = [run.fact("samples_per_second") for run, _ in runs]
    return NetRow(
        net=net,
        configuration=configuration_words(first),
        hardware=_hardware(first),
        reference=any(run.fact("reference_net") == net.partition("(")[0] for run, _ in runs),
        runs=len(runs),
        reached=len(good),
        median_seconds=_median(seconds),
        best_quality=_best_quality(benchmark, [run for run, _ in runs]),
        parameters=next((run.fact("parameters") for run, _ in runs), None),
        flops_per_sample=next((run.fact("flops_per_sample") for run, _ in runs), None),
        samples_per_second=_median([float(speed) for speed in speeds if speed is not None]),
    )


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _best_quality(benchmark: str, runs: Sequence[Run]) -> dict[str, float]:
    """Return each metric's best value over all runs, under the names of the record."""
    rules = load_round().benchmarks.get(benchmark)
    best = min if rules and rules.mode == "min" else max
    values: dict[str, list[float]] = {}
    for run in runs:
        names = list(run.fact("target") or {})
        for evaluation in run.log.evaluations:
            quality = evaluation.quality
            if len(quality) == 1 and len(names) == 1:
                quality = {names[0]: next(iter(quality.values()))}
            for name, value in quality.items():
                values.setdefault(name, []).append(value)
    return {name: best(items) for name, items in values.items()}
