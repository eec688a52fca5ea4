"""Many independent jobs over processes, as one stage, with one line per bad item."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, TypeVar

from datamodules.common.progress import is_watched, stage

Item = TypeVar("Item")
Result = TypeVar("Result")
# Effect of Ctrl-C on a job in a worker: none where it is ignored, as in the background.
_ON_INTERRUPT: Any = signal.getsignal(signal.SIGINT)


def outcomes(
    job: Callable[[Item], Result],
    items: Sequence[Item],
    processes: int,
    title: str,
    *,
    show_progress: bool,
) -> Iterator[Result | str]:
    """Run a job for each item; a ValueError counts as an outcome, any other error ends the loop.

    Args:
        job: Called with one item; a module-level function or a ``partial`` of one.
        items: The items.
        processes: Worker processes; 1 works in this process, in order.
        title: The stage, such as ``preprocessing``.
        show_progress: Draw a progress bar on standard error, unless a command shows the stage.

    Yields:
        Each item's result, or the text of its ValueError, in the order of completion.

    Raises:
        ValueError: If a worker was killed, most likely for lack of memory.
    """
    results = _serial(job, items) if processes == 1 else _parallel(job, items, processes)
    with (
        stage(title, len(items), workers=processes) as now,
        _bar(title, len(items), show=show_progress and bool(items)) as advance,
    ):
        for result in results:
            now.done += 1
            advance()
            yield result


@contextmanager
def _bar(title: str, total: int, *, show: bool) -> Iterator[Callable[[], None]]:
    """Draw a bar where no command shows the stage; its time passes while an item is in work."""
    if not show or is_watched():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{title} ({total})", total=total)
        yield lambda: bar.advance(task)


def processes_for(num_items: int, worker_bytes: int) -> int:
    """Return how many workers the cores and the memory allow.

    Args:
        num_items: Number of jobs.
        worker_bytes: Most memory that one worker needs.

    Returns:
        At least 1.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(os.cpu_count() or 1, num_items, memory // worker_bytes))


def _serial(job: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result | str]:
    for item in items:
        try:
            yield job(item)
        except ValueError as error:
            yield str(error)


def _parallel(
    job: Callable[[Item], Result], items: Sequence[Item], processes: int
) -> Iterator[Result | str]:
    # spawn: a forked child of a process with torch threads can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _start_worker, (os.getpid(),))
    try:
        with _main_script_left_out(), _one_thread(), _interrupt_held_back():
            # No list of our own: it would keep every result until the end.
            completed = as_completed([pool.submit(_work, job, item) for item in items])
        while (future := next(completed, None)) is not None:
            try:
                yield future.result()
            except ValueError as error:
                yield str(error)
            del future
    except BrokenProcessPool:
        raise ValueError(
            "a preprocessing process was killed, most likely for lack of memory; finished work is "
            f"kept: run again with fewer than {processes} processes (--data.prepare_processes)"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _main_script_left_out() -> Iterator[None]:
    """Keep new processes from importing the script that was started: a job never needs it.

    It takes seconds for a recipe; and a user's script without ``if __name__ == "__main__"`` would
    prepare its data again in each of them, waiting forever for the lock that we hold.
    """
    main = vars(sys.modules["__main__"])
    names: tuple[str, ...] = ("__file__", "__spec__")
    kept = {name: main.pop(name) for name in names if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(kept)


@contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Start processes with Ctrl-C blocked: until they ignore it, it would print a traceback."""
    resource_tracker.ensure_running()  # it unblocks the signal when it starts
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _work(job: Callable[[Item], Result], item: Item) -> Result:
    """Run a job in a worker: Ctrl-C ends it. An idle worker leaves that to the main process."""
    signal.signal(signal.SIGINT, _ON_INTERRUPT)
    try:
        return job(item)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let new processes compute with one thread each, without importing torch to set it."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _start_worker(parent: int) -> None:
    """End when the parent is killed; a pool's workers would wait forever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])

    def watch() -> None:
        pause = threading.Event()
        while os.getppid() == parent:
            pause.wait(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
