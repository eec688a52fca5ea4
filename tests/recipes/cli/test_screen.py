"""Lines fit a terminal and stay whole in a pipe."""

import io

from recipes.cli.doctor import Finding
from recipes.cli.screen import wrap_to_terminal


class Terminal(io.StringIO):
    """Standard output as a terminal."""

    def isatty(self):
        return True


def test_a_pipe_gets_one_line(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert wrap_to_terminal("word " * 60) == "word " * 60
    assert str(Finding("note", "word " * 60)).count("\n") == 0


def test_a_terminal_gets_lines_that_fit_and_whole_paths(monkeypatch):
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "80")
    path = "/a/long-path/" + "x-" * 45
    lines = wrap_to_terminal(f"{'word ' * 30}see {path}\nanother line").splitlines()
    assert [line for line in lines if len(line) >= 80] == [path]
    assert lines[-1] == "another line"
    lines = str(Finding("lacks", "word " * 60)).splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) < 80
    assert all(line.startswith(" " * 9) for line in lines[1:])


def test_errors_and_output_are_judged_apart(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setenv("COLUMNS", "40")
    assert "\n" in wrap_to_terminal("word " * 20, stream=Terminal())
    assert "\n" not in wrap_to_terminal("word " * 20)


def test_control_characters_of_a_file_name_cannot_steer_the_terminal():
    assert wrap_to_terminal("case \x1b[2J\x07\x9b\n\té") == "case \\x1b[2J\\x07\\x9b\n\té"
