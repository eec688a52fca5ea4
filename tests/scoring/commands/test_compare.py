"""Comparisons: ranks, two rounds, two results, networks."""

import csv
import json

import pytest

from scoring.published.ranking import rank
from scoring.rules.rounds import load_round
from scoring.rules.scores import score
from scoring.runs.result_sets import find_result_sets


def test_two_rounds_give_the_press_figure(cli):
    status, out, _ = cli("compare", "v0.7", "v1.0", "--json")
    assert status == 0
    definitions = json.loads(out)["definitions"]
    best = {row["benchmark"]: row["ratio"] for row in definitions[0]["benchmarks"]}
    assert best == pytest.approx(
        {"resnet": 2.06, "dlrm": 1.88, "maskrcnn": 1.74, "bert": 1.42, "ssd": 1.37, "minigo": 1.10},
        abs=6e-3,
    )
    assert definitions[0]["largest_ratio"] == pytest.approx(2.06, abs=5e-3)
    assert definitions[1]["largest_ratio"] == pytest.approx(3.37, abs=5e-3)
    assert definitions[2]["largest_ratio"] == pytest.approx(2.26, abs=5e-3)


def test_a_published_result_finds_its_own_place(published, cli):
    folder = published / "NVIDIA/results/dgxa100_ngc21.05_mxnet/ssd"
    status, out, _ = cli("compare", folder, "--round", "v1.0", "--json")
    (result,) = json.loads(out)["results"]
    assert (status, result["rank"], result["of"]) == (0, 9, 22)
    own = next(row for row in result["rows"] if row["own"])
    assert own["accelerator_minutes"] == pytest.approx(8.5207 * 8, abs=1e-2)
    google = next(row for row in result["rows"] if row["name"] == "Google tpu-v4-4096-TF")
    assert google["ratio"] == pytest.approx(0.3379 / 8.5207, abs=1e-4)


def test_demo_results_have_no_rank(tmp_path, make):
    for number in range(1, 6):
        make.run(tmp_path, number=number, demo=True, division="closed")
    rules = load_round("v1.0")
    (found,) = find_result_sets([tmp_path], rules.benchmarks)
    assert rank(score(found, rules), "v1.0")["rank"] is None


@pytest.mark.parametrize(("demo", "runs"), [(True, 5), (False, 2)])
def test_a_demo_and_a_provisional_result_stand_below_the_published_ones(
    demo, runs, tmp_path, make, cli
):
    for number in range(1, runs + 1):
        make.run(tmp_path, number=number, seconds=1.0, demo=demo, division="closed")
    _, out, _ = cli("compare", tmp_path, "--round", "v1.0", "--json")
    (result,) = json.loads(out)["results"]
    assert result["rank"] is None
    assert [row["own"] for row in result["rows"]] == [False] * 22 + [True]
    _, out, _ = cli("compare", tmp_path, "--round", "v1.0", "--markdown")
    rule, own = [line for line in out.splitlines() if line.startswith("|")][-2:]
    assert rule == "| | | | | |"
    assert own.split(" | ")[1] == ("**demo**" if demo else "**0.0167**")
    _, out, _ = cli("compare", tmp_path, "--round", "v1.0")
    table = out.partition("\n  \n")[0].splitlines()
    above = next(i for i, line in enumerate(table) if "(yours)" in line) - 1
    assert set(table[above]) == {"─", " "}
    assert ("demo data" if demo else "provisional, so no rank") in out


def test_two_results_give_a_ratio_and_a_p_value(tmp_path, make, cli):
    for number in range(1, 6):
        make.run(tmp_path / "a", number=number, seconds=600 + number)
        make.run(tmp_path / "b", number=number, seconds=1200 + number)
    status, out, _ = cli("compare", tmp_path / "a", tmp_path / "b", "--json")
    data = json.loads(out)
    (pair,) = data["pairs"]
    assert (status, pair["a"]["runs"]) == (0, 5)
    assert pair["ratio"] == pytest.approx(1203 / 603)
    assert pair["p_value_a_faster"] == pytest.approx(1 / 252)
    assert "A is faster" in data["notes"][0]


def test_networks_get_a_scoreboard(tmp_path, make, cli):
    make.run(tmp_path, number=1, seconds=600)
    make.run(tmp_path, number=2, seconds=800)
    mine = {"net": "my.Net", "net_arguments": {"width": 8}, "division": "open", "parameters": 5000}
    make.run(tmp_path, number=3, seconds=300, flops_per_sample=None, **mine)
    make.run(tmp_path, number=4, status="aborted", **mine)
    status, out, _ = cli("compare", tmp_path, "--json")
    (board,) = json.loads(out)["scoreboards"]
    first, second = board["rows"]
    assert status == 0
    assert (first["net"], first["reached"], first["runs"]) == (
        "modules.detection.ssd.net.SSD",
        2,
        2,
    )
    assert first["median_seconds"] == 700
    assert (second["net"], second["reached"], second["runs"]) == ("my.Net(width=8)", 1, 2)
    assert (second["parameters"], second["median_seconds"]) == (5000, 300)
    assert second["best_quality"] == {"mAP": 0.24}


def test_markdown_csv_and_plots(tmp_path, published, cli):
    folder = published / "Google"
    _, out, _ = cli("compare", folder, "--round", "v1.0", "--csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert any("(yours)" in row["system"] and float(row["minutes"]) > 15 for row in rows)
    assert {row["table"] for row in rows} == {"maskrcnn, closed division: published in v1.0"}
    _, out, _ = cli("compare", folder, "--round", "v1.0", "--markdown")
    assert out.splitlines()[2].startswith("| system |")
    for name, magic in (("p.png", b"\x89PNG"), ("p.svg", b"<?xml")):
        cli("compare", folder, "--round", "v1.0", "--plot", tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(magic)


def test_two_rounds_as_csv_are_one_table_of_unrounded_figures(cli):
    _, out, err = cli("compare", "v0.7", "v1.0", "--csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert [row["table"] for row in rows[::6]] == [
        "best closed result, any scale, any availability",
        "best closed result, available systems only",
        "NVIDIA's own results on 8 x A100",
    ]
    assert (rows[1]["benchmark"], rows[1]["v0.7 minutes"]) == ("dlrm", "1.2082")
    assert float(rows[0]["ratio"]) == pytest.approx(0.4717 / 0.229)
    # What no table could count is named, as a ratio next to it is too low.
    assert "maskrcnn NVIDIA dgxa100_n34_ngc21.05_pytorch (3.95 recalled, unverified)" in err
    assert "2.06x" in cli("compare", "v0.7", "v1.0")[1]


def test_a_plot_marks_ones_own_bar_and_leaves_a_demo_out(tmp_path, make, cli):
    for demo in (False, True):
        for number in range(1, 6):
            make.run(tmp_path / f"{demo}", number=number, demo=demo, seconds=600)
        plot = tmp_path / f"{demo}.svg"
        cli("compare", tmp_path / f"{demo}", "--round", "v1.0", "--plot", plot)
        drawing = plot.read_text()
        assert drawing.count("fill: #d9822b") == (0 if demo else 1)
        assert ("(yours)" in drawing) == (not demo)  # svg keeps each label as a comment


def test_wrong_use_says_what_to_give(tmp_path, make, cli):
    make.run(tmp_path, number=1)
    status, _, err = cli("compare", tmp_path)
    assert status == 2
    assert "nothing to compare" in err
    assert cli("compare", tmp_path, "--round", "v9")[0] == 2
    assert cli("compare", "v0.7", "v1.0", "--plot", tmp_path / "x.gif")[0] == 2
    for names in (["v0.7"], ["v0.7", "v9.9"], [tmp_path, "v0.7"]):
        status, _, err = cli("compare", *names)
        assert (status, "v0.7 is a round: pass two rounds (v0.7, v1.0)" in err) == (
            2,
            True,
        )


def test_a_provisional_mean_is_compared_and_not_ranked(tmp_path, make, cli):
    for side in "ab":
        make.run(tmp_path / side, number=1, seconds=600)
    _, out, _ = cli("compare", tmp_path / "a", "--round", "v1.0", "--csv")
    (row,) = [row for row in csv.DictReader(out.splitlines()) if "(yours)" in row["system"]]
    assert row["system"].endswith("(yours) (1 of 5 runs, provisional)")
    assert float(row["minutes"]) == 10
    data = json.loads(cli("compare", tmp_path / "a", "--round", "v1.0", "--json")[1])
    (result,) = data["results"]
    assert (result["minutes"], result["provisional_minutes"], result["rank"]) == (None, 10, None)
    _, out, _ = cli("compare", tmp_path / "a", tmp_path / "b", "--markdown")
    minutes = "10.00 (1 of 5 runs, provisional)"
    assert f"| minutes | {minutes} | {minutes} |" in out
    assert "too few runs to decide which is faster" in out.splitlines()[-1]


def test_one_run_against_one_tells_nothing(tmp_path, make, cli):
    make.run(tmp_path / "a", number=1, seconds=600)
    make.run(tmp_path / "b", number=2, seconds=60)
    _, out, _ = cli("compare", tmp_path / "a", tmp_path / "b")
    assert "too few runs to decide which is faster (1 run(s) against 1)" in out


def test_a_faster_b_is_named(tmp_path, make, cli):
    for number in range(1, 5):
        make.run(tmp_path / "a", number=number, seconds=600 + number)
        make.run(tmp_path / "b", number=number, seconds=60 + number)
    _, out, _ = cli("compare", tmp_path / "a", tmp_path / "b")
    assert "B is faster (p = 0.014" in out  # 1 / 70: all of B's four before all of A's four


def test_scoreboard_fits_80_columns_and_names_the_reference(tmp_path, make, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    reference = {"reference_net": "modules.detection.ssd.net.SSD"}
    make.run(tmp_path, number=1, seconds=600, **reference)
    mine = {"net": "my.Net", "net_arguments": {"width": 8}, "division": "open", **reference}
    make.run(tmp_path, number=2, seconds=300, **mine)
    mine["net_arguments"] = {"width": 16}
    make.run(tmp_path, number=3, seconds=1200, **mine)
    _, out, _ = cli("compare", tmp_path)
    assert all(len(line) <= 80 for line in out.splitlines())
    for name in ("Net #1 ", "Net #2 ", "SSD (reference) "):
        assert any(line.startswith(f" {name}") for line in out.splitlines()), name
    assert "Net #1: my.Net(width=8)\n  2.000x as fast as the reference" in out
    assert "Net #2: my.Net(width=16)\n  0.5000x as fast" in out


def test_a_table_too_wide_becomes_a_list(tmp_path, make, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    make.run(tmp_path, number=1, seconds=600)
    _, out, _ = cli("score", tmp_path)
    assert "  benchmark      ssd" in out.splitlines()


def test_closed_rows_are_context_where_the_division_has_none(tmp_path, make, cli):
    for number in range(1, 6):
        make.run(tmp_path, number=number, division="open")
    status, out, _ = cli("compare", tmp_path, "--round", "v1.0")
    assert status == 0
    assert out.splitlines()[0] == (
        "ssd: v1.0 has no result in the open division; its closed results are shown for context"
    )
    assert "Google tpu-v4-4096-TF" in out
    (result,) = json.loads(cli("compare", tmp_path, "--round", "v1.0", "--json")[1])["results"]
    assert (result["rank"], result["of"], len(result["rows"])) == (None, 0, 23)
    cli("report", tmp_path, "--out", tmp_path / "r.html")
    assert "Published neighbours" not in (tmp_path / "r.html").read_text()


def test_a_run_that_counts_for_nothing_is_named(tmp_path, make, cli):
    make.run(tmp_path / "a", number=1, seconds=600)
    cut = make.run(tmp_path / "a", number=2, stop_reason="INTERRUPTED", status="aborted")
    make.run(tmp_path / "b", number=3, seconds=500)
    _, out, _ = cli("compare", tmp_path / "a", tmp_path / "b", "--markdown")
    data = json.loads(cli("compare", tmp_path / "a", tmp_path / "b", "--json")[1])
    (note,) = [line for line in data["notes"] if "left out" in line]
    assert note.startswith(f"ssd: left out {cut.name}: interrupted by hand")
    status, _, err = cli("compare", tmp_path / "a")
    assert status == 2
    assert f"left out {cut.name}" in err


REFERENCE = {"reference_net": "modules.detection.ssd.net.SSD"}
MINE = {"net": "my.Net", "net_arguments": {}, "division": "open", **REFERENCE}


def boards_of(cli, folder):
    return json.loads(cli("compare", folder, "--json")[1])["scoreboards"]


def test_times_of_other_machines_are_not_mixed_or_set_against_each_other(tmp_path, make, cli):
    fast = {"cpu": "x", "accelerator": "NVIDIA H100"}
    make.run(tmp_path, number=1, seconds=600, **REFERENCE)
    make.run(tmp_path, number=2, seconds=10, system=fast, **REFERENCE)
    make.run(tmp_path, number=3, seconds=300, **MINE)
    make.run(tmp_path, number=4, seconds=40, system={"cpu": "y"}, **MINE)
    (board,) = boards_of(cli, tmp_path)
    assert sorted(row["median_seconds"] for row in board["rows"]) == [10, 40, 300, 600]
    _, out, _ = cli("compare", tmp_path)
    assert out.count("x as fast as the reference") == 1
    assert "2.000x as fast as the reference" in out
    assert "on 1 x NVIDIA H100" in out


def test_runs_on_own_data_are_not_set_beside_the_benchmarks(tmp_path, make, cli):
    own = {"division": "open", "dataset": "own data in /data/mine", **REFERENCE}
    make.run(tmp_path, number=1, seconds=600, **REFERENCE)
    make.run(tmp_path, number=2, seconds=300, **MINE)
    make.run(tmp_path, number=3, seconds=6, **own)
    make.run(tmp_path, number=4, seconds=3, **MINE | own)
    boards = boards_of(cli, tmp_path)
    assert [[row["median_seconds"] for row in board["rows"]] for board in boards] == [
        [300, 600],
        [3, 6],
    ]
    assert "ssd: networks (own data in /data/mine)" in cli("compare", tmp_path)[1]


def test_runs_to_another_target_have_a_board_of_their_own(tmp_path, make, cli):
    for number, target in enumerate((0.23, 0.23, 0.1, 0.1), start=1):
        mine = MINE if number % 2 else REFERENCE
        make.run(tmp_path, number=number, seconds=1000 * target, target={"mAP": target}, **mine)
    boards = boards_of(cli, tmp_path)
    assert [[row["runs"] for row in board["rows"]] for board in boards] == [[1, 1], [1, 1]]
    _, out, _ = cli("compare", tmp_path)
    assert out.count("(real data), target mAP 0.1") == 1


def test_a_side_without_minutes_says_why(tmp_path, make, cli):
    spoilt = [line for line in make.ssd() if '"opt_weight_decay"' not in line]
    for side in "ab":
        for number in range(5):
            lines = [*spoilt, make.line("seed", 10 * number)]
            make.write(tmp_path / side / f"result_{number}.txt", [*lines, number * "#"])
    _, out, _ = cli("compare", tmp_path / "a", tmp_path / "b")
    assert "no run of either side converged (" in out
    assert "ssd: A is invalid: runs that did not converge: " in out
    assert "rejected by the official checker" in out
