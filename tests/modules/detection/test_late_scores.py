"""The process that scores while training goes on."""

import os
import signal

import pytest

from modules.detection.late_scores import LateScores


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_left_to_the_training_process(number):
    scores = LateScores()
    scores.start()
    (pid,) = scores._pool._processes
    os.kill(pid, number)
    assert scores._pool.submit(abs, -1).result(60) == 1
    scores.close()
