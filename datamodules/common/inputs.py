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


def input_text(source: str, what: str) -> str:
    """Return the UTF-8 text of an input file, without a byte order mark.

    Args:
        source: The word that the user gave.
        what: Kind of file that is needed.

    Returns:
        The text.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is a directory, empty or not UTF-8.
    """
    try:
        return input_file(source, what).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: is not UTF-8 text at byte {error.start}") from error


def text_name(source: str) -> str:
    """Return what to call a text in a message: its file, or ``the text`` where it was typed."""
    return source if os.path.isfile(source) else "the text"


def without_remedy(error: ValueError) -> ValueError:
    """Return an error of a data set's reader without its hint on how to get that file again."""
    return ValueError(str(error).partition("; ")[0])


def write_json(path: Path, content: Any) -> None:
    """Write a prediction as JSON, a line per entry of the outermost lists."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
