"""Scoring stays quick and small: a whole round's logs, and forty runs of one's own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The peak is read inside the process: a child's ru_maxrss also holds what its parent had when it
# was forked. Processor time is what a busy neighbour cannot lengthen.
SCORE = """
import resource, sys
from scoring.cli import main
from scoring.official.processes import close_all
status = main(["score", *sys.argv[1:]])
close_all()  # so that what the checkers used is known
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
lines = open("/proc/self/status").read().splitlines()
kib = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
seconds = sum(u.ru_utime + u.ru_stime for u in used)
# Two official checkers may be at work at a time.
print("USED", status, seconds, int(kib) / 1024 + 2 * used[1].ru_maxrss / 1024)
"""


def scored(folder):
    """Exit status, processor seconds (start included) and peak MiB of one ``score``."""
    command = [sys.executable, "-c", SCORE, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()[-1].split()
    assert told[0] == "USED"
    return int(told[1]), float(told[2]), float(told[3]), done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's /proc")
def test_1500_logs_are_scored_in_a_minute_and_500_mb(tmp_path, published):
    logs = sorted(published.rglob("result_*.txt"))
    count = 0
    for copy in range(1500 // len(logs) + 1):
        for log in logs[: 1500 - count]:
            place = tmp_path / f"copy{copy}" / log.relative_to(published)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(log.read_bytes())
            count += 1
    status, seconds, mib, _ = scored(tmp_path)
    assert (count, status in (0, 1)) == (1500, True)
    assert seconds < 60
    assert mib < 500


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's /proc")
def test_forty_runs_are_scored_in_three_seconds(tmp_path, make):
    lines = make.ssd()
    for number in range(40):
        make.run(tmp_path, number=number, seed=number, lines=lines)
    _, seconds, mib, out = scored(tmp_path)
    assert "40/5" in out
    assert seconds < 3
    assert mib < 500
