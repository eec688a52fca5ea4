"""``collect --slurm``: an array of the missing runs, printed or handed to sbatch."""

import json
import os
import shlex
import subprocess

import pytest

from scoring.commands.collect_slurm import _ranges


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "my recipes" / "ssd.py"
    path.parent.mkdir()
    path.write_text("import os, sys; print(sys.argv[1:], os.environ.get('PL_GLOBAL_SEED'))")
    return path


def command(recipe, out, *more):
    return ["collect", recipe, "--runs", "5", "--output_root", out, "--slurm", *more]


def leave_run(out, number):
    folder = out / f"{number:02d}" / "ssd" / "20260101-000000-seed5"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "success", "resumed": False}))
    (folder / "result.txt").write_text("")


def fake(tmp_path, monkeypatch, **programs):
    """Put programs of Slurm first on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def options(script):
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH --")]
    return dict(line.removeprefix("#SBATCH --").split("=", 1) for line in lines)


def test_the_script_asks_for_what_the_flags_say(tmp_path, recipe, cli):
    flags = ["--trainer.devices", "8", "--trainer.num_nodes=2", "--data.root", "/my data"]
    status, script, _ = cli(*command(recipe, tmp_path / "out", "--parallel", "2", "--", *flags))
    assert status == 0
    given = options(script)
    assert (given["array"], given["nodes"]) == ("1-5%2", "2")
    assert (given["ntasks-per-node"], given["gpus-per-node"]) == ("8", "8")
    assert options(cli(*command(recipe, tmp_path / "b"))[1])["array"] == "1-5"
    on_cpu = cli(*command(recipe, tmp_path / "c", "--", "--trainer.accelerator", "cpu"))[1]
    assert "gpus-per-node" not in options(on_cpu)


def test_each_task_is_a_run_of_its_own_directory_and_seed(tmp_path, recipe, cli, monkeypatch):
    out = tmp_path / "my out"
    _, script, _ = cli(*command(recipe, out, "--", "--data.root", "/it's here"))
    fake(tmp_path, monkeypatch, srun='shift; exec "$@"')
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True)
    words = ["fit", "--output_root", str(out / "03"), "--data.root", "/it's here"]
    assert done.stdout == f"{words} None\n"


def test_only_the_missing_runs_are_made(tmp_path, recipe, cli):
    out = tmp_path / "out"
    for number in (1, 4):
        leave_run(out, number)
    assert options(cli(*command(recipe, out))[1])["array"] == "2-3,5"
    for number in (2, 3, 5):
        leave_run(out, number)
    assert "all 5 runs have ended: python -m scoring score" in cli(*command(recipe, out))[1]


def test_numbers_are_written_as_ranges():
    assert _ranges([7]) == "7"
    assert _ranges([1, 2, 3, 5, 8, 9]) == "1-3,5,8-9"


def test_submit_hands_the_script_over_once(tmp_path, recipe, cli, monkeypatch):
    out = tmp_path / "out"
    queue = tmp_path / "queue"
    queue.write_text("77 PENDING")
    fake(tmp_path, monkeypatch, sbatch=f"cat > {tmp_path}/got; echo 77",
         squeue=f'[ "$3" = 77 ] && cat {queue}')  # fmt: skip
    status, text, _ = cli(*command(recipe, out, "--submit"))
    assert status == 0
    assert text.startswith(f"job 77: 5 runs into {out}\nthen: python -m scoring score ")
    assert options((tmp_path / "got").read_text())["array"] == "1-5"
    for again in (command(recipe, out), command(recipe, out)[:-1]):
        status, _, err = cli(*again)
        assert (status, "job 77 still fills" in err, err.count("\n")) == (2, True, 1)
    queue.write_text("")
    assert cli(*command(recipe, out))[0] == 0


def test_what_cannot_be_submitted_is_one_line(tmp_path, recipe, cli, monkeypatch):
    status, _, err = cli(*command(recipe, tmp_path / "out")[:-1], "--submit")
    assert (status, err) == (2, "scoring collect: --submit belongs to --slurm: give both\n")
    fake(tmp_path, monkeypatch, sbatch="echo 'sbatch: error: invalid partition' >&2; exit 1")
    status, _, err = cli(*command(recipe, tmp_path / "out", "--submit"))
    assert (status, err) == (2, "scoring collect: --submit: sbatch: error: invalid partition\n")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "there is no sbatch here" in cli(*command(recipe, tmp_path / "out", "--submit"))[2]


def test_json_has_the_script(tmp_path, recipe, cli):
    told = json.loads(cli(*command(recipe, tmp_path / "out", "--json"))[1])
    assert told["missing"] == [1, 2, 3, 4, 5]
    assert shlex.quote(str(recipe)) in told["script"]
    assert told["job"] is None
