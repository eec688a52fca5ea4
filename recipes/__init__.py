"""One runnable script per benchmark, and the command line they share."""

import modules  # noqa: F401  # lets imports find old paths such as recipes._benchmark
from recipes.cli.load import load_run

__all__ = ["load_run"]
