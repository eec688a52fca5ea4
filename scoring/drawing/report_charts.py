"""Draws the report's charts from a result set."""

from __future__ import annotations

import html
from collections.abc import Sequence

from scoring.drawing.svg import Line, curve_chart, stacked_bars, time_strip
from scoring.rules.judged_runs import CONVERGED, LEFT_OUT
from scoring.rules.rounds import BenchmarkRules, Round
from scoring.rules.scores import Score
from scoring.rules.time_parts import TimeParts, parts_of_log
from scoring.runs.result_sets import ResultSet
from scoring.runs.run import Run

MOST_BARS = 12
# The colour of a part is its position here.
PARTS = ("init", "data_wait", "train", "eval", "other", "start")
# The order in which a bar's parts are drawn.
DRAWN = ("init", "start", "data_wait", "train", "eval", "other")
# A chart of larger numbers cannot be computed; no run has any.
LARGEST = 1e30


def _figure(svg: str, caption: str) -> str:
    """Wrap an ``<svg>`` element with its caption in a ``<figure>``."""
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"


def curves(result: ResultSet, item: Score, rules: Round) -> str:
    """Draw the quality of every run over minutes and epochs, with target and convergence band.

    Args:
        result: The runs.
        item: Their score.
        rules: The round, for the target.

    Returns:
        HTML; empty if nothing was evaluated.
    """
    bench = rules.benchmarks.get(item.benchmark)
    outcomes = {judged.path: judged.outcome for judged in item.runs}
    runs = [run for run in result.runs if outcomes.get(str(run.path)) != LEFT_OUT]
    parts = []
    for metric in _metrics(runs):
        target = _target(result, bench, metric)
        label = next(iter(bench.target), metric) if bench and metric == "value" else metric
        parts += _pair(runs, item, metric, label, target)
    return "<h3>Curves</h3>" + "".join(parts) if parts else ""


def _pair(
    runs: Sequence[Run], item: Score, metric: str, label: str, target: float | None
) -> list[str]:
    parts = []
    over_time = [_line(run, metric, by_progress=False) for run in runs]
    if any(line.points for line in over_time):
        svg = curve_chart(
            over_time,
            title=f"{label} over minutes",
            x_label="minutes",
            y_label=label,
            target=target,
        )
        parts.append(_figure(svg, f"{label} of every run over minutes since run_start."))
    by_progress = [_line(run, metric, by_progress=True) for run in runs]
    verdict = item.rcp.get("then")
    if verdict and verdict.minimum is not None and verdict.reference_mean is not None:
        band = (
            verdict.minimum,
            verdict.reference_mean,
            "from the smallest mean that passes to the reference's mean",
        )
        if any(line.points for line in by_progress):
            unit = item.progress_unit.replace("_", " ")
            svg = curve_chart(
                by_progress,
                title=f"{label} over {unit}",
                x_label=unit,
                y_label=label,
                target=target,
                band=band,
            )
            parts.append(
                _figure(
                    svg,
                    "The band runs from the smallest mean that passes the convergence "
                    "test to the reference's own mean.",
                )
            )
    return parts


def _metrics(runs: Sequence[Run]) -> list[str]:
    names: dict[str, None] = {}
    for run in runs:
        for evaluation in run.log.evaluations:
            names.update(dict.fromkeys(evaluation.quality))
    return list(names)


def _target(result: ResultSet, bench: BenchmarkRules | None, metric: str) -> float | None:
    targets = result.common("target") or (dict(bench.target) if bench else {})
    if metric in targets:
        return float(targets[metric])
    return float(next(iter(targets.values()))) if len(targets) == 1 else None


def _line(run: Run, metric: str, *, by_progress: bool) -> Line:
    points = run.curve(metric)
    if by_progress:
        with_metric = [e for e in run.log.evaluations if metric in e.quality and run.log.start]
        points = [
            (float(e.progress), value)
            for e, (_, value) in zip(with_metric, points, strict=True)
            if e.progress is not None
        ]
    points = [
        point
        for point in points
        if all(abs(v) < LARGEST and not 0 < abs(v) < 1 / LARGEST for v in point)
    ]
    return Line(run.name, points, "run" if run.log.status == "success" else "failed")


def kept_and_dropped(item: Score) -> str:
    """Draw every run's minutes on one axis.

    Args:
        item: The score.

    Returns:
        HTML; empty without a converged run.
    """
    dropped = [*item.dropped_fast, *(t for t in item.dropped_slow if t is not None)]
    times = []
    for run in item.runs:
        if run.outcome == CONVERGED:
            kind = "dropped" if run.minutes in dropped else "kept"
            times.append((run.name, run.minutes, kind))
    if not times:
        return ""
    caption = (
        "Minutes of every converged run. Grey ones are dropped; the score is the mean of the rest."
    )
    strip = time_strip(times, title="minutes of every run", score=item.minutes)
    return "<h3>Run times</h3>" + _figure(strip, caption)


def where_time_went(result: ResultSet) -> str:
    """Draw each run's seconds by part: initialization, training, waiting for data, evaluation.

    Args:
        result: The runs.

    Returns:
        HTML; empty if neither the records nor the logs have them.
    """
    rows = [(run, _parts(run)) for run in result.runs]
    drawn = [(run, parts) for run, parts in rows if parts and sum(parts.values()) > 0][:MOST_BARS]
    if not drawn:
        return ""
    bars = [
        (f"run {number}", [parts.get(name, 0.0) for name in DRAWN])
        for number, (_, parts) in enumerate(drawn, start=1)
    ]
    svg = stacked_bars(bars, _kinds(DRAWN), title="where the time went", unit="seconds")
    kinds = _key([name for name in DRAWN if any(parts.get(name) for _, parts in drawn)])
    more = f" The first {MOST_BARS} runs of {len(rows)}." if len(rows) > len(drawn) else ""
    return f"<h3>Where the time went</h3>{kinds}" + _figure(
        svg, f"Seconds per run; init is not timed.{more}"
    )


def _kinds(names: Sequence[str]) -> list[tuple[str, int]]:
    """Return each part's name with its colour."""
    return [(name, PARTS.index(name)) for name in names]


def _key(names: Sequence[str]) -> str:
    """Return the key to the colours."""
    spans = (
        f'<span class="key key{kind}"></span>{name.replace("_", " ")}'
        for name, kind in _kinds(names)
    )
    return f'<p class="soft">{"".join(spans)}</p>'


def minutes_by_part(results: Sequence[tuple[str, TimeParts]]) -> str:
    """Draw the minutes of several results by part, the mean of the runs that the score keeps.

    Args:
        results: Name and parts of each, in order from the top.

    Returns:
        HTML; empty without a result.
    """
    if not results:
        return ""
    names = ("start", "train", "eval")
    rows = [(name, [p.start, p.training, p.evaluation or 0.0]) for name, p in results]
    svg = stacked_bars(
        rows, _kinds(names), title="minutes by part", unit="minutes", labels_above=True
    )
    caption = "Minutes of each result: start, training and evaluation; before any scaling factor."
    return _key(names) + _figure(svg, caption)


def _parts(run: Run) -> dict[str, float]:
    seconds = run.fact("seconds")
    if isinstance(seconds, dict):
        parts = {
            k: float(v)
            for k, v in seconds.items()
            if k in PARTS and isinstance(v, int | float) and 0 <= v < LARGEST
        }
        # A record's training time includes the waiting; the bar shows them as two parts.
        waited = min(parts.get("data_wait", 0.0), parts.get("train", 0.0))
        return parts | {"train": parts.get("train", 0.0) - waited}
    log = run.log
    if log.seconds is None:
        return {}
    names = ("start", "train", "eval", "init")
    return {
        name: 60 * (minutes or 0.0)
        for name, minutes in zip(names, parts_of_log(log)[1:], strict=True)
    }
