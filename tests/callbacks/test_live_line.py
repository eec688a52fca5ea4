"""A terminal's last line: it moves by itself, and what others print stands above it."""

import io
import os
import sys
import threading
import time

import pytest

from callbacks import live_line
from callbacks.live_line import ERASE_LINE, LiveLine, human_time


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (8.26, "8.3 s"), (59.96, "1:00"), (125, "2:05"), (10925.4, "3:02:05")],
)
def test_human_time(seconds, text):
    assert human_time(seconds) == text


class Terminal(io.StringIO):
    """Collects what a terminal would get."""

    def isatty(self):
        return True


@pytest.fixture
def live(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(live_line, "SECONDS_BETWEEN_PAINTS", 0.01)
    line = LiveLine()
    yield line
    line.stop()


@pytest.fixture
def start(live, monkeypatch):
    """Start the line on a terminal, and return that."""

    def begin():  # in the test itself: pytest sets its own streams after the fixtures
        terminal = Terminal()
        monkeypatch.setattr("sys.stdout", terminal)
        monkeypatch.setattr("sys.stderr", terminal)
        live.start()
        return terminal

    return begin


def wait_for(condition):
    for _ in range(500):
        if condition():
            return True
        time.sleep(0.01)
    return False


def visible(text):
    """What a terminal shows in the end, line by line."""
    return [line.rpartition(ERASE_LINE)[2] for line in text.split("\n")]


def test_it_moves_while_the_main_thread_does_something_else(start, live):
    screen = start()
    live.show("loading PyTorch")
    assert screen.getvalue() == f"{ERASE_LINE}loading PyTorch ... 0.0 s"
    assert wait_for(lambda: "loading PyTorch ... 0.1 s" in screen.getvalue())


def test_no_line_is_wider_than_the_terminal(start, live):
    screen = start()
    live.show(lambda: "x" * 100)
    assert screen.getvalue() == ERASE_LINE + "x" * 39


def test_an_unchanged_line_is_not_written_again(start, live):
    screen = start()
    live.show(lambda: "still here")
    time.sleep(0.05)
    assert screen.getvalue().count("still here") == 1


def test_what_others_print_stands_above_it(start, live):
    screen = start()
    live.show(lambda: "at work")
    print("a result")
    print("a warning", file=sys.stderr)
    assert wait_for(lambda: screen.getvalue().endswith("at work"))
    live.stop()
    assert visible(screen.getvalue()) == ["a result", "a warning", ""]


def test_it_waits_for_the_end_of_half_a_line(start, live):
    screen = start()
    live.show(lambda: "at work")
    sys.stdout.write("50 ")
    time.sleep(0.05)
    assert screen.getvalue().endswith("50 ")
    sys.stdout.write("percent\n")
    assert wait_for(lambda: screen.getvalue().endswith("at work"))


def test_the_end_gives_the_streams_back_and_leaves_an_empty_line(start, live):
    screen = start()
    live.show("at work")
    assert sys.stdout is not screen
    live.stop()
    assert sys.stdout is screen
    assert sys.stderr is screen
    assert screen.getvalue().endswith(ERASE_LINE)
    live.show("after the end")
    assert "after the end" not in screen.getvalue()


@pytest.mark.parametrize(("stream", "kind"), [(Terminal(), "dumb"), (io.StringIO(), "xterm")])
def test_a_file_or_a_dumb_terminal_gets_nothing(stream, kind, live, monkeypatch):
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setattr("sys.stderr", stream)
    live.start()
    live.show("at work")
    assert sys.stderr is stream
    assert stream.getvalue() == ""


def test_a_forked_process_prints_although_the_line_is_being_painted(start, live):
    start()
    painting, forked = threading.Event(), threading.Event()

    def slow():
        painting.set()
        forked.wait(0.3)  # a fork meanwhile would take this thread's lock along
        return "at work"

    live.show("at work")
    live._text = slow
    assert painting.wait(5)
    child = os.fork()
    if child == 0:
        print("from the child")
        os._exit(7)
    forked.set()
    assert wait_for(lambda: os.waitpid(child, os.WNOHANG)[0] == child)
    live._text = lambda: "still at work"
    assert wait_for(lambda: sys.stdout.getvalue().endswith("still at work"))
