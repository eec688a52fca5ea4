"""Minutes, watt-hours and cost of a result, side by side."""

import json
import re

import pytest

FIVE = ((600, 50.0), (660, 9.0), (720, 12.0), (780, 15.0), (840, 1.0))


def five_runs(root, make, **record):
    for number, (seconds, watt_hours) in enumerate(FIVE, start=1):
        wh = {"gpu": watt_hours, "cpu": None}
        make.run(root, number=number, seconds=seconds, **{"energy_wh": wh, **record})
    return root


def scored(cli, *arguments):
    _, out, _ = cli("score", *arguments, "--json")
    (result,) = json.loads(out)["results"]
    return result["minutes"], result["energy_and_cost"]


def test_energy_is_of_the_runs_that_the_minutes_are_of(tmp_path, make, cli):
    minutes, used = scored(cli, five_runs(tmp_path, make))
    assert minutes == pytest.approx(12.0)
    assert used["watt_hours"] == pytest.approx((9 + 12 + 15) / 3), "fastest and slowest dropped"
    assert used["covers"] == "GPUs"
    assert (used["cost"], used["cost_note"]) == (None, "no --cost_per_hour was given")


def test_cost_is_the_price_of_the_minutes_or_what_the_runs_recorded(tmp_path, make, cli):
    five_runs(tmp_path, make, cost=3.0)
    assert scored(cli, tmp_path)[1]["cost"] == pytest.approx(3.0)
    assert scored(cli, tmp_path, "--cost_per_hour", "98.0")[1]["cost"] == pytest.approx(98 / 5)


def test_a_run_without_a_figure_leaves_the_result_without_one(tmp_path, make, cli):
    five_runs(tmp_path, make)
    make.run(tmp_path, number=3, seconds=720, energy_note="gpu: NVML says Not Supported")
    used = scored(cli, tmp_path)[1]
    assert used["watt_hours"] is None
    assert "NVML says Not Supported" in used["energy_note"]
    assert "NVML says Not Supported" in cli("score", tmp_path)[1]


def test_the_table_has_the_columns_only_where_there_are_figures(tmp_path, make, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    for number in range(1, 6):
        make.run(tmp_path / "plain", number=number)
    _, out, _ = cli("score", tmp_path / "plain")
    assert not re.search(r"\bWh\b|\bcost\b", out)
    five_runs(tmp_path / "measured", make)
    _, out, _ = cli("score", tmp_path / "measured", "--cost_per_hour", "30")
    assert re.search(r"minutes +Wh +cost", out)
    assert re.search(r"12\.00 +12\.00 +6\.000", out)
    assert "energy: that of GPUs, mean of the runs that the minutes are made of" in out


@pytest.mark.parametrize("price", ["-1", "nan", "inf"])
@pytest.mark.parametrize("command", ["score", "compare", "report"])
def test_a_price_that_is_none_is_refused(command, price, cli):
    status, out, err = cli(command, "runs", f"--cost_per_hour={price}")
    assert (status, out) == (2, "")
    assert f"--cost_per_hour {float(price)}: give 0 or more" in err


def test_the_report_shows_minutes_energy_and_cost(tmp_path, make, cli):
    five_runs(tmp_path, make)
    cli("report", tmp_path, "--out", tmp_path / "r.html", "--cost_per_hour", "30")
    text = (tmp_path / "r.html").read_text()
    assert re.search(
        r"Energy to target, Wh \(GPUs\)</dt><dd data-figure=\"watt_hours\" [^>]+>12\.00", text
    )
    assert re.search(r"Cost to target</dt><dd data-figure=\"cost\" [^>]+>6\.000", text)


def test_compare_shows_both_sides_and_says_where_they_measured_different_things(
    tmp_path, make, cli
):
    five_runs(tmp_path / "a", make)
    five_runs(tmp_path / "b", make, energy_wh={"gpu": None, "cpu": 2.0})
    sides = [tmp_path / "a", tmp_path / "b"]
    _, out, _ = cli("compare", *sides, "--json", "--cost_per_hour", "30")
    (pair,) = json.loads(out)["pairs"]
    both = [pair[side]["energy_and_cost"] for side in "ab"]
    assert [each["watt_hours"] for each in both] == [pytest.approx(12.0), pytest.approx(2.0)]
    assert [each["cost"] for each in both] == [pytest.approx(6.0)] * 2
    _, out, _ = cli("compare", *sides, "--cost_per_hour", "30")
    assert re.search(r"watt-hours +12\.00 +2\.000", out)
    assert re.search(r"energy of +GPUs +processors", out)
    assert re.search(r"cost +6\.000 +6\.000", out)
    assert "the energy cannot be compared: GPUs against processors" in out


def test_a_ranking_a_summary_and_the_overview_have_energy_and_cost(tmp_path, make, cli):
    five_runs(tmp_path / "a", make)
    for number in range(1, 6):
        make.run(tmp_path / "b", number=number, global_batch_size=512)
    price = ["--cost_per_hour", "30"]
    _, out, _ = cli("compare", tmp_path / "a", "--round", "v1.0", "--csv", *price)
    heading, *rows = out.splitlines()
    assert heading.startswith("table,system,minutes,Wh,cost,accel.")
    (own,) = [row for row in rows if "(yours)" in row]
    assert re.search(r"12\.0\d*,12\.0\d*,6\.0\d*,", own)
    (ranking,) = json.loads(cli("compare", tmp_path / "a", "--round", "v1.0", "--json", *price)[1])[
        "results"
    ]
    assert ranking["energy_and_cost"]["watt_hours"] == pytest.approx(12.0)
    _, out, _ = cli("compare", tmp_path, "--csv", *price)
    assert out.startswith("table,result,accel.,minutes,Wh,cost,batch")
    cli("report", tmp_path, "--out", tmp_path / "r.html", *price)
    page = (tmp_path / "r.html").read_text()
    assert re.search(r"minutes</th><th[^>]*>Wh</th><th[^>]*>cost</th><th>verdict", page)
    assert re.search(r"12\.00</td><td[^>]*>12\.00</td><td[^>]*>6\.000</td>", page)
    cli("report", tmp_path / "b", "--out", tmp_path / "r.html")
    assert ">Wh</th>" not in (tmp_path / "r.html").read_text()
