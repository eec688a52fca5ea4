"""The presets ``<gpu>x<n>.yaml``: closed where they say nothing else, at a reference batch size."""

import importlib
import json
import re
from pathlib import Path

import mlperf_logging.rcp_checker as rcp_checker
import pytest

from recipes.cli.division import global_batch, violations
from recipes.cli.parser import RecipeCLI, flat

PRESETS = Path(__file__).parents[2] / "recipes" / "presets"
ROUNDS = Path(rcp_checker.__file__).parent
STEMS = sorted(path.stem for path in PRESETS.parent.glob("[a-z]*.py"))
HARDWARE = sorted(
    path for path in PRESETS.rglob("*.yaml") if re.fullmatch(r"[a-z]+\d+x\d+", path.stem)
)
H200_GIB = 141e9 / 2**30


def settings(path):
    sheet = importlib.import_module(f"recipes.{path.parent.name}").BENCHMARK
    cli = RecipeCLI(sheet, "fit", ["--config", str(path)], build=False)
    return sheet, cli, flat(cli.config), flat(cli.parser.get_defaults())


def header(path):
    """The comment that begins a preset, as one line."""
    return " ".join(line[1:].strip() for line in path.read_text().splitlines() if line[0] == "#")


def convergence_points(stem):
    """Global batch sizes of its first round here; none of Mini Go, whose batch is free."""
    for name in ("training_1.0.0", "training_6.0.0"):
        path = ROUNDS / name / f"rcps_{stem}.json"
        if path.exists():
            return {point["BS"] for point in json.loads(path.read_text()).values()}
    return set()


def fits(stem, gigabytes):
    """Whether the closed settings fit one card, or may be cut to it, as DLRM's tables are."""
    needed = importlib.import_module(f"recipes.{stem}").BENCHMARK.needs.device_gib
    return stem == "dlrm" or not needed or needed < gigabytes * 1e9 / 2**30


ONE_CARD = [
    (stem, name)
    for stem in STEMS
    for name, gigabytes in (("h100x1", 80), ("h200x1", 141))
    if fits(stem, gigabytes)
]


@pytest.mark.parametrize(("stem", "name"), ONE_CARD)
def test_every_recipe_that_fits_has_a_preset_for_one_card(stem, name):
    assert (PRESETS / stem / f"{name}.yaml").is_file()


@pytest.mark.parametrize("path", HARDWARE, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_hardware_preset_is_for_its_cards_and_closed_or_says_that_it_is_open(path):
    sheet, cli, config, defaults = settings(path)
    # All of a machine's devices would be taken otherwise, with another global batch.
    assert config["trainer.devices"] == int(path.stem.rpartition("x")[2])
    assert config["trainer.accelerator"] in ("gpu", "cuda")
    broken = violations(sheet, config, defaults, demo=False)
    assert ("open division" in header(path)) == bool(broken), broken
    batches = convergence_points(sheet.name)
    # SSD's closed default is the reference's 128, below the smallest point, which is allowed.
    assert (
        not batches
        or global_batch(config) in batches | {128}
        or global_batch(config)
        == (config["data.batch_size"] * defaults["trainer.accumulate_grad_batches"])
    )
    assert cli.config.warmup.steps > 0


def test_only_the_largest_need_more_than_a_card():
    missing = {(stem, name) for stem in STEMS for name in ("h100x1", "h200x1")} - set(ONE_CARD)
    assert missing == {("llama31_8b", "h100x1"), ("gpt_oss_20b", "h100x1"),
                       ("gpt_oss_20b", "h200x1"), ("dlrm_dcnv2", "h100x1"),
                       ("dlrm_dcnv2", "h200x1")}  # fmt: skip
    for stem, name in missing:
        assert not (PRESETS / stem / f"{name}.yaml").exists()


@pytest.mark.parametrize("stem", [stem for stem, name in ONE_CARD if name == "h200x1"])
def test_an_h200_preset_names_a_goal_and_what_is_published(stem):
    text = header(PRESETS / stem / "h200x1.yaml")
    for words in ("Goal: ", "published best", "Not measured"):
        assert words in text


def test_closed_tables_of_dlrm_fit_on_one_h200():
    _, _, config, defaults = settings(PRESETS / "dlrm" / "h200x1.yaml")
    assert config["model.net"] == defaults["model.net"]  # fp32 and the reference's sizes
    from recipes.dlrm import BENCHMARK

    rows = config["data.batch_size"] * 26 * 128 * 4 / 2**30  # looked up, and their gradients
    assert BENCHMARK.needs.device_gib + 2 * rows + 2 < H200_GIB


def test_batches_of_unet_on_one_h200_stay_below_32_bit_counts():
    _, _, config, _ = settings(PRESETS / "unet3d" / "h200x1.yaml")
    side = config["data.crop_size"]
    largest = 2 * 32 * side[0] * side[1] * side[2]  # skip and upsampled maps, joined
    batch, steps = config["data.batch_size"], config["trainer.accumulate_grad_batches"]
    divisors = [n for n in range(1, 57) if 56 % n == 0]
    assert batch * steps == 56
    assert batch == max(n for n in divisors if n * largest < 2**31)
