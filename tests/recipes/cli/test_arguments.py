"""Arguments are split once, and every command takes a configuration in every spelling."""

import pytest

from recipes.cli.arguments import Arguments
from recipes.cli.data import data_module
from recipes.cli.parser import RecipeCLI
from recipes.cli.presets import with_default_preset
from recipes.cli.resume import with_run_config
from recipes.unet3d import BENCHMARK

SPELLINGS = [
    ["-c", "{}"], ["-c={}"], ["-c{}"], ["--config", "{}"], ["--config={}"],
]  # fmt: skip


@pytest.fixture
def preset(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("data:\n  batch_size: 5\n")
    return path


@pytest.mark.parametrize("spelling", SPELLINGS, ids="".join)
@pytest.mark.parametrize("command", ["fit", "validate", "speed", "prepare", "doctor"])
def test_every_command_takes_a_configuration_in_every_spelling(command, spelling, preset, capsys):
    arguments = Arguments([word.format(preset) for word in spelling])
    assert arguments.values("--config") == [str(preset)]
    if command in ("prepare", "doctor"):
        assert data_module(BENCHMARK, command, arguments).data.batch_size == 5
        return
    chosen = with_default_preset(BENCHMARK, command, arguments)
    assert chosen.words == arguments.words, "a named configuration takes the demo preset's place"
    assert RecipeCLI(BENCHMARK, command, chosen, build=False).config.data.batch_size == 5
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("spelling", SPELLINGS, ids="".join)
def test_a_named_configuration_settles_a_lone_checkpoints_settings(spelling, tmp_path, capsys):
    checkpoint = tmp_path / "copied.ckpt"
    checkpoint.touch()
    words = ["--ckpt_path", str(checkpoint), *(word.format("x.yaml") for word in spelling)]
    assert with_run_config(Arguments(words)).words == tuple(words)
    assert capsys.readouterr().out == ""


def test_options_have_their_last_value():
    arguments = Arguments(["--a", "1", "--b=2", "--a=3", "--debug", "stray", "-c", "x", "--c"])
    assert arguments.value("--a") == "3"
    assert arguments.values("--a") == ["1", "3"]
    assert arguments.value("--c") is None
    assert "--c" in arguments
    assert "--d" not in arguments
    assert arguments.value("--config") == "x"
    assert arguments.without("--a").words == ("--b=2", "--debug", "stray", "-c", "x", "--c")
    assert arguments.without("--debug").words == tuple(w for w in arguments.words if w != "--debug")


def test_a_negative_number_is_a_value():
    assert Arguments(["--a", "-1", "--b", "-c", "x"]).value("--a") == "-1"
    assert Arguments(["--b", "-c", "x"]).value("--b") is None
