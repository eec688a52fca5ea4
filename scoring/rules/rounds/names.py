"""Which benchmark a name means: a few names changed, and one came to mean another benchmark."""

from __future__ import annotations

from scoring.rules.rounds import load_round, round_names

# Name in the logs -> (last round, or None for all, what it is called here). A benchmark that kept
# its name from first to last round is not listed. dlrm, dlrm_dcnv2 and dlrmv4 are three benchmarks.
RENAMED: dict[str, list[tuple[str | None, str]]] = {
    "ssd": [("v1.1", "ssd"), (None, "retinanet")],
    "gnn": [(None, "rgat")],
}
# Words for a person, where a name alone does not say which network is meant.
NETWORKS = {
    "ssd": "SSD-ResNet34",
    "retinanet": "RetinaNet",
    "dlrm": "DLRM",
    "dlrm_dcnv2": "DLRM-DCNv2",
    "dlrmv4": "DLRM v4",
}


def task_of(benchmark: str, round_name: str) -> str:
    """Return a name that means the same benchmark in every round.

    Args:
        benchmark: mllog name in that round, such as ``ssd``.
        round_name: Such as ``v3.0``.

    Returns:
        Such as ``retinanet``; the name itself where it never changed.
    """
    order = round_names()
    for last, task in RENAMED.get(benchmark, []):
        if last is None or order.index(round_name) <= order.index(last):
            return task
    return benchmark


def name_in(task: str, round_name: str) -> str | None:
    """Return a benchmark's mllog name in a round.

    Args:
        task: As ``task_of`` gives it.
        round_name: Such as ``v3.0``.

    Returns:
        Such as ``ssd``; None if the round does not have the benchmark.
    """
    benchmarks = load_round(round_name).benchmarks
    return next((name for name in benchmarks if task_of(name, round_name) == task), None)


def all_benchmarks() -> frozenset[str]:
    """Return the mllog names of every benchmark in any round.

    Returns:
        Such as ``{"bert", "dlrm", ...}``.
    """
    return frozenset().union(*(load_round(name).benchmarks for name in round_names()))
