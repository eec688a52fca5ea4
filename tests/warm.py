"""Run command lines in forks of one process that has imported torch and Lightning.

The imports take 9 s of processor time in a new process, the fork 0.05 s. A fork has its own
process id, start time, arguments, directory, environment and output; it imports the recipe and its
module and data module itself. What is read at import (``OMP_NUM_THREADS``) is the test session's.
Tests of imports, signals to the process or several ranks start a real process instead.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
PRELOADED = (
    "torch._dynamo",
    "torchaudio",
    "torchmetrics.detection",
    "torchvision",
    "matplotlib.pyplot",
    "monai.networks.nets",
    "numba",
    "scipy.stats",
    "sentencepiece",
    "recipes.cli.train",
    "recipes.cli.data",
    "recipes.speed.command",
)


class WarmProcess:
    """The parent of all forks; started on the first call."""

    def __init__(self, folder: Path, preloaded: Sequence[str] = PRELOADED) -> None:
        """Keep output in ``folder``; fork what has imported ``preloaded``."""
        self._folder, self._preloaded = folder, preloaded
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection

    def run(
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path = ROOT,
        timeout: float = 300,
        input: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python *args`` as ``subprocess.run`` does with ``capture_output`` and ``text``.

        Args:
            args: A script and its arguments, ``-m MODULE ...`` or ``-c CODE ...``.
            env: The environment; this process's by default.
            cwd: The directory to run in.
            timeout: Seconds after which the fork is killed.
            input: What it reads from standard input.
        """
        (self._folder / "in").write_text(input)
        request = {"args": list(args), "env": dict(env or os.environ), "cwd": str(cwd)}
        if self._process is None:
            self._start()
        self._pipe.send({**request, "folder": str(self._folder)})
        try:
            pid = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise RuntimeError((self._folder / "imports").read_text()) from error
        in_time = self._pipe.poll(timeout)
        if not in_time:
            os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(self._pipe.recv())
        # A new process would have shown what the imports wrote too.
        out, imports, err = ((self._folder / x).read_text() for x in ("out", "imports", "err"))
        if not in_time:
            raise subprocess.TimeoutExpired(request["args"], timeout, out, imports + err)
        return subprocess.CompletedProcess(request["args"], status, out, imports + err)

    def close(self) -> None:
        """End the process; it has no fork left."""
        if self._process is not None:
            self._pipe.close()
            self._process.wait()

    def _start(self) -> None:
        self._pipe, theirs = Pipe()
        number = theirs.fileno()
        command = [sys.executable, "-m", "tests.warm", str(number), *self._preloaded]
        with (self._folder / "imports").open("w") as file:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdout=file, stderr=file, pass_fds=[number]
            )
        theirs.close()


def serve(pipe: Connection) -> dict[str, Any] | None:
    """Fork for every request.

    Returns:
        The request in the fork, ``None`` in the parent at the end.
    """
    for request in _requests(pipe):
        pid = os.fork()
        if not pid:
            pipe.close()
            return request
        pipe.send(pid)
        pipe.send(os.waitpid(pid, 0)[1])
    return None


def _requests(pipe: Connection) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(EOFError):
        while True:
            yield pipe.recv()


def become(args: Sequence[str], env: Mapping[str, str], cwd: str, folder: str) -> NoReturn:
    """Run a command line in this process as if it had been started with it."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for descriptor, name in enumerate(("in", "out", "err")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if descriptor else os.O_RDONLY
        file = os.open(Path(folder, name), flags)
        os.dup2(file, descriptor)
        os.close(file)
    status: Any = None
    try:
        _run(args)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    _leave(status)


def _run(args: Sequence[str]) -> None:
    kind, *rest = args
    if kind == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv, sys.path[0] = rest, os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = list(args), str(Path(kind).resolve().parent)
        runpy.run_path(kind, run_name="__main__")


def _leave(status: Any) -> NoReturn:
    """End as the interpreter does, but for taking its modules apart (2 s of processor time)."""
    if status is not None and not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


if __name__ == "__main__":
    for module in sys.argv[2:]:
        importlib.import_module(module)
    # A fork keeps one thread only: a lock that another one held would stay closed in it.
    threads = Path("/proc/self/task")
    assert not threads.exists() or len(list(threads.iterdir())) == 1, "an import started threads"
    if request := serve(Connection(int(sys.argv[1]))):
        become(**request)
    _leave(0)
