"""One runnable script per benchmark, and the command line they share."""

from recipes.cli.load import load_run

__all__ = ["load_run"]
