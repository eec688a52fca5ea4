"""Preparation in processes that are killed at random moments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.datamodules.common.test_preparation import files

# Workers import their job by name.
JOBS = """
import time
from pathlib import Path
from datamodules.common.atomic import atomic_file
from datamodules.common.preparation import Done
from datamodules.common.records import raw_file

def job(path):
    time.sleep(0.02)
    with atomic_file(Path("out", path.name)) as file:
        file.write(path.read_bytes() * 2)
    return Done(path.name, [raw_file(path)])
"""
SCRIPT = """
from pathlib import Path
from datamodules.common.preparation import Unit, preparing
from jobs import job

root = Path("raw").absolute()
units = [Unit(path.name, path, (path.name,)) for path in sorted(root.iterdir())]
with preparing(Path("out"), "toy", {}, version=1, root=root) as preparation:
    if preparation.manifest is None:
        preparation.finish({"names": preparation.run("doubling", job, units, processes=2)})
"""


@pytest.mark.slow
def test_processes_killed_at_random_leave_the_bytes_of_an_undisturbed_run(tmp_path: Path) -> None:
    for folder in ("whole", "cut"):
        (tmp_path / folder / "raw").mkdir(parents=True)
        (tmp_path / folder / "jobs.py").write_text(JOBS)
        (tmp_path / folder / "script.py").write_text(SCRIPT)
        for number in range(60):
            path = tmp_path / folder / "raw" / f"{number:02d}"
            path.write_bytes(bytes([number]) * 100)
            os.utime(path, (1, 1))

    def start(folder: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(Path(__file__).parents[3]), str(tmp_path / folder)])
        return subprocess.Popen(
            [sys.executable, "script.py"],
            cwd=tmp_path / folder,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )

    assert start("whole").wait(timeout=120) == 0
    for attempt in range(4):
        process = start("cut")
        records = tmp_path / "cut" / "out" / "records.jsonl"
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if records.is_file() and len(records.read_bytes().splitlines()) > 12 * attempt + 4:
                break
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start("cut").wait(timeout=120) == 0
    assert files(tmp_path / "cut" / "out") == files(tmp_path / "whole" / "out")
    log = (tmp_path / "cut" / "out" / "prepare.log").read_text()
    assert json.loads((tmp_path / "cut" / "out" / "manifest.json").read_text())["format"] == 1
    assert log.count(" done (") == 60  # nothing twice, nothing lost that was recorded
