"""Loader processes that end or cannot hand over their batches: an error, never a wait without end.

A worker hands over a tensor as a file in ``/dev/shm`` and sends its descriptor through a socket in
``TMPDIR``. Python only prints an error there and drops the batch, for which training then waits.
"""

import os
import shutil
import sys
import tempfile
from multiprocessing import queues
from pathlib import Path
from typing import Any

SHARED_MEMORY = Path("/dev/shm")
SOCKET_NAME = "/pymp-xxxxxxxx/listener-xxxxxxxx"
LONGEST_SOCKET = 107  # bytes of a path, on Linux
SCARCE_BYTES = 2**30  # Docker's default is 64 MiB
ROOM = "more of it (docker run --shm-size 8g), or fewer processes with --data.num_workers"
# Parts of torch's messages about loader processes that ended, or wrote to a full /dev/shm.
ENDED = ("DataLoader worker (pid", "unable to allocate shared memory", "unable to mmap", "</torch_")


def send_errors_instead_of_batches() -> None:
    """Let this loader process send the error where a batch cannot be handed over."""
    queues.Queue._on_queue_feeder_error = _send_error  # type: ignore[attr-defined]


def _send_error(queue: Any, error: Exception, item: Any) -> None:
    """Put an error in the place of a batch: multiprocessing's hook, called in a thread."""
    from torch._utils import ExceptionWrapper

    hint = socket_problem() or f"if {SHARED_MEMORY} is full: {ROOM}"
    text = f"a loader process cannot hand over its batches ({error}); {hint}"
    queue.put((item[0], ExceptionWrapper((ValueError, ValueError(text), None), "in a loader")))


def failure(message: str) -> str | None:
    """Return one line for torch's error about a loader process, ``None`` for any other error."""
    if not any(part in message for part in ENDED):
        return None
    what = next(line for line in message.splitlines() if any(part in line for part in ENDED))
    what = what.partition(". It is possible")[0].rstrip(". ")
    return (
        f"a loader process ended or could not write ({what}): memory or {SHARED_MEMORY} is most "
        f"likely full; give it {ROOM}"
    )


def socket_problem() -> str | None:
    """Return one line if the path of TMPDIR is too long for the sockets of loader processes."""
    folder = tempfile.gettempdir()
    if sys.platform != "linux" or len(os.fsencode(folder + SOCKET_NAME)) <= LONGEST_SOCKET:
        return None
    longest = LONGEST_SOCKET - len(SOCKET_NAME)
    return (
        f"TMPDIR={folder} is too long for the sockets of loader processes: set TMPDIR to a "
        f"directory of at most {longest} characters, such as /tmp"
    )


def memory_note() -> str | None:
    """Return one line if there is little shared memory for the batches of loader processes."""
    if not SHARED_MEMORY.is_dir():
        return None
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free >= SCARCE_BYTES:
        return None
    return (
        f"{SHARED_MEMORY} has {free / 2**20:,.0f} MiB free, through which loader processes hand "
        f"over their batches; they may need {ROOM}"
    )
