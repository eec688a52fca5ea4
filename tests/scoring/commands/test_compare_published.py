"""Comparisons of published results: rounds, one benchmark through them, sizes, filters."""

import csv
import json

import pytest


def of(cli, *arguments):
    status, out, err = cli("compare", *arguments, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


def test_a_result_without_logs_is_never_replaced_by_a_slower_one(cli):
    definitions = of(cli, "v0.7", "v1.0")["definitions"]
    available = {row["benchmark"]: row for row in definitions[1]["benchmarks"]}
    # 1.059 -> 4.909 minutes would be 0.22x: both rounds lack the logs of the fastest.
    assert available["resnet"]["ratio"] is None
    assert available["resnet"]["new"] == "NVIDIA dgxa100_n310_ngc21.05_mxnet (logs missing)"
    assert [row["ratio"] for row in definitions[1]["benchmarks"]][-1] is None
    largest = {row["benchmark"]: row for row in definitions[0]["benchmarks"]}
    assert largest["maskrcnn"]["at_least"]
    assert ">= 1.74x" in cli("compare", "v0.7", "v1.0", "--markdown")[1]


def test_benchmarks_of_one_name_and_two_tasks_are_not_compared(cli):
    data = of(cli, "v1.1", "v2.0")
    assert "ssd" not in {row["benchmark"] for row in data["definitions"][0]["benchmarks"]}
    assert "ssd is another benchmark in v2.0 than in v1.1, so it is not compared." in data["notes"]
    renamed = of(cli, "v4.1", "5.0.0")
    names = {row["benchmark"] for row in renamed["definitions"][0]["benchmarks"]}
    assert {"retinanet", "rgat"} <= names
    assert [d["definition"] for d in renamed["definitions"]][
        2
    ] == "NVIDIA's own results on 8 x B200"


def test_up_to_holds_for_any_two_rounds_and_says_its_definition(cli):
    data = of(cli, "v4.1", "v5.0")
    assert data["definitions"][0]["largest_ratio"] == pytest.approx(1.188 / 0.5603, abs=2e-3)
    assert data["notes"][0].startswith("Up to 2.1x is the first table's largest ratio: the best ")
    (one,) = of(cli, "v4.0", "v4.1", "--count", "8", "--accelerator", "H100")["definitions"]
    assert one["definition"] == "best closed result, 8 x H100"


def test_one_benchmark_is_followed_through_the_rounds(cli, tmp_path):
    data = of(cli, "bert")
    node, any_scale = data["histories"]
    assert node["definition"] == "best closed result on 8 accelerators"
    assert [row["round"] for row in node["rounds"]][:3] == ["v0.7", "v1.0", "v1.1"]
    assert {row["accelerators"] for row in node["rounds"]} == {8}
    pairs = zip(node["rounds"], node["rounds"][1:], strict=False)
    for before, after in pairs:
        assert after["since_last"] == pytest.approx(before["minutes"] / after["minutes"])
    assert any_scale["rounds"][0]["minutes"] == pytest.approx(0.3928)
    changed = (
        "bert: the target was mlm_accuracy 0.712 up to v0.7, and is mlm_accuracy 0.72 from v1.0 on"
    )
    assert changed in data["notes"]
    status, _, _ = cli("compare", "bert", "--plot", tmp_path / "bert.svg")
    assert status == 0
    assert "best closed result at any scale" in (tmp_path / "bert.svg").read_text()


def test_a_name_that_meant_two_benchmarks_has_a_history_of_each(cli):
    names = [(h["benchmark"], h["rounds"][0]["round"]) for h in of(cli, "ssd")["histories"][::2]]
    assert names == [("ssd", "v0.7"), ("retinanet", "v2.0")]
    (first, _) = of(cli, "retinanet")["histories"]
    assert first["rounds"][-1]["round"] == "v5.1"


def test_a_round_is_listed_through_filters(cli):
    _, out, _ = cli("compare", "v5.0", "--benchmark", "bert", "--count", "8", "--csv")
    rows = list(csv.DictReader(out.splitlines()))
    minutes = [float(row["minutes"]) for row in rows]
    assert minutes == sorted(minutes)
    assert {row["accel."] for row in rows} == {"8"}
    status, _, err = cli("compare", "v5.0", "--accelerator", "Z80")
    assert (status, err) == (
        2,
        "scoring compare: v5.0 has no published result that passes the filters (Z80)\n",
    )


def test_filters_that_nothing_passes_are_named(cli, tmp_path, make):
    _, out, _ = cli("compare", "v0.7", "v5.1", "--benchmark", "minigo")
    assert out == "v0.7 and v5.1 have no benchmark in common under the filters (minigo)\n"
    _, _, err = cli("compare", "bert", "--accelerator", "Z80")
    assert err == "scoring compare: no published result of bert passes the filters (Z80)\n"
    for number in range(1, 6):
        make.run(tmp_path, number=number)
    data = of(cli, tmp_path, "--round", "v1.0", "--accelerator", "Z80")
    assert data["context"] == [
        "ssd: v1.0 has no result in the closed division that passes the filters (Z80)"
    ]
    assert "division that passes the filters (Z80)" in data["notes"][0]
    of(cli, tmp_path, "--round", "v1.0", "--benchmark", "ssd")
    status, _, err = cli("compare", tmp_path, "--round", "v1.0", "--benchmark", "bert")
    assert (status, err) == (2, f"scoring compare: no result of bert in {tmp_path}\n")
    _, _, err = cli("compare", tmp_path, tmp_path, "--count", "64")
    assert "pass the filters (64 accelerators)" in err


def test_a_name_that_means_nothing_is_told_what_there_is(cli):
    status, _, err = cli("compare", "v9.9")
    assert status == 2
    assert err.startswith("scoring compare: v9.9 does not exist, and is neither a round (v0.7 to v")
    assert "bert" in err
    _, _, err = cli("compare", "v5.1")
    assert "pass two rounds (v5.0, v5.1)" in err


def test_sizes_of_one_submitter_have_an_efficiency(cli, tmp_path):
    data = of(cli, "v5.0", "--submitter", "nvidia", "--benchmark", "bert", "--scaling")
    (group,) = [g for g in data["scaling"] if "GB200" in g["accelerator"]]
    first, *_, last = group["sizes"]
    assert (first["efficiency"], first["speedup"]) == (1, 1)
    speedup = first["minutes"] / last["minutes"]
    assert last["efficiency"] == pytest.approx(
        speedup * first["accelerators"] / last["accelerators"]
    )
    plot = tmp_path / "s.png"
    cli("compare", "v5.0", "--submitter", "NVIDIA", "--scaling", "--plot", plot)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "needs --submitter or --benchmark" in cli("compare", "v5.0", "--scaling")[2]


def test_a_round_without_results_is_one_line(cli, tmp_path, make):
    make.run(tmp_path, number=1)
    status, _, err = cli("compare", tmp_path, "--round", "v6.0")
    assert status == 2
    assert err.startswith("scoring compare: no published results of v6.0 are included; choose one")
    assert err.count("\n") == 1


def test_ones_own_published_result_is_in_the_table_once(published, cli):
    folder = published / "NVIDIA/results/dgxa100_ngc21.05_mxnet/ssd"
    (result,) = of(cli, folder, "--round", "v1.0")["results"]
    names = [row["name"] for row in result["rows"]]
    assert names.count("NVIDIA dgxa100_ngc21.05_mxnet") == 1
    assert len(names) == result["of"] == 22
    assert result["rank"] == 9
    near = of(cli, folder, "--round", "v1.0", "--count", "8")["results"][0]
    assert {row["accelerators"] for row in near["rows"]} == {8}


def scaled(make, root, *, nodes, seconds, epochs):
    """A submission of one system with eight accelerators per node."""
    name = f"box_n{nodes}"
    for number in range(5):
        lines = make.ssd(seconds=seconds, seed=number, evals=((40, 0.15), (epochs, 0.24)))
        make.write(root / f"org/results/{name}/ssd/result_{number}.txt", lines)
    facts = {"number_of_nodes": nodes, "accelerators_per_node": 8, "division": "closed"}
    facts |= {"accelerator_model_name": "NVIDIA H100", "framework": "PyTorch", "status": "cloud"}
    sheet = root / f"org/systems/{name}.json"
    sheet.parent.mkdir(exist_ok=True)
    sheet.write_text(json.dumps(facts))


def test_efficiency_of_logs_is_convergence_times_throughput(tmp_path, make, cli):
    scaled(make, tmp_path, nodes=1, seconds=1000, epochs=50)
    scaled(make, tmp_path, nodes=4, seconds=500, epochs=80)
    (group,) = of(cli, tmp_path, "--scaling")["scaling"]
    small, large = group["sizes"]
    assert (small["accelerators"], large["accelerators"]) == (8, 32)
    assert large["efficiency"] == pytest.approx(0.5)
    assert large["convergence"] == pytest.approx(50 / 80)
    assert large["convergence"] * large["throughput"] == pytest.approx(0.5, rel=1e-3)
    assert cli("compare", tmp_path, "--scaling", "--accelerator", "A100")[0] == 2


def test_several_results_get_a_summary_and_the_best_two_a_reason(tmp_path, make, cli):
    for side, factor in (("a", 1.0), ("b", 0.9)):
        scaled(make, tmp_path / side, nodes=1, seconds=1000 * factor, epochs=50)
        scaled(make, tmp_path / side, nodes=4, seconds=500 * factor, epochs=50)
    data = of(cli, tmp_path / "a", tmp_path / "b")
    (summary,) = data["summaries"]
    assert [row["side"] for row in summary["results"]] == ["b", "a", "b", "a"]
    (pair,) = data["pairs"]  # and not all four
    assert (pair["a"]["minutes"], pair["b"]["minutes"]) == (pytest.approx(500 / 60), 7.5)
    assert pair["gap"]["cause"] == "speed"
    assert data["notes"][0].startswith("ssd, A org box_n4, B org box_n4: B is faster")
    assert "Mainly speed (B has 1.111 of A's samples per second" in data["notes"][1]
    one = of(cli, tmp_path / "a")
    assert [row["accelerators"] for row in one["summaries"][0]["results"]] == [32, 8]
    narrow = of(cli, tmp_path / "a", tmp_path / "b", "--count", "8")
    assert (narrow["summaries"], len(narrow["pairs"])) == ([], 1)


def test_a_long_name_is_never_cut(cli, monkeypatch):
    chosen = ["v5.1", "--submitter", "Dell", "--count", "8", "--benchmark", "dlrm_dcnv2"]
    for width in (None, "160", "110", "80"):
        monkeypatch.delenv("COLUMNS", raising=False)
        if width:
            monkeypatch.setenv("COLUMNS", width)
        out = cli("compare", *chosen)[1]
        assert "…" not in out
        assert ("Dell 1xXE9680Lx8B200-SXM-180GB" in out) or width


def test_a_benchmark_without_published_results_is_named(cli):
    status, _, err = cli("compare", "gpt_oss_20b")
    words = "no published results of gpt_oss_20b are included; it is in v6.0 to v6.1"
    assert (status, err) == (2, f"scoring compare: {words}\n")
