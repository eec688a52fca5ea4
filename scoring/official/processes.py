"""Processes that run the official tools: started when needed, and used again for further logs."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Timer
from typing import Any


class ToolProcess:
    """One process of ``scoring.official.worker``: a line of JSON in, a line out."""

    def __init__(self) -> None:
        self.late = False
        root = str(Path(__file__).resolve().parents[2])
        inherited = os.environ.get("PYTHONPATH")
        paths = os.pathsep.join([root, inherited] if inherited else [root])
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (lives as long as the process)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scoring.official.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )

    def ask(self, request: dict[str, Any], seconds: float) -> tuple[Any, str]:
        """Send one request; return its answer and all logged text.

        ValueError if the process ended before it answered, or had to after ``seconds``.
        """
        timer = Timer(seconds, self._give_up)
        timer.start()
        try:
            reply = json.loads(self._exchange(json.dumps(request)))
        except ValueError:
            self.close()
            raise ValueError(
                f"the official checker took longer than {seconds} s; pass fewer logs"
                if self.late
                else f"the official checker failed to run: {self._last_words()}"
            ) from None
        finally:
            timer.cancel()
        return reply["answer"], reply["text"]

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

    def _last_words(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return lines[-1] if lines else "no message"

    def close(self) -> None:
        """End the process, which stops at the end of its input."""
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # what it never read cannot be flushed
                pass
        self.process.wait()


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
    process = _waiting() if keep else ToolProcess()
    answer = process.ask(request, seconds)
    if keep:
        _idle.append(process)
    else:
        process.close()
    return answer


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
