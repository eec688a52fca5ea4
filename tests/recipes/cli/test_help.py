"""``--help`` is a data sheet of at most 150 lines; ``--help-all`` lists every flag."""

import re
from pathlib import Path

import pytest

from recipes.cli import jsonargparse_private
from recipes.cli.arguments import Arguments
from recipes.cli.data import data_module
from recipes.cli.help import GROUPS, TEXTS
from recipes.cli.main import run
from recipes.cli.parser import RecipeCLI
from tests.recipes.test_every_recipe import STEMS, benchmark


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def page(stem, command, flag, capsys):
    with pytest.raises(SystemExit, match="0"):
        run(benchmark(stem), [command, flag])
    return capsys.readouterr().out.rstrip("\n").splitlines()


@pytest.mark.parametrize("command", ["fit", "validate", "speed"])
@pytest.mark.parametrize("stem", STEMS)
def test_help_is_short_and_has_every_group(stem, command, capsys):
    lines = page(stem, command, "--help", capsys)
    assert len(lines) <= 150
    assert max(map(len, lines)) < 80
    assert lines[0] == f"usage: python recipes/{stem}.py {command} [--flag VALUE ...]"
    groups = [g for g in GROUPS if command != "speed" or g not in ("checkpoint", "submission")]
    assert [g[0] for line in lines if (g := re.match(r"\w+(?=: )", line))][1:] == groups


@pytest.mark.parametrize("stem", STEMS)
def test_help_has_every_setting_of_the_benchmark_with_its_closed_default(stem, capsys):
    text = "\n".join(page(stem, "fit", "--help", capsys))
    cli = RecipeCLI(benchmark(stem), "fit", ["--data.root", "DIR"], build=False)
    defaults = cli.parser.get_defaults()
    for group in GROUPS[1:]:
        for name, value in vars(defaults[group]).items():
            shown = re.search(rf"^  --{group}\.{name} (\S+)", text, re.MULTILINE)
            assert shown or (group == "trainer" and f"trainer.{name}" not in TEXTS), name
            if shown and isinstance(value, int | float | str):
                assert shown[1].partition("|")[0] == str(value).lower(), name
    for name in ("seed_everything", "output_root", "ckpt_path", "config", "print_config"):
        assert f"\n  --{name} " in text


def test_texts_of_our_own_belong_to_flags():
    parser = RecipeCLI(benchmark("unet3d"), "fit", ["--data.root", "DIR"], build=False).parser
    flags = jsonargparse_private.long_flags(parser)
    flags = {flag.removeprefix("--").replace("-", "_") for flag in flags}
    assert set(TEXTS) <= flags


@pytest.mark.parametrize("command", ["fit", "speed"])
def test_help_all_is_complete(command, capsys):
    text = " ".join(page("unet3d", command, "--help-all", capsys))
    parser = RecipeCLI(benchmark("unet3d"), command, ["--data.root", "DIR"], build=False).parser
    missing = {flag for flag in jsonargparse_private.long_flags(parser) if f"{flag} " not in text}
    assert missing <= {"--print_shtab"}  # jsonargparse hides it
    assert "--trainer.barebones" in text
    assert "type: " in text


@pytest.mark.parametrize("command", ["prepare", "doctor"])
@pytest.mark.parametrize("flag", ["--help", "-h", "--help-all"])
def test_the_data_commands_show_the_datas_flags(command, flag, capsys):
    lines = page("unet3d", command, flag, capsys)
    text = "\n".join(lines)
    assert "--data.prepared_dir" in text
    assert "--config" in text
    assert "--model" not in text
    if flag == "--help-all":
        return
    assert len(lines) < 50
    with pytest.raises(SystemExit):
        data_module(benchmark("unet3d"), command, Arguments(["--data.root", "DIR", flag]))
    assert capsys.readouterr().out.rstrip("\n") == text, "other flags change nothing"


def test_help_fits_a_wide_and_a_narrow_terminal(monkeypatch, capsys):
    for columns in (60, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = page("unet3d", "fit", "--help", capsys)
        too_long = [line for line in lines if len(line) >= columns]
        assert not [line for line in too_long if len(line.split()) > 2], "only a flag's default"


def test_docs_name_help_all():
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    assert "--help-all" in readme
