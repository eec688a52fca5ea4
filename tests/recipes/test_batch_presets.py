"""The presets ``b<batch>.yaml`` are the reference convergence points of a round, all of them."""

import importlib
import json
import re
import statistics
from functools import cache
from pathlib import Path
from typing import Any

import mlperf_logging.rcp_checker as rcp_checker
import pytest
import yaml
from jsonargparse import Namespace

from recipes.cli.division import violations
from recipes.cli.parser import RecipeCLI, flat

PRESETS = Path(__file__).parents[2] / "recipes" / "presets"
POINTS = Path(rcp_checker.__file__).parent / "training_1.0.0"
LATER = dict.fromkeys(("llama31_8b", "gpt_oss_20b", "dlrm_dcnv2"), "v6.0")  # not in round v1.0


def points_of(stem: str) -> dict[str, Any]:
    """Return the points by name, with warm-ups in whole steps."""
    folder = POINTS.with_name(f"training_{LATER.get(stem, 'v1.0')[1:]}.0")
    content: dict[str, Any] = json.loads((folder / f"rcps_{stem}.json").read_text())
    for point in content.values():
        samples = point["Hyperparams"].get("opt_learning_rate_warmup_samples", 0)
        point["Hyperparams"]["warmup_steps"] = samples // point["BS"]
    return content


# The point's name for a setting -> ours. What is missing is checked below or fixed by the rules.
NAMES = {
    "unet3d": {
        "opt_base_learning_rate": "model.learning_rate",
        "opt_momentum": "model.momentum",
        "opt_learning_rate_warmup_epochs": "model.warmup_epochs",
        "opt_initial_learning_rate": "model.initial_learning_rate",
        "opt_learning_rate_decay_boundary_epochs": "model.decay_boundary_epochs",
        "opt_learning_rate_decay_factor": "model.decay_factor",
        "opt_weight_decay": "model.weight_decay",
    },
    "rnnt": {
        "opt_base_learning_rate": "model.learning_rate",
        "opt_learning_rate_warmup_epochs": "model.warmup_epochs",
        "opt_lamb_learning_rate_hold_epochs": "model.hold_epochs",
        "opt_lamb_learning_rate_decay_poly_power": "model.decay_factor",
        "opt_lamb_learning_rate_min": "model.min_learning_rate",
        "opt_weight_decay": "model.weight_decay",
        "opt_lamb_beta_1": "model.beta1",
        "opt_lamb_beta_2": "model.beta2",
        "model_eva_ema_factor": "model.ema_factor",
    },
    "resnet": {
        "optimizer": "model.optimizer",
        "opt_base_learning_rate": "model.learning_rate",
        "opt_learning_rate_warmup_epochs": "model.warmup_epochs",
        "opt_momentum": "model.momentum",
        "opt_weight_decay": "model.weight_decay",
        "model_bn_span": "data.batch_size",
    },
    "ssd": {
        "opt_base_learning_rate": "model.learning_rate",
        "opt_learning_rate_decay_boundary_epochs": "model.decay_boundary_epochs",
        "opt_learning_rate_warmup_factor": "model.warmup_factor",
        "opt_learning_rate_warmup_steps": "model.warmup_epochs",  # epochs, in spite of its name
        "opt_weight_decay": "model.weight_decay",
        "max_samples": "data.crop_attempts",
        "model_bn_span": "data.batch_size",
    },
    "maskrcnn": {
        "opt_base_learning_rate": "model.learning_rate",
        "opt_learning_decay_steps": "model.decay_steps",
        "opt_learning_rate_warmup_factor": "model.warmup_deficit",
        "opt_learning_rate_warmup_steps": "model.warmup_steps",
        "max_image_size": "data.max_image_size",
        "min_image_size": "data.min_image_size",
    },
    "bert": {
        "opt_base_learning_rate": "model.learning_rate",
        "opt_epsilon": "model.eps",
        "opt_learning_rate_training_steps": "model.training_steps",
        "num_warmup_steps": "model.warmup_steps",
        "start_warmup_step": "model.start_warmup_step",
        "opt_lamb_weight_decay_rate": "model.weight_decay",
    },
    "dlrm": {
        "opt_base_learning_rate": "model.learning_rate",
        "opt_learning_rate_warmup_steps": "model.warmup_steps",
        "lr_decay_start_steps": "model.decay_start_step",
        "sgd_opt_learning_rate_decay_steps": "model.decay_steps",
    },
    **dict.fromkeys(
        LATER,
        {"opt_base_learning_rate": "model.learning_rate", "warmup_steps": "model.warmup_steps"},
    ),
    "dlrm_dcnv2": {"opt_base_learning_rate": "model.learning_rate"},
}
# Errors of the published points, as each preset's header says.
CORRECTED: dict[tuple[str, int, str], Any] = {
    ("resnet", 2048, "opt_weight_decay"): 2e-4,
    ("resnet", 4096, "opt_weight_decay"): 2e-4,
    ("resnet", 32768, "opt_weight_decay"): 2.5e-5,
    ("maskrcnn", 48, "opt_learning_rate_warmup_steps"): 625,
}


def points() -> list[Any]:
    every = []
    for stem in NAMES:
        content = points_of(stem)
        every += [pytest.param(stem, p, id=f"{stem}-{p['BS']}") for p in content.values()]
    return every


@cache
def defaults(stem: str) -> dict[str, Any]:
    """Return the closed defaults by flag; parsing takes a second."""
    return parsed(stem)


def parsed(stem: str, *flags: str) -> dict[str, Any]:
    benchmark = importlib.import_module(f"recipes.{stem}").BENCHMARK
    return flat(RecipeCLI(benchmark, "fit", [*flags, "--data.root", "DIR"], build=False).config)


def settings(stem: str, batch: int) -> dict[str, Any]:
    """Return the preset's settings over the defaults, by flag."""
    path = PRESETS / stem / f"b{batch}.yaml"
    content = yaml.safe_load(path.read_text())
    given = {f"{group}.{k}": v for group, values in content.items() for k, v in values.items()}
    assert set(given) <= set(defaults(stem)), "every key is a flag"
    # Only the parser knows what a network's arguments replace.
    return parsed(stem, "--config", str(path)) if "model.net" in given else defaults(stem) | given


@pytest.mark.parametrize(("stem", "point"), points())
def test_preset_is_the_closed_point(stem, point):
    batch, path = point["BS"], PRESETS / stem / f"b{point['BS']}.yaml"
    if (stem, batch) == ("unet3d", 2):  # fewer samples than eight devices: the defaults, on one
        assert not path.exists()
        config, devices = defaults(stem), 1
    else:
        config = settings(stem, batch)
        devices = config["trainer.devices"]
        assert devices == 8
    benchmark = importlib.import_module(f"recipes.{stem}").BENCHMARK
    assert violations(benchmark, config, defaults(stem), demo=False) == []
    accumulated = config["trainer.accumulate_grad_batches"] or 1
    assert config["data.batch_size"] * devices * accumulated == batch
    for name, flag in NAMES[stem].items():
        expected = CORRECTED.get((stem, batch, name), point["Hyperparams"][name])
        value = config[flag]
        assert (list(value) if isinstance(value, list | tuple) else value) == expected, flag


@pytest.mark.parametrize("stem", NAMES)
def test_every_batch_preset_is_a_published_point(stem):
    content = points_of(stem)
    batches = {p["BS"] for p in content.values()} - ({2} if stem == "unet3d" else set())
    paths = {int(path.stem[1:]): path for path in (PRESETS / stem).glob("b[0-9]*.yaml")}
    assert set(paths) == batches
    for name, point in content.items():
        if point["BS"] not in paths:
            continue
        text = " ".join(paths[point["BS"]].read_text().replace("\n#", "").split())
        runs = point["Epochs to converge"]
        mean = statistics.mean(runs) - (stem == "dlrm")
        stated = re.search(r": ([\d,.]+) (samples|of an epoch|epochs) to the target", text)
        assert abs(float(stated[1].replace(",", "")) - mean) < 0.51
        assert f"the mean of {len(runs)} runs" in text
        assert f"{name}, round {LATER.get(stem, 'v1.0')}" in text


def test_what_the_points_fix_besides_the_numbers():
    bert = json.loads((POINTS / "rcps_bert.json").read_text())
    for point in bert.values():
        config = settings("bert", point["BS"])
        hyper = point["Hyperparams"]
        betas = (hyper["opt_lamb_beta_1"], hyper["opt_lamb_beta_2"])
        assert tuple(config["model.betas"]) == betas
    rnnt = json.loads((POINTS / "rcps_rnnt.json").read_text())
    for point in rnnt.values():
        config = settings("rnnt", point["BS"])
        net = config["model.net"]
        scale = net["init_args"]["init_scale"] if isinstance(net, dict | Namespace) else 0.5
        assert scale == point["Hyperparams"]["model_weights_initialization_scale"]
        assert config["model.gradient_clip_norm"] == 1.0  # also where the point says "none"


@pytest.mark.parametrize("path", sorted((PRESETS / "resnet").glob("b*.yaml")), ids=str)
def test_resnet_runs_end_with_an_evaluation_after_their_schedule(path):
    config = settings("resnet", int(path.stem[1:]))
    epochs, limit = config["model.train_epochs"], config["evaluation.limit"]
    assert epochs <= limit < epochs + 4
    assert (limit - config["evaluation.first"]) % config["evaluation.every"] == 0
    point = json.loads((POINTS / "rcps_resnet.json").read_text())[f"resnet_ref_{path.stem[1:]}"]
    decay = point["Hyperparams"]["opt_learning_rate_decay_steps"]
    # Some points give the epochs of the whole schedule, some the steps of the decay.
    steps = 1_281_167 / point["BS"]
    whole = decay if decay < 100 else decay / steps + config["model.warmup_epochs"]
    assert abs(epochs - whole) < 0.2


@pytest.mark.parametrize(("stem", "point"), points())
def test_the_page_lists_the_point(stem, point):
    if (stem, point["BS"]) == ("unet3d", 2):
        return
    page = (PRESETS.parents[1] / "docs" / f"{stem}.md").read_text()
    row = re.search(rf"(?m)^\| `b{point['BS']}` \|(.*)\|$", page)[1]
    cells = [cell.strip() for cell in row.split("|")]
    config, runs = settings(stem, point["BS"]), point["Epochs to converge"]
    per_device, _, accumulated = cells[0].replace(",", "").partition(" x ")
    assert int(per_device) == config["data.batch_size"]
    assert int(accumulated or 1) == config["trainer.accumulate_grad_batches"]
    assert float(cells[1]) == config["model.learning_rate"]
    mean = statistics.mean(runs) - (stem == "dlrm")
    stated, count = next(re.findall(r"([\d,.]+) \((\d+)\)", c)[0] for c in cells if "(" in c)
    decimals = len(stated.partition(".")[2])
    assert stated == f"{mean:,.{decimals}f}"
    assert int(count) == len(runs)
