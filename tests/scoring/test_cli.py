"""The command line as a whole: quick, light, and with the agreed exit status."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scoring.official.processes import close_all

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "lightning", "pandas", "matplotlib", "mlperf_logging", "rich", "scipy.stats")
OURS = {"recipes", "modules", "datamodules", "callbacks"}


@pytest.mark.parametrize("arguments", [["--help"], ["package", "--help"], ["collect", "--help"]])
def test_help_is_quick_and_imports_nothing_heavy(arguments):
    code = (
        "import sys; from scoring.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert time.perf_counter() - began < 2
    assert done.stdout.splitlines()[-1] == "[]"


def test_score_imports_no_torch(published):
    code = (
        "import sys; from scoring.cli import main\n"
        f"main(['score', {str(published)!r}, '--json'])\n"
        "print([m for m in ('torch', 'lightning', 'pandas', 'scipy.stats') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "scoring", "score", "/nowhere/at/all"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip() == "scoring score: /nowhere/at/all does not exist"


def test_scoring_imports_nothing_of_ours():
    imported = set()
    for path in (ROOT / "scoring").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    assert "scoring" in imported
    assert not imported & OURS


def test_an_unknown_round_names_those_that_exist(published, cli):
    status, _, err = cli("score", published, "--round", "v9.9")
    assert status == 2
    assert "v0.7, v1.0" in err


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, make, cli):
    make.run(tmp_path / "runs", number=1)
    status, _, err = cli("report", tmp_path / "runs", "--out", tmp_path)
    assert (status, err) == (2, f"scoring report: {tmp_path}: Is a directory\n")
    (tmp_path / "file").touch()
    recipe = ROOT / "recipes/ssd.py"
    status, _, err = cli("collect", recipe, "--runs", 1, "--output_root", tmp_path / "file")
    assert (status, err) == (2, f"scoring collect: {tmp_path / 'file'}: File exists\n")


def test_a_checker_that_takes_too_long_is_one_line(tmp_path, make, monkeypatch, cli):
    close_all()  # one that is at work already answers in less
    monkeypatch.setattr("scoring.official.checkers.LONGEST_SECONDS", 0.01)
    status, _, err = cli("check", make.write(tmp_path / "a.log", make.ssd()))
    words = "the official checker took longer than 0.01 s; pass fewer logs"
    assert (status, err) == (2, f"scoring check: {words}\n")


def test_ctrl_c_ends_any_command_without_a_traceback(monkeypatch, cli, published):
    def interrupt(paths, rules):
        raise KeyboardInterrupt

    monkeypatch.setattr("scoring.commands.score.find_judged_sets", interrupt)
    assert cli("score", published) == (130, "", "scoring score: interrupted\n")


def test_text_and_status_of_a_result_that_fails(tmp_path, make, cli):
    for number in range(1, 4):
        make.run(tmp_path, number=number, status="aborted")
    status, out, _ = cli("score", tmp_path)
    assert status == 1
    assert "runs that did not converge: 3; at most 1 may" in out


def test_score_of_a_pipe_that_closes_early_says_nothing(published):
    command = f"{sys.executable} -m scoring score {published} --json | head -1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""
