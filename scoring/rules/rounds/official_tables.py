"""Tables of the installed ``mlperf_logging`` package that the round files do not repeat."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path


def rcp_file(ruleset: str, benchmark: str) -> Path | None:
    """Find the reference points in ``mlperf_logging``, without importing it.

    Args:
        ruleset: Such as ``1.0.0``.
        benchmark: mllog name.

    Returns:
        Path of the JSON file, or None if the package or the file is missing.
    """
    folder = _package()
    path = folder and folder / "rcp_checker" / f"training_{ruleset}" / f"rcps_{benchmark}.json"
    return path if path and path.is_file() else None


def runs_per_result(benchmark: str) -> int:
    """Return how many runs make one result.

    Args:
        benchmark: mllog name.

    Returns:
        The package's count, which is the same in every round.

    Raises:
        ValueError: If the package does not know the benchmark.
    """
    from mlperf_logging.benchmark_meta import get_result_file_counts

    counts: dict[str, int] = get_result_file_counts("training")
    if benchmark not in counts:
        raise ValueError(f"the installed mlperf_logging does not know {benchmark!r}; upgrade it")
    return counts[benchmark]


@cache
def _package() -> Path | None:
    spec = find_spec("mlperf_logging")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) if places else None
