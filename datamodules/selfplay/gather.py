"""Gather results from all ranks, of which one may fail."""

from collections.abc import Callable
from typing import Any

import torch


def gather_from_all_ranks(function: Callable[[], Any]) -> list[Any]:
    """Call a function on every rank and gather the results; one failure is raised on all ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [function()]
    failure: Exception | None = None
    result: Any = None
    try:
        result = function()
    except Exception as error:  # the other ranks would wait forever
        failure = error
    message = None if failure is None else f"{type(failure).__name__}: {failure}"
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, (result, message))
    for rank, (_, text) in enumerate(parts):
        if text is not None:
            raise RuntimeError(f"self-play failed on rank {rank}: {text}") from failure
    return [part for part, _ in parts]
