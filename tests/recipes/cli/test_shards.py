"""Streamed shards on the command line: open by themselves, and no command that nobody typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.cli.arguments import Arguments
from recipes.cli.data import data_module
from recipes.cli.main import run
from recipes.cli.parser import RecipeCLI
from recipes.cli.presets import with_default_preset
from recipes.cli.resume_check import settings
from recipes.cli.saved_config import config_text
from recipes.cli.shards import check_commands, open_note
from recipes.cli.usage import UsageError
from recipes.resnet import BENCHMARK
from recipes.rnnt import BENCHMARK as RNNT

WEB = ["--data.shards", "http://h/t-{000..127}.tar", "--data.val_shards", "http://h/{a,b}.tar"]
COMMAND = "pipe:cat t-{0..1}.tar"
TYPED = ["--data.shards", COMMAND, "--data.val_shards", "v.tar"]


def parsed(*words: str) -> RecipeCLI:
    return RecipeCLI(BENCHMARK, "fit", list(words), build=False)


def test_shards_make_a_run_open_and_it_says_so() -> None:
    cli = parsed(*WEB)
    assert (cli.division, cli.demo) == ("open", False)
    assert cli.config.data.shards == WEB[1]  # braces are no YAML
    assert open_note(cli.config.data) == (
        "Open division: --data.shards http://h/t-{000..127}.tar streams samples in an order that "
        "depends on ranks and loader processes"
    )
    assert open_note(parsed().config.data) == ""


def test_a_closed_run_on_shards_is_refused() -> None:
    with pytest.raises(UsageError, match="not a closed division run: data.shards streams samples"):
        parsed(*WEB, "--submission.division", "closed")


def test_shards_are_no_demo(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = Arguments(WEB)
    assert with_default_preset(BENCHMARK, "fit", arguments) is arguments
    module = data_module(RNNT, "doctor", Arguments([*WEB, "--data.num_workers", "2"])).data
    assert not module.demo
    assert module.vocab_size == 1023  # not the demo preset's


def config(folder: Path, data: dict[str, Any]) -> str:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"data": data}))
    return str(path)


@pytest.mark.parametrize("name", ["shards", "val_shards"])
def test_a_command_in_a_file_is_not_run_unless_it_is_typed_too(tmp_path: Path, name: str) -> None:
    data = {"shards": "t.tar", "val_shards": "v.tar", name: COMMAND}
    path = config(tmp_path, data)
    line = f"data.{name} in a file of settings is a command, {COMMAND}: pipe: is run only if typed"
    for words in ([], [f"--data.{name}", f"{COMMAND} x", "--config", path]):
        with pytest.raises(UsageError, match=line.replace("{", r"\{")):
            parsed(*words, "--config", path)
    with pytest.raises(UsageError, match="is a command"):
        data_module(BENCHMARK, "prepare", Arguments(["--config", path]))
    assert parsed("--config", path, f"--data.{name}", COMMAND).config.data[name] == COMMAND
    assert parsed("--config", path, f"--data.{name}={COMMAND}").config.data[name] == COMMAND


def test_a_command_joined_to_another_pattern_in_a_file_is_not_run(tmp_path: Path) -> None:
    path = config(tmp_path, {"shards": f"t.tar::{COMMAND}", "val_shards": "v.tar"})
    with pytest.raises(UsageError, match="is a command"):
        parsed("--config", path)


def test_a_resumed_run_has_to_be_given_its_command_again(tmp_path: Path) -> None:
    cli = parsed(*TYPED)
    check_commands(cli.config.data, cli.arguments)
    folder = tmp_path / "resnet" / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(config_text(cli))
    assert COMMAND in (folder / "config.yaml").read_text()  # it says what was done
    words = ["--config", str(folder / "config.yaml")]
    with pytest.raises(UsageError, match="to the command line, also to resume"):
        parsed(*words)
    assert parsed(*words, *TYPED).config.data.shards == COMMAND


def test_moved_shards_are_no_other_settings() -> None:
    changed = [*WEB[:1], "/local/t-{000..127}.tar", *WEB[2:]]
    assert settings(parsed("--seed_everything", "1", *WEB)) == settings(
        parsed("--seed_everything", "1", *changed)
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--data.shards", "a-0.tar", "a-1.tar"], "put the pattern of --data.shards in quotes"),
        (["--data.shards", "s3://b/0.tar", *WEB[2:]], "s3:// is not read; give a path"),
        (["--data.shards", "http://h/0.tar"], "--data.val_shards PATTERN must name the shards"),
        ([*WEB, "--data.root", "d"], "give --data.root or --data.shards, not both"),
    ],
)
def test_a_slip_is_one_line_with_status_2(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(BENCHMARK, ["fit", *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert line in said
    assert "Traceback" not in said
