"""Read checkpoints of both kinds, a file or a folder that several ranks wrote, without shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from callbacks.checkpoint import DirectIO


class CheckpointIO(DirectIO):
    """Lightning's reader and writer for all strategies; FSDP2's own reads and writes folders.

    Args:
        optimizers: Also read a folder's optimizer state, which takes twice the weights' memory.
    """

    def __init__(self, *, optimizers: bool) -> None:
        super().__init__()
        self._optimizers = optimizers

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the content of a checkpoint that was checked before."""
        if not Path(path).is_dir():
            return super().load_checkpoint(path, *args, **kwargs)
        from modules.common.sharded_file import load_sharded  # its imports take a second

        return load_sharded(Path(path), optimizers=self._optimizers)
