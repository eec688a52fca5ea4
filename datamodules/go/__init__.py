"""Mini Go's environment: rules, features, search and games, compiled with numba.

The one part of ``datamodules`` that ``modules/minigo.py`` may import: the data comes out of it.
"""

import hashlib
import os
from pathlib import Path

import numba


def _own_cache() -> None:
    """Give compiled code a folder per state of these sources.

    numba looks only at the file of a function itself, so code compiled into it from another file
    would stay old when that file changes.
    """
    here = Path(__file__).parent
    if os.environ.get("NUMBA_CACHE_DIR") or not os.access(here, os.W_OK):
        return
    text = b"".join(path.read_bytes() for path in sorted(here.glob("*.py")))
    folder = here / "__pycache__" / f"numba-{hashlib.sha256(text).hexdigest()[:12]}"
    numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]


_own_cache()
