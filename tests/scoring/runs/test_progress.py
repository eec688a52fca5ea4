"""What is said while logs are read: one line on a terminal, now and then elsewhere."""

import io

import pytest

from scoring.runs import progress
from scoring.runs.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def shown(monkeypatch, stream, clock, step, total=0):
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with Progress("reading logs", total) as task:
        for done in range(1, 4):
            clock[0] += step
            task.show(done)
    return stream.getvalue()


def test_a_file_gets_a_line_now_and_then(monkeypatch, clock):
    assert shown(monkeypatch, io.StringIO(), clock, 1.0) == ""
    assert shown(monkeypatch, io.StringIO(), clock, 15.0, 3) == "reading logs: 2 of 3\n"


def test_a_terminal_gets_one_line_that_is_erased(monkeypatch, clock):
    frames = shown(monkeypatch, Terminal(), clock, 0.06).split("\r")
    assert frames == ["", "reading logs ...", "reading logs: 2 ...", "\x1b[2K"]
