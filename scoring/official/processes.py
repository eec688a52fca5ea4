"""Processes that run the official tools: one per request, or used again for further logs."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from subprocess import PIPE, Popen
from threading import Timer
from typing import Any

COMMAND = (sys.executable, "-m", "scoring.official.worker")


class ToolProcess:
    """One process of ``scoring.official.worker``: a line of JSON in, a line out."""

    def __init__(self) -> None:
        self.late = False
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (lives as long as the process)
        self.process = Popen(
            COMMAND, stdin=PIPE, stdout=PIPE, stderr=self.errors, text=True, env=_environment()
        )

    def ask(self, request: dict[str, Any], seconds: float) -> tuple[Any, str]:
        """Send one request; return its answer and all logged text.

        ValueError if the process ended before it answered, or had to after ``seconds``.
        """
        timer = Timer(seconds, self._give_up)
        timer.start()
        try:
            text = self._exchange(json.dumps(request))
        finally:
            timer.cancel()
        if not text:
            self.close()
            self.errors.seek(0)
        return _reply(text, "" if text else self.errors.read(), seconds if self.late else None)

    def _give_up(self) -> None:
        self.late = True
        self.process.kill()

    def _exchange(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except OSError:  # it ended before it read anything
            return ""
        return self.process.stdout.readline()

    def close(self) -> None:
        """End the process, which stops at the end of its input."""
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # what it never read cannot be flushed
                pass
        self.process.wait()


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [inherited])])}


def _reply(text: str, errors: str, too_long: float | None) -> tuple[Any, str]:
    if too_long is not None:
        raise ValueError(f"the official checker took longer than {too_long} s; pass fewer logs")
    try:
        reply = json.loads(text)
    except ValueError:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"the official checker failed to run: {last}") from None
    return reply["answer"], reply["text"]


_idle: list[ToolProcess] = []


def ask(request: dict[str, Any], seconds: float, *, keep: bool = False) -> tuple[Any, str]:
    """Let an official tool answer one request.

    Args:
        request: See ``scoring.official.worker``.
        seconds: The longest that it may take.
        keep: Whether the process may answer further requests; for tools that keep no state.

    Returns:
        The answer, and all that the tool logged.

    Raises:
        ValueError: If the tool could not be run, or took too long.
    """
    if not keep:
        return _ask_once(json.dumps(request), seconds)
    process = _waiting()
    answer = process.ask(request, seconds)
    _idle.append(process)
    return answer


def _ask_once(line: str, seconds: float) -> tuple[Any, str]:
    try:
        done = subprocess.run(
            COMMAND,
            input=line,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _reply("", "", seconds)
    return _reply(done.stdout, done.stderr, None)


def _waiting() -> ToolProcess:
    try:  # another thread may take the last one
        return _idle.pop()
    except IndexError:
        return ToolProcess()


@atexit.register
def close_all() -> None:
    """End the processes that wait for requests."""
    while _idle:
        _idle.pop().close()
