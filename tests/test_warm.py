"""A fork of the warmed process behaves as a new process does."""

import os
import subprocess
import sys

import pytest

OUTSIDE = "import os, sys; print(os.getcwd(), os.environ['MINE'], sys.argv, sys.path[0])"


@pytest.mark.parametrize(
    "code",
    [
        OUTSIDE,
        "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)",
        "raise SystemExit('a reason')",
        "import os; print('lost in a buffer'); os.kill(os.getpid(), 9)",
        "import atexit; atexit.register(print, 'at exit')",
        "import threading; threading.Timer(0.1, print, ['waited for']).start()",
        "from multiprocessing import Pool; print(Pool(1).map(abs, [-1]))",
    ],
)
def test_a_fork_answers_as_a_process_does(code, tmp_path, run_python):
    environment = {**os.environ, "MINE": "here"}
    args = ["-c", code, "an argument"]
    command = [sys.executable, *args]
    real = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    fork = run_python(args, cwd=tmp_path, env=environment)
    assert (fork.returncode, fork.stdout) == (real.returncode, real.stdout)
    assert fork.stderr == real.stderr


def test_a_script_and_a_module_see_their_directory(tmp_path, run_python):
    (tmp_path / "neighbour.py").write_text("print('imported')")
    (tmp_path / "script.py").write_text("import neighbour, sys; print(__name__, sys.argv)")
    for args in (["script.py", "1"], ["-m", "script", "1"]):
        command = [sys.executable, *args]
        real = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert run_python(args, cwd=tmp_path).stdout == real.stdout != ""


def test_every_fork_has_a_clock_and_random_numbers_of_its_own(run_python):
    code = """if True:
        import random, sys
        from callbacks.clock import seconds_since_process_start
        print(random.random(), seconds_since_process_start() < 5, "torch" in sys.modules)
    """
    first, second = (run_python(["-c", code]).stdout.split() for _ in range(2))
    assert first[1:] == second[1:] == ["True", "True"]
    assert first[0] != second[0]


def test_a_fork_that_takes_too_long_is_killed(run_python):
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run_python(["-c", "print(1, flush=True); import time; time.sleep(60)"], timeout=1)
    assert caught.value.output == "1\n"
    assert run_python(["-c", "print(2)"]).stdout == "2\n"
