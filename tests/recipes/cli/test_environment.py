"""A run does not depend on its screen, its home or variables that something else left over."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.cli import environment
from recipes.cli.config_file import read_config, tell_foreign_code
from recipes.cli.environment import Unfailing, check_variables
from recipes.cli.main import run
from recipes.cli.usage import UsageError
from recipes.unet3d import BENCHMARK

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("given", "dropped"),
    [
        ({"RANK": "", "PL_GLOBAL_SEED": ""}, {"RANK", "PL_GLOBAL_SEED"}),
        ({"RANK": "3"}, {"RANK"}),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": ""}, {"LOCAL_RANK", "WORLD_SIZE"}),
        ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "PL_GLOBAL_SEED": "7"}, set()),
        ({}, set()),
    ],
)
def test_empty_and_left_over_variables_are_dropped(given, dropped):
    found = check_variables(given)
    assert set(found) == dropped
    assert {name for name, reason in found.items() if reason} == {
        name for name in dropped if given[name]
    }


@pytest.mark.parametrize(
    "given",
    [
        {"RANK": "x"}, {"PL_GLOBAL_SEED": "1.5"}, {"PL_GLOBAL_SEED": "-1"},
        {"PL_GLOBAL_SEED": str(2**32)}, {"RANK": "2", "WORLD_SIZE": "2"},
    ],
)  # fmt: skip
def test_wrong_variables_are_named(given):
    with pytest.raises(UsageError, match=next(iter(given))):
        check_variables(given)


@pytest.mark.parametrize("name", ["RANK", "PL_GLOBAL_SEED"])
def test_a_wrong_variable_ends_a_command_with_status_2(name, monkeypatch, capsys):
    monkeypatch.setenv(name, "abc")
    assert run(BENCHMARK, ["doctor"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {name}=abc: not a whole number")


def test_a_left_over_rank_does_not_silence_a_command(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "3")
    assert run(BENCHMARK, ["prepare", "--data.rot", "x"]) == 2
    err = capsys.readouterr().err
    assert "Note: RANK=3 is left over" in err
    assert "error: unknown flag --data.rot" in err


def test_a_seed_out_of_range_is_named(capsys):
    assert run(BENCHMARK, ["fit", "--seed_everything", "-1"]) == 2
    assert "--seed_everything -1: not a whole number" in capsys.readouterr().err


class Full:
    """A stream on a full disk."""

    encoding = "utf-8"

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self):
        self.write("")


def test_a_full_stream_drops_what_it_cannot_write():
    stream = Unfailing(Full())
    assert stream.write("abc") == 3
    stream.flush()
    assert stream.encoding == "utf-8"


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"])
def test_closed_and_full_streams_change_no_status_and_reach_no_file(redirect, tmp_path):
    code = (
        "import sys; from recipes.cli.environment import settle; settle(); "
        f"file = open({str(tmp_path / 'file')!r}, 'w'); "
        "print('out', flush=True); print('err', file=sys.stderr); import os; "
        "os.write(1, b'raw') if os.fstat(1).st_mode & 0o170000 != 0o020000 else None; sys.exit(3)"
    )
    command = f'exec "$0" -c "$1" {redirect}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, code], cwd=ROOT, capture_output=True, timeout=60
    )
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "file").read_bytes() == b""


def test_a_user_without_a_name_or_home_gets_both(monkeypatch, tmp_path):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(environment.pwd, "getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in (*environment.USER_NAMES, "HOME"):
        monkeypatch.delenv(name, raising=False)
    environment._name_user()
    assert os.environ["USER"] == f"uid{os.getuid()}"
    home = Path(os.environ["HOME"])
    assert home.parent == tmp_path
    assert not home.stat().st_mode & 0o077


def test_caches_go_where_they_can_be_written(monkeypatch, tmp_path):
    blocker = tmp_path / "file"
    blocker.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocker / "none"))
    monkeypatch.setenv("FINISHLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/mine")
    for name in set(environment.CACHES) - {"NUMBA_CACHE_DIR"}:
        monkeypatch.delenv(name, raising=False)
    environment._find_caches()
    assert os.environ["NUMBA_CACHE_DIR"] == "/mine"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache" / "torchinductor")
    assert Path(os.environ["MPLCONFIGDIR"]).is_dir()


BOMB = b"a0: &a0 [1]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("model: {}\n".encode("utf-16"), "not UTF-8 text"),
        (b"", "empty"),
        (b"# a comment\n", "empty"),
        (b"- 1\n", "holds no settings"),
        (b"a: [1,", "while parsing"),
        (b"[" * 1200, "recursion"),
        (BOMB, "unfold to more than 100,000 values"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "doctor"])
def test_a_configuration_that_is_none_is_named(content, words, command, tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    assert run(BENCHMARK, [command, "--config", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: --config {path}: ")
    assert words in err
    assert err.count("\n") == 1


def test_code_of_another_users_configuration_is_named(tmp_path, monkeypatch, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(
        "model: {net: evil.Net}\ntrainer: {callbacks: [{class_path: their.Callback}]}\n"
        "data: {root: x}\n"
    )
    tell_foreign_code(str(path), read_config(str(path)))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("os.getuid", lambda: path.stat().st_uid + 1)
    tell_foreign_code(str(path), read_config(str(path)))
    line = f"Note: {path} belongs to another user and imports code: evil.Net, their.Callback\n"
    assert capsys.readouterr().err == line
    preset = ROOT / "recipes/presets/unet3d/demo.yaml"
    tell_foreign_code(str(preset), read_config(str(preset)))
    assert capsys.readouterr().err == ""
