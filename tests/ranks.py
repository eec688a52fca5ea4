"""Run a function on several ranks (Gloo, CPU): forks of this process, which need no imports."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

SECONDS = 120.0


def on_ranks(world: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what ``function(*arguments)`` returns on each of ``world`` ranks.

    Args:
        world: Number of ranks.
        folder: An empty directory for the ranks to meet in.
        function: Runs in a process group that a Lightning trainer joins.
        arguments: Handed to it on every rank.
    """
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    common = (world, str(folder), queue, function, arguments)
    processes = [context.Process(target=_rank, args=(rank, *common)) for rank in range(world)]
    for process in processes:
        process.start()
    try:
        answers = dict(queue.get(timeout=SECONDS) for _ in processes)
    finally:
        for process in processes:
            process.join(timeout=5.0)
            process.kill()
    for rank, answer in sorted(answers.items()):
        if isinstance(answer, str) and answer.startswith("Traceback"):
            raise AssertionError(f"rank {rank}: {answer}")
    return [answers[rank] for rank in range(world)]


def _rank(rank: int, world: int, folder: str, queue: Any, function: Any, arguments: Any) -> None:
    # As torchrun names them, so that Lightning joins these processes and starts none.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "t"}
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        meet = f"file://{folder}/meet"
        wait = timedelta(seconds=SECONDS)
        dist.init_process_group("gloo", meet, wait, rank=rank, world_size=world)
        queue.put((rank, function(*arguments)))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        queue.put((rank, traceback.format_exc()))
