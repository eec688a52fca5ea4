"""Published rates and the work of a sample: they ship with the package and give the limits."""

import importlib
from pathlib import Path

import pytest

from recipes.speed.published import beside_published, best_published, limit_of, unit_of

STEMS = sorted(path.stem for path in (Path(__file__).parents[3] / "recipes").glob("[a-z]*.py"))
# Measured on one H200 with large bf16 products and copies.
H200 = {"product_tflops": 790, "product_dtype": "bfloat16", "copy_gb_per_second": 4300}


@pytest.mark.parametrize("stem", STEMS)
def test_every_recipe_has_a_published_best_and_a_limit(stem):
    name = importlib.import_module(f"recipes.{stem}").BENCHMARK.name
    best = best_published(name, "NVIDIA H200")  # its own where it has one, else the best of all
    assert unit_of(name) != "samples"
    if stem == "gpt_oss_20b":  # new in v6.0, whose results are not out
        assert best is None
        assert limit_of(name, H200) == pytest.approx(790e12 / 187_400_391_229_440, rel=1e-4)
        return
    assert best["source"].startswith("v")
    # Nobody is faster than the device allows: a wrong power of ten in either file shows here.
    assert 0.05 < best["best"] / limit_of(name, H200) < 1.1


def test_a_published_accelerator_is_compared_with_its_own_best():
    assert best_published("bert", "NVIDIA H200")["best"] == 1031
    assert best_published("bert", "NVIDIA H100 80GB HBM3")["best"] == 1069
    assert best_published("bert", "CPU, 2 threads")["accelerator"] == "GB200"
    assert best_published("resnet", "NVIDIA H100 PCIe")["accelerator"] == "H100"
    assert best_published("rnnt", "NVIDIA A100-SXM4-80GB")["best"] == 1032
    assert best_published("dlrm_dcnv2", "NVIDIA GH200 480GB")["accelerator"] == "GB200"
    assert best_published("toy", "NVIDIA H200") is None


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("resnet", 14_000, 20_000), ("unet3d", 270, 280), ("ssd", 8_000, 8_500),
        ("maskrcnn", 470, 480), ("bert", 1_600, 1_680), ("rnnt", 7_900, 8_100),
        ("dlrm", 30e6, 37e6), ("minigo", 46, 47), ("llama31_8b", 1.87, 1.89),
    ],
)  # fmt: skip
def test_limits_of_an_h200_are_those_worked_out_by_hand(name, low, high):
    assert low <= limit_of(name, H200) <= high


def test_an_unknown_benchmark_has_no_limit():
    assert limit_of("toy", H200) is None


def test_games_are_compared_as_games_and_the_share_is_of_the_best():
    rates = {"samples_per_second": 9000.0, "games_per_second": 2.015}
    parts, lines = beside_published("minigo", "NVIDIA H100 80GB HBM3", rates, H200)
    assert parts["published"]["share_of_best"] == pytest.approx(0.5)
    assert parts["published"]["unit"] == "games/s"
    assert lines[1].endswith("here 2.015, 50 % of it")
    _, lines = beside_published("dlrm", "NVIDIA H100 80GB HBM3", rates, H200)
    assert lines[1].startswith("published best: 7,400,000 rows/s per H100")
    parts, lines = beside_published("toy", "CPU, 1 threads", rates, H200)
    assert "published" not in parts
    assert len(lines) == 1
