"""Lines fit a terminal and stay whole in a pipe; a terminal sees what a run does."""

import io
import re

from callbacks.live_line import ERASE_LINE
from recipes.cli.doctor import Finding
from recipes.cli.main import run
from recipes.cli.screen import wrap_to_terminal
from recipes.unet3d import BENCHMARK


class Terminal(io.StringIO):
    """Collects what a terminal would get."""

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


FAST = ["--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"]
SAID = (
    "loading PyTorch ...",
    "setting up the run ...",
    "preparing the demo data ...",
    "Demo on generated data",
    "warming up on synthetic batches ...",
    "evaluation batch 0/1",
    "epoch 1 | mean_dice ",
    "writing the run's files",
    "unet3d demo: target not reached, ",
)


def test_a_terminal_is_told_what_a_run_does_from_its_beginning_to_its_verdict(
    tmp_path, monkeypatch
):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert run(BENCHMARK, ["fit", *FAST, "--output_root", str(tmp_path)]) == 3
    text = terminal.getvalue()
    places = [text.find(words) for words in SAID]
    assert -1 not in places, dict(zip(SAID, places, strict=True))
    assert places == sorted(places)
    # What stays: the lines, without what was erased.
    stays = [line.rpartition(ERASE_LINE)[2] for line in text.split("\n")]
    assert not [line for line in stays if "..." in line or "evaluation batch" in line]
    assert any(line.startswith("unet3d demo: target not reached") for line in stays)


def test_a_log_file_gets_no_control_characters(tmp_path, capsys):
    assert run(BENCHMARK, ["fit", *FAST, "--output_root", str(tmp_path)]) == 3
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3  # the network, that it is a demo, and the verdict
    assert out.replace("\n", "").isprintable()
    assert re.fullmatch(r"epoch 1 \| mean_dice \d\.\d{4} \(>= 0\.908\) \| \S+ s\n", err)
