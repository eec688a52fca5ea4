"""The demos' measured times: one table, ten seeds each, nine of ten within three minutes."""

import json
from pathlib import Path

import pytest

from recipes.cli.demo_times import demo_time, rows
from tests import demo_times

STEMS = sorted(path.parent.name for path in demo_times.TABLE.parent.glob("*/demo.yaml"))


@pytest.mark.parametrize("stem", STEMS)
def test_nine_of_ten_seeds_reach_the_target_in_three_minutes(stem):
    runs = [row for row in rows() if row["stem"] == stem]
    good = [r for r in runs if r["reached"] == "yes" and float(r["seconds"]) <= 180]
    assert {row["seed"] for row in runs} >= set("0123456789"), f"python -m tests.demo_times {stem}"
    assert len(good) >= 0.9 * len(runs)


def test_summary_is_median_and_worst_in_minutes(tmp_path, monkeypatch):
    table = tmp_path / "times.csv"
    monkeypatch.setattr(demo_times, "TABLE", table)
    measured = [row(seed, seconds) for seed, seconds in ((0, 60), (10, 120), (2, 300))]
    demo_times.save(measured)
    assert [r["seed"] for r in rows(table)] == ["0", "2", "10"]
    figures = demo_time("ssd", table)
    assert (figures.seeds, figures.reached, figures.median, figures.worst) == (3, 3, 2.0, 5.0)
    assert str(figures) == "2.0 min (worst 5.0)"
    with pytest.raises(ValueError, match="no run of bert"):
        demo_time("bert", table)


def row(seed, seconds):
    values = ("ssd", seed, "yes", seconds, 50, 5, 0.0, 2, "some processor", "abc")
    return dict(zip(demo_times.COLUMNS, map(str, values), strict=True))


def test_a_repeated_command_runs_only_what_is_missing(tmp_path, monkeypatch, capsys):
    table, run = tmp_path / "times.csv", []
    monkeypatch.setattr(demo_times, "TABLE", table)
    monkeypatch.setattr(demo_times, "rows", lambda: rows(table))
    monkeypatch.setattr(demo_times, "demo_time", lambda stem: demo_time(stem, table))

    def measure(stem, seed):
        run.append(seed)
        return row(seed, 60 if seed else 240)

    monkeypatch.setattr(demo_times, "measure", measure)
    assert demo_times.main(["ssd", "--seeds", "3"]) == 1, "one of three took four minutes"
    assert demo_times.main(["ssd", "--seeds", "12"]) == 0
    assert run == list(range(12))
    demo_times.main(["ssd", "--seeds", "1", "--anew"])
    assert run[12:] == [0]
    assert "12 seeds; 11 of 12 seeds within 180 s" in capsys.readouterr().out


def test_a_run_is_recorded_as_it_ended(monkeypatch):
    class Done:
        returncode, stderr = 3, ""

    def fit(command, **settings):
        if command[0] == "git":
            return type("Git", (), {"stdout": "abc\n"})
        folder = Path(command[command.index("--output_root") + 1], "ssd", "run")
        folder.mkdir(parents=True)
        record = {"seconds_to_target": None, "seconds": {"total": 61.26}, "epochs": 60}
        (folder / "run.json").write_text(json.dumps(record))
        return Done()

    monkeypatch.setattr(demo_times.subprocess, "run", fit)
    measured = demo_times.measure("ssd", 4)
    assert (measured["reached"], measured["seconds"], measured["epochs"]) == ("no", "61.3", "60")
