"""Mini Go's environment: rules, features, search and games, compiled with numba.

The only part of ``datamodules`` that ``modules/minigo`` may import, because self-play is the data.
"""

import hashlib
import os
from pathlib import Path

import numba

from datamodules.common.cache import cache_dir


def _own_cache() -> None:
    """Give compiled code a cache directory per version of these sources.

    numba watches only the file of the function itself, so code inlined from another file would stay
    stale when that file changes.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    here = Path(__file__).parent
    base = here / "__pycache__" if os.access(here, os.W_OK) else cache_dir()
    text = b"".join(path.read_bytes() for path in sorted(here.glob("*.py")))
    folder = base / f"numba-{hashlib.sha256(text).hexdigest()[:12]}"
    numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]


def is_compiled() -> bool:
    """Return whether any process has compiled the engine before."""
    folder = Path(numba.config.CACHE_DIR)  # type: ignore[attr-defined]
    return any(folder.glob("**/*finish_match_moves*.nbi"))


_own_cache()
