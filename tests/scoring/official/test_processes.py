"""The official tools' processes: used again, and replaced once they end."""

import pytest

from scoring.official import processes
from scoring.official.checkers import compliance


@pytest.fixture
def logs(tmp_path, make):
    return [make.write(tmp_path / f"result_{n}.txt", make.ssd(seed=n)) for n in range(2)]


def idle():
    return [each.process.pid for each in processes._idle]


def test_a_process_judges_one_list_of_logs_after_another(logs):
    processes.close_all()
    first = compliance([(logs[0], "1.0.0"), (logs[1], "5.1.0")])
    (pid,) = idle()
    assert compliance([(logs[0], "1.0.0"), (logs[1], "5.1.0")]) == first
    assert [verdict.valid for verdict in first] == [True, False]
    assert idle() == [pid]


def test_a_process_that_died_is_named_once_and_replaced(logs):
    compliance([(logs[0], "1.0.0")])
    for each in processes._idle:
        each.process.kill()
    with pytest.raises(ValueError, match="the official checker failed to run: no message"):
        compliance([(logs[0], "1.0.0")])
    assert compliance([(logs[0], "1.0.0")])[0].valid


def test_a_process_that_takes_too_long_is_ended(monkeypatch, logs):
    monkeypatch.setattr("scoring.official.checkers.LONGEST_SECONDS", 0.0)
    processes.close_all()
    with pytest.raises(ValueError, match="took longer than 0.0 s; pass fewer logs"):
        compliance([(logs[0], "1.0.0")])
    assert idle() == []


def test_a_request_that_breaks_the_process_says_why():
    with pytest.raises(ValueError, match="failed to run: KeyError: 'no such tool'"):
        processes.ask({"action": "no such tool"}, 60)
