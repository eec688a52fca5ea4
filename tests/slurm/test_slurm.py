"""Several nodes with the real thing: Slurm, two nodes on this machine, the DLRM demo.

apt-get install slurm-wlm munge
FINISHLINE_SLURM_TEST=1 pytest -n 0 -m slurm
"""

import json
import os
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(3000)]
ROOT = Path(__file__).parents[2]
RECIPE = "recipes/dlrm.py"
DEMO = ["--trainer.accelerator", "cpu", "--data.batch_size", "128"]
TWO_NODES = ["--trainer.num_nodes", "2", "--trainer.devices", "1", "--trainer.strategy", "ddp"]
# The scripts ask for a whole cluster; this one has two nodes without GPUs.
SMALL = ["--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", "--mem=0"]


@pytest.fixture(autouse=True)
def surroundings(slurm, tmp_path, monkeypatch):
    """Jobs take the submitter's variables along; pytest's seed would be every run's."""
    monkeypatch.delenv("PL_GLOBAL_SEED")
    monkeypatch.chdir(ROOT)
    for name, value in os.environ.items():
        slurm.environment[name] = value
    slurm.environment.pop("PL_GLOBAL_SEED", None)
    slurm.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return slurm


def submit(slurm, log, *words):
    command = ["sbatch", "--parsable", f"--output={log}", "--open-mode=append", *words]
    return slurm.run(*command).split()[-1]


def records(root):
    """Return the records of all runs, the one that was started last at the end."""
    paths = sorted((root / "dlrm").glob("*/run.json"))
    return [json.loads(path.read_text()) for path in paths]


def wait_for_training(root, log):
    """Wait until a run has made steps, which its first line of metrics shows."""
    end = time.monotonic() + 600
    while not any(path.stat().st_size for path in (root / "dlrm").glob("*/metrics.csv")):
        assert time.monotonic() < end, log.read_text()
        time.sleep(1)


def test_srun_over_two_nodes_reaches_the_target(slurm, tmp_path):
    words = [*DEMO, *TWO_NODES, "--output_root", str(tmp_path)]
    log = slurm.run("srun", "-N2", "--ntasks-per-node=1", "python", RECIPE, "fit", *words,
                    seconds=1800)  # fmt: skip
    (record,) = records(tmp_path)
    assert (record["stop_reason"], record["devices"]) == ("TARGET_REACHED", 2), log
    assert log.count("target reached") == 1


@pytest.mark.parametrize(
    ("script", "status"),
    [("fit.sbatch", "130"), ("torchrun.sbatch", "1")],
    ids=["srun", "torchrun"],
)
def test_a_job_cut_by_its_limit_requeues_itself_and_reaches_the_target(
    script, status, slurm, tmp_path
):
    log = tmp_path / "job.log"
    job = submit(slurm, log, *SMALL, "--time=30", f"examples/slurm/{script}", RECIPE, *DEMO,
                 "--output_root", str(tmp_path))  # fmt: skip
    wait_for_training(tmp_path, log)
    hours, minutes, _ = map(int, slurm.fact(job, "RunTime").split(":"))
    limit = 60 * hours + minutes + 2  # the scripts' signal, 180 s before it, is due at once
    slurm.run("scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")
    slurm.wait(job, "PENDING")
    (cut,) = records(tmp_path)
    assert cut["stop_reason"] == "INTERRUPTED", log.read_text()
    assert list((tmp_path / "dlrm").glob("*/checkpoints/last.ckpt"))
    assert "--ckpt_path auto: starting anew" in log.read_text()
    assert f"task 0: Exited with exit code {status}" in log.read_text()
    assert slurm.fact(job, "Restarts") == "1"
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=60", "StartTime=now")
    slurm.wait(job, "COMPLETED", seconds=1800)
    first, second = records(tmp_path)
    assert first == cut
    assert second["stop_reason"] == "TARGET_REACHED", log.read_text()
    assert second["resumed"]
    assert second["seed"] == cut["seed"]
    assert log.read_text().count("--ckpt_path auto: resuming") == 1


def test_a_cancelled_job_does_not_come_back(slurm, tmp_path):
    log = tmp_path / "job.log"
    job = submit(slurm, log, *SMALL, "--time=30", "examples/slurm/fit.sbatch", RECIPE, *DEMO,
                 "--output_root", str(tmp_path))  # fmt: skip
    wait_for_training(tmp_path, log)
    slurm.run("scancel", job)
    slurm.wait(job, "CANCELLED")
    time.sleep(35)  # longer than KillWait
    assert slurm.fact(job, "JobState") == "CANCELLED"


def test_a_node_without_the_data_ends_the_run_with_one_line(slurm, tmp_path):
    slurm.run("env", f"FINISHLINE_CACHE={tmp_path}", "python", RECIPE, "prepare", seconds=600)
    (data,) = tmp_path.glob("demo/criteo*")
    (tmp_path / "n0").symlink_to(data)
    words = [*TWO_NODES, *DEMO, "--submission.division", "open", "--trainer.max_steps", "2"]
    line = f"exec python {RECIPE} fit {' '.join(words)} --output_root {tmp_path}/runs"
    line += f" --data.root {tmp_path}/$SLURMD_NODENAME"
    log = slurm.run("srun", "-N2", "--ntasks-per-node=1", "--job-name=fit", "bash", "-c", line,
                    check=False, seconds=300)  # fmt: skip
    errors = [each for each in log.splitlines() if each.startswith("error")]
    assert len(errors) == 1, log
    assert errors[0].startswith("error: on n1: "), log
    assert f"; on that node: python {RECIPE} prepare --data." in errors[0], log
    assert "Traceback" not in log


def test_every_node_prepares_its_own_data(slurm, tmp_path):
    line = f"FINISHLINE_CACHE={tmp_path}/$SLURMD_NODENAME exec python {RECIPE} fit "
    line += " ".join([*TWO_NODES, *DEMO, "--trainer.max_steps", "2"])
    line += f" --output_root {tmp_path}"
    log = slurm.run("srun", "-N2", "--ntasks-per-node=1", "--job-name=fit", "bash", "-c", line,
                    check=False, seconds=900)  # fmt: skip
    (record,) = records(tmp_path)
    assert record["stop_reason"] == "BUDGET_EXHAUSTED", log
    assert [len(list((tmp_path / node).glob("demo/criteo*"))) for node in ("n0", "n1")] == [1, 1]


def test_the_array_of_collect_makes_the_runs(slurm, tmp_path):
    out = tmp_path / "runs"
    collect = [sys.executable, "-m", "scoring", "collect", RECIPE, "--runs", "2", "--slurm"]
    collect += ["--output_root", str(out)]
    fit = ["--", *DEMO, "--trainer.devices", "1", "--trainer.max_steps", "3"]
    text = slurm.run(*collect, "--submit", *fit)
    job = text.split()[1].rstrip(":")
    assert "still fills" in slurm.run(*collect, *fit, check=False)
    end = time.monotonic() + 900
    while slurm.run("squeue", "-h", "-j", job, check=False).strip():
        assert time.monotonic() < end, text
        time.sleep(1)
    logs = "".join(path.read_text() for path in out.glob("slurm-*.log"))
    found = [records(out / number)[0] for number in ("01", "02")]
    assert [each["stop_reason"] for each in found] == ["BUDGET_EXHAUSTED"] * 2, logs
    assert len({each["seed"] for each in found}) == 2
    assert "all 2 runs have ended" in slurm.run(*collect, *fit)
