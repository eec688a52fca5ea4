"""Jobs over processes: results, bad items, killed workers, killed parents."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datamodules.common.process_pool import outcomes, processes_for

# A worker process imports its job by name, which a test module loaded by path does not allow.
JOBS = """
import os, signal, time

def job(item):
    if item == "bad":
        raise ValueError("bad item")
    if item == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "sleep":
        print("pid", os.getpid(), flush=True)
        time.sleep(60)
    return item.upper()
"""
# Without `if __name__ == "__main__"`, as users' scripts are: workers must not run it again.
SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run unattended
from datamodules.common.process_pool import outcomes
from jobs import job

print(sorted(outcomes(job, sys.argv[1:], 2, "test", show_progress=False)))
"""


def start(folder: Path, *items: str) -> "subprocess.Popen[str]":
    """Run the jobs in a process of their own."""
    (folder / "jobs.py").write_text(JOBS)
    script = folder / "script.py"
    script.write_text(SCRIPT)
    pipe = subprocess.PIPE
    command = [sys.executable, str(script), *items]
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def test_outcomes_in_processes_give_results_and_the_text_of_errors(tmp_path: Path) -> None:
    out, _ = start(tmp_path, "a", "bad", "b").communicate(timeout=60)
    assert out.strip() == "['A', 'B', 'bad item']"


def test_outcomes_killed_worker_is_one_clear_line(tmp_path: Path) -> None:
    process = start(tmp_path, "a", "die")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ValueError: a preprocessing process was killed, most likely for lack of memory" in err


def test_outcomes_killed_parent_takes_its_workers_along(tmp_path: Path) -> None:
    process = start(tmp_path, "sleep")
    assert process.stdout is not None
    worker = int(process.stdout.readline().split()[1])
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            break
        # A container without an init keeps ended orphans as zombies.
        if Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"worker {worker} outlived its parent by 10 s")


def test_outcomes_interrupt_ends_jobs_and_only_the_main_process_speaks(tmp_path: Path) -> None:
    process = start(tmp_path, "a", "sleep")
    assert process.stdout is not None
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the idle worker too
    _, err = process.communicate(timeout=30)  # before the job ends by itself
    assert err.count("Traceback") == 1
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_outcomes_in_one_process_keeps_the_order() -> None:
    def job(item: int) -> int:
        if item == 1:
            raise ValueError("one")
        return item

    assert list(outcomes(job, range(3), 1, "test", show_progress=False)) == [0, "one", 2]


def test_processes_for_respects_memory_and_items() -> None:
    assert processes_for(100, 10**18) == 1
    assert processes_for(1, 1) == 1
