"""The table of all rounds: complete, scored as the official tools do, in the rules' words."""

import csv
from itertools import pairwise
from pathlib import Path

import pytest

from scoring.commands.filters import Filters, names_model
from scoring.published import TABLE, published, published_rounds, status_word
from scoring.published.best import best_of
from scoring.published.tasks import rows_of_task, task_names

DATA = Path(__file__).parents[1] / "data"


def raw_rows():
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_holds_every_round_and_each_result_once():
    counts = {name: len(published(name)) for name in published_rounds()}
    assert counts == {
        "v0.7": 138, "v1.0": 149, "v1.1": 186, "v2.0": 262, "v2.1": 199, "v3.0": 260,
        "v3.1": 209, "v4.0": 205, "v4.1": 154, "v5.0": 201, "v5.1": 185,
    }  # fmt: skip
    keys = [(r["round"], r["submitter"], r["system"], r["benchmark"]) for r in raw_rows()]
    assert len(set(keys)) == len(keys)
    with pytest.raises(ValueError, match=r"no published results of v6.0 .*v5.1$"):
        published("6.0.0")


def test_minutes_are_raw_times_scaling_and_those_of_the_official_summarizer():
    official = 0
    for row in raw_rows():
        if row["minutes"]:
            scaled = float(row["raw_minutes"]) * float(row["scaling"] or 1)
            assert float(row["minutes"]) == pytest.approx(scaled, rel=1e-6, abs=1e-4)
        if row["official_summarizer_minutes"]:
            official += 1
            assert float(row["minutes"]) == pytest.approx(
                float(row["official_summarizer_minutes"]), abs=1e-3
            )
    assert official > 700


@pytest.mark.parametrize("name", ["v0.7", "v1.0"])
def test_the_tables_of_two_rounds_that_were_made_before_agree(name):
    new = {(r.submitter, r.system, r.benchmark): r for r in published(name)}
    with (DATA / f"published_{name}.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            result = new[row["submitter"], row["system_name"], row["benchmark"]]
            expected = float(row["minutes"]) if row["minutes"] else None
            assert result.minutes == pytest.approx(expected, abs=1.1e-4)
            assert result.availability == row["availability"]
            assert result.division == row["division"]


def test_statuses_are_the_words_of_the_rules():
    words = {row.status for name in published_rounds() for row in published(name)}
    assert words == {"onprem", "cloud", "available", "preview", "research"}
    assert status_word("Available on-premise ") == "onprem"
    assert status_word("Available in cloud") == "cloud"


def test_a_name_means_one_task():
    counts = [len(rows_of_task(name, "retinanet")) for name in ("v1.1", "v2.0", "v4.1", "v5.0")]
    assert counts == [0, 27, 26, 39]
    assert len(rows_of_task("v4.1", "rgat")) == 17  # as gnn
    assert {"ssd", "retinanet", "gnn", "rgat"} <= set(task_names())


def test_a_model_is_named_by_whole_words():
    assert names_model("NVIDIA A100-SXM4-80GB (400W)", "a100 sxm")
    assert names_model("NVIDIA A100-SXM-80GB", "A100-SXM")
    assert not names_model("NVIDIA L40S", "L4")
    assert not names_model("NVIDIA Blackwell GPU (GB200)", "B200")
    assert not names_model("NVIDIA A100-PCIe-80GB", "A100 SXM")


def test_filters_narrow_a_round_together():
    rows = [row for row in published("v5.0") if Filters(accelerator="B200", count=8)(row)]
    assert {row.accelerators for row in rows} == {8}
    assert {row.accelerator for row in rows} == {"NVIDIA Blackwell GPU (B200-SXM-180GB)"}
    cloud = [row for row in published("v5.0") if Filters(status="cloud", framework="PyTorch")(row)]
    assert cloud
    assert all(row.status == "cloud" and "pytorch" in row.framework.lower() for row in cloud)
    available = Filters(status="available", submitter="nvidia", division="closed")
    statuses = {row.status for row in published("v4.1") if available(row)}
    assert statuses == {"onprem", "cloud"}
    assert available.words() == "nvidia, available, closed division"


def test_absent_logs_are_no_slower_result():
    rows = [
        r for r in published("v1.0") if r.benchmark == "resnet" and r.availability == "available"
    ]
    best = best_of(rows)
    assert best.minutes == pytest.approx(4.9093, abs=1e-4)
    assert not best.certain
    assert best.name == "NVIDIA dgxa100_n310_ngc21.05_mxnet (logs missing)"
    eight = best_of([row for row in rows if row.accelerators == 8])
    assert eight.certain  # a result of 2,480 accelerators says nothing of one with 8


def test_rounds_are_in_the_order_of_time():
    names = published_rounds()
    assert all(a < b for a, b in pairwise(names))
