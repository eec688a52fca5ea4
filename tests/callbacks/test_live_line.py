"""A terminal's last line: it moves by itself, and what others print stands above it."""

import io
import os
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from callbacks import live_line
from callbacks.live_line import ERASE_LINE, LiveLine, LogPace, human_time


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


@pytest.mark.parametrize(("stream", "kind"), [(Terminal, "dumb"), (io.StringIO, "xterm")])
def test_a_file_or_a_dumb_terminal_gets_plain_lines_after_growing_silences(
    stream, kind, live, monkeypatch
):
    monkeypatch.setenv("TERM", kind)
    log = stream()
    monkeypatch.setattr("sys.stderr", log)
    time_of_day = iter(range(10**9))  # the thread's clock goes on a second whenever it looks
    clock = SimpleNamespace(monotonic=lambda: next(time_of_day))
    monkeypatch.setattr(live_line, "time", clock)
    live.start()
    assert sys.stderr is log
    live.show(lambda: "at work, 3 of 7")
    assert wait_for(lambda: log.getvalue().count("\n") >= 4)
    live.stop()
    assert set(log.getvalue().splitlines()) == {"at work, 3 of 7"}
    assert log.getvalue().count("\n") < 8


def due(pace, text, seconds):
    """The seconds at which a log gets a line."""
    return [now for now in seconds if pace.is_due(text(now), now)]


def test_a_log_gets_a_line_after_10_20_40_seconds_and_then_every_ten_minutes():
    times = due(LogPace(0.0), lambda now: f"writing shards, {now} of 9000", range(2000))
    assert times == [10, 20, 40, 80, 160, 320, 640, 1240, 1840]


def test_a_new_stage_is_soon_told_and_short_ones_are_not_told_each():
    pace = LogPace(0.0)
    assert due(pace, lambda now: "reading", range(100)) == [10, 20, 40, 80]
    assert due(pace, lambda now: f"checking, {now} of 200", range(100, 145)) == [100, 110, 120, 140]
    pace = LogPace(0.0)
    assert due(pace, lambda now: f"stage {'abcdefghijkl'[now // 3]}", range(36)) == [10, 20, 30]


def test_nothing_to_say_is_no_line():
    assert due(LogPace(0.0), lambda now: "", range(100)) == []


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
