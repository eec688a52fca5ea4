"""Energy of a run: our records, and the power logs of published results."""

import json

import pytest
from mlperf_logging.compliance_checker.mlp_parser import parse_file
from mlperf_logging.result_summarizer.result_summarizer import _compute_power_node

from scoring.runs.power import Energy, run_energy
from scoring.runs.run import find_runs

RUN_MS = 600_000


def reading(watts, ms):
    return event("power_reading", watts, ms)


def event(key, value, ms):
    return ":::MLLOG " + json.dumps({"time_ms": ms, "key": key, "value": value, "metadata": ""})


def node(*readings, stop=20_000, **facts):
    lines = [event("power_measurement_start", "null", 0)]
    lines += [event(key, value, 1) for key, value in facts.items()]
    lines += [reading(watts, ms) for ms, watts in readings]
    return lines if stop is None else [*lines, event("power_measurement_stop", "null", stop)]


def with_power(folder, make, files):
    log = make.write(folder / "result_0.txt", make.ssd(seconds=RUN_MS / 1000))
    for name, lines in files.items():
        make.write(folder / "power" / "result_0" / name, lines)
    (run,) = find_runs(log)
    return run_energy(run)


def test_a_published_log_gives_what_the_official_summarizer_gives(tmp_path, make, published):
    real = published.parent / "power" / "node_0.txt"
    energy = with_power(tmp_path, make, {"node_0.txt": real.read_text().splitlines()})
    lines, failed = parse_file(str(real), ruleset="5.0.0")
    assert not failed
    official_joules = _compute_power_node(lines, RUN_MS)
    assert energy == Energy(pytest.approx(official_joules / 3600, rel=1e-12), "nodes")
    assert 1000 < energy.watt_hours / (RUN_MS / 3.6e6) < 15_000, "watts of eight B200"


def test_a_reading_holds_for_the_time_before_it(tmp_path, make):
    energy = with_power(tmp_path, make, {"node_0.txt": node((5_000, 400), (20_000, 800))})
    assert energy.watt_hours == pytest.approx((400 * 5 + 800 * 15) / 20 * RUN_MS / 3.6e6)


def test_nodes_and_switches_are_added_each_with_its_efficiency(tmp_path, make):
    files = {
        "node_0.txt": node((20_000, 1000), conversion_eff=0.9),
        "node_1.txt": node((20_000, 2000)),
        "sw_0.txt": [event("interconnect_power_est", 300, 5)],
        "sw_1.txt": node((20_000, 100), conversion_eff=0.5),
        "nodes_0_to_7.png": ["no log"],
        "total_power.txt": ["Total Power Usage: 415.22 kWh"],
    }
    energy = with_power(tmp_path, make, files)
    watts = 900 + 2000 + 300 + 50
    assert energy == Energy(pytest.approx(watts * RUN_MS / 3.6e6), "nodes and switches")


@pytest.mark.parametrize("stop", [0, None])
def test_a_stop_that_is_missing_or_has_the_time_of_the_start_is_the_last_reading(
    tmp_path, make, stop
):
    energy = with_power(
        tmp_path, make, {"node_0.txt": node((10_000, 500), (20_000, 700), stop=stop)}
    )
    assert energy.watt_hours == pytest.approx(600 * RUN_MS / 3.6e6)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "power_measurement_start"),
        (node(), "no power_reading between its marks"),
        (node((10_000, "many")), "'many' is not a number"),
        (node((10_000, float("nan"))), "nan is not a number"),
        (node((10_000, True)), "True is not a number"),
        ([":::MLLOG {"], "Expecting property name"),
        ([":::MLLOG 7"], "not subscriptable"),
        ([":::MLLOG " + "[" * 100_000], "recursion"),
    ],
)
def test_a_broken_power_log_is_named(tmp_path, make, lines, words):
    reason = with_power(tmp_path, make, {"node_0.txt": lines})
    assert "node_0.txt is not a power log: " in reason
    assert words in reason
    assert "\n" not in reason


def test_a_result_without_power_logs_and_one_without_nodes_say_so(tmp_path, make):
    assert with_power(tmp_path / "a", make, {}) == "no power logs"
    reason = with_power(tmp_path / "b", make, {"sw_0.txt": []})
    assert reason.endswith("result_0 has no node_*.txt")


@pytest.mark.parametrize(
    ("record", "energy"),
    [
        ({"energy_wh": {"gpu": 3.0, "cpu": 1.5}}, Energy(4.5, "GPUs and processors")),
        ({"energy_wh": {"gpu": 3.0, "cpu": None}}, Energy(3.0, "GPUs")),
        ({"energy_wh": {"gpu": None, "cpu": 0.0}}, Energy(0.0, "processors")),
        ({"energy_wh": {"gpu": None, "cpu": None}, "energy_note": "cpu: why"}, "cpu: why"),
        ({}, "run.json has no energy_wh"),
    ],
)
def test_our_runs_have_what_they_recorded(tmp_path, make, record, energy):
    (run,) = find_runs(make.run(tmp_path, **record))
    assert run_energy(run) == energy
