"""Every rule of every data sheet: the defaults keep it, and another value opens the run."""

import hashlib
import importlib
from functools import cache
from pathlib import Path

import pytest

from recipes import ssd
from recipes.cli.division import global_batch, violations
from recipes.cli.parser import RecipeCLI, flat

STEMS = sorted(p.stem for p in (Path(__file__).parents[2] / "recipes").glob("[a-z]*.py"))
RULES = [
    (stem, rule.key)
    for stem in STEMS
    for rule in importlib.import_module(f"recipes.{stem}").BENCHMARK.closed
]

# The rules leave it to the submitter when a run gives up.
FREE = {(stem, "evaluation.limit") for stem in ("bert", "llama31_8b", "gpt_oss_20b")}


@cache
def sheet_and_defaults(stem):
    sheet = importlib.import_module(f"recipes.{stem}").BENCHMARK
    return sheet, flat(RecipeCLI(sheet, "fit", [], build=False).parser.get_defaults())


def others(value):
    """Values of the same kind that no rule should allow all of."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [-abs(value) - 1, value * 1.37 + 0.1, value * 5 + 3]
    if isinstance(value, list | tuple):
        return [[other for x in value for other in others(x)[:1]] or [7], [*value, *value, 3]]
    # Any other text, and a file that no rule names; a setting without a default may be a switch.
    return [False, __file__] if value is None else [__file__]


def test_rules_were_found():
    assert {stem for stem, _ in RULES} == set(STEMS)


@pytest.mark.parametrize("stem", STEMS)
def test_the_defaults_keep_every_rule(stem):
    sheet, defaults = sheet_and_defaults(stem)
    assert violations(sheet, defaults, defaults, demo=False) == []


@pytest.mark.parametrize(("stem", "key"), RULES)
def test_another_value_opens_the_run(stem, key):
    sheet, defaults = sheet_and_defaults(stem)
    assert key in defaults
    lines = [
        violations(sheet, {**defaults, key: other}, defaults, demo=False)
        for other in others(defaults[key])
    ]
    opened = any(line.startswith(f"{key} is ") for found in lines for line in found)
    assert opened == ((stem, key) not in FREE)


# mlcommons/logging, rcp_checker/training_1.0.0/rcps_maskrcnn.json; the last two have no whole K.
@pytest.mark.parametrize(
    ("batch", "steps", "closed"),
    [(16, (60_000, 80_000), True), (48, (24_000, 32_000), True), (64, (18_000, 24_000), True),
     (96, (12_000, 16_000), True), (128, (9_000, 12_000), True), (256, (5_625, 7_500), True),
     (272, (5_294, 7_058), True), (20, (60_000, 80_000), False), (96, (12_000, 16_500), False)],
)  # fmt: skip
def test_decay_steps_of_mask_rcnn_go_with_the_batch(batch, steps, closed):
    sheet, defaults = sheet_and_defaults("maskrcnn")
    settings = {"trainer.accelerator": "cpu", "trainer.devices": 2, "model.decay_steps": steps,
                "trainer.accumulate_grad_batches": 2, "data.batch_size": batch // 4}  # fmt: skip
    lines = violations(sheet, {**defaults, **settings}, defaults, demo=False)
    assert any(line.startswith("model.decay_steps is") for line in lines) != closed


@pytest.mark.parametrize(
    ("devices", "count"), [(2, 2), ("2", 2), ("0,3", 2), ([1, 4, 5], 3), ("auto", 1), (-1, 1)]
)
def test_global_batch_counts_devices_nodes_and_micro_steps(devices, count):
    settings = {"trainer.accelerator": "cpu", "trainer.devices": devices, "trainer.num_nodes": 3,
                "trainer.accumulate_grad_batches": 5, "data.batch_size": 7}  # fmt: skip
    assert global_batch(settings) == 7 * 5 * 3 * count


@pytest.mark.parametrize("boundaries", [(36, 45), (4, 5), (44, 55), (80, 100)])
def test_boundaries_of_every_whole_k_are_closed_in_ssd(boundaries):
    sheet, defaults = sheet_and_defaults("ssd")
    settings = {**defaults, "model.decay_boundary_epochs": boundaries}
    assert violations(sheet, settings, defaults, demo=False) == []


@pytest.mark.parametrize("named", [True, False])
def test_ssd_from_other_weights_is_open(named, tmp_path, monkeypatch):
    sheet, defaults = sheet_and_defaults("ssd")
    path = tmp_path / ssd.BACKBONES[0]
    settings = {**defaults, "data.root": tmp_path}
    settings |= {"model.backbone_weights": path} if named else {}
    assert violations(sheet, settings, defaults, demo=False) == []  # no file: told elsewhere
    path.write_bytes(b"other weights")
    (line,) = violations(sheet, settings, defaults, demo=False)
    assert line.endswith("/resnet34-333f7ec4.pth) must be torchvision's by its SHA-256")
    digest = hashlib.sha256(b"other weights").hexdigest()
    monkeypatch.setattr(ssd, "BACKBONES", (path.name, f"resnet34-{digest[:8]}.pth"))
    assert violations(sheet, settings, defaults, demo=False) == []
