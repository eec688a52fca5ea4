"""Inputs of the command ``predict``: files that belong to no data set."""

import json
import os
from pathlib import Path
from typing import Any


def input_file(source: str, what: str) -> Path:
    """Return the path of an input file.

    Args:
        source: The word that the user gave.
        what: Kind of file that is needed, such as ``a CT volume (.nii or .nii.gz)``.

    Returns:
        The path; it is a file with some content.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is a directory or empty.
    """
    path = Path(source)
    if os.path.isdir(path):
        raise ValueError(f"{source}: is a directory; pass {what}, or several with DIR/*")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{source}: no such file; needed is {what}")
    if not path.stat().st_size:
        raise ValueError(f"{source}: empty file; needed is {what}")
    return path


def without_remedy(error: ValueError) -> ValueError:
    """Return an error of a data set's reader without its hint on how to get that file again."""
    return ValueError(str(error).partition("; ")[0])


def write_json(path: Path, content: Any) -> None:
    """Write a prediction as JSON, a line per entry of the outermost lists."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
