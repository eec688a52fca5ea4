"""What holds for every recipe; they are found, not listed."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recipes.cli.benchmark import Benchmark
from recipes.cli.main import run
from recipes.cli.parser import RecipeCLI
from recipes.cli.presets import demo_preset

ROOT = Path(__file__).parents[2]
STEMS = sorted(path.stem for path in (ROOT / "recipes").glob("[a-z]*.py"))
PRESETS = sorted((ROOT / "recipes" / "presets").rglob("*.yaml"))
CPU = ["--trainer.accelerator", "cpu"]

# Runs a recipe and notes every file that is opened, every directory that is listed during the steps
# after the first, and when the clock starts.
WATCHED = """
import json, os, sys, time
opened, ends, in_steps = [], [], []
def watch(event, args):
    if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
        opened.append((time.monotonic(), os.fsdecode(args[0])))
    if event.startswith(("open", "os.", "glob.", "shutil.")) and ends and len(ends) < 3:
        in_steps.append([event, str(args[0])])
sys.addaudithook(watch)
from callbacks.quality_target import QualityTarget
end_of_step = QualityTarget.on_train_batch_end
def ended(self, *args):
    ends.append(args)
    return end_of_step(self, *args)
QualityTarget.on_train_batch_end = ended
from callbacks.clock import RunClock
mark, moments = RunClock.mark, {}
def noted(self, name, *more):
    moments[name] = mark(self, name, *more)
    return moments[name]
RunClock.mark = noted
import importlib
from recipes.cli.main import run
status = run(importlib.import_module("recipes." + sys.argv[1]).BENCHMARK, sys.argv[2:])
cache = os.environ["FINISHLINE_CACHE"]
early = [path for when, path in opened if path.startswith(cache) and when < moments["run_start"]]
late = [path for when, path in opened if path.startswith(cache) and when > moments["run_start"]]
in_steps = [event for event in in_steps if event[1].startswith(cache)]
print(json.dumps({"status": status, "early": early, "late": late, "in_steps": in_steps}))
"""
# The second is an alarm that three steps deserve, the others show on a slow machine.
PROGRESS = re.compile(
    r"epoch \d+ .*\| |AUC 0|evaluation batch \d+/\d+ \| |.* \.\.\. [\d.]+ s|writing the"
)
# What may be opened before the clock starts: counts and hashes that prepare wrote, the weights that
# a benchmark starts from, the vocabulary that is compared with the published one, and the lengths
# of documents with the order made of them (the rules let both be read). All else in the cache
# counts as data: annotations and labels too.
NO_SAMPLES = re.compile(
    r"/(manifest\.json|records\.jsonl|vocab\.txt|finishline-imagenet/(train|val)\.json|R-50\.pkl|"
    r"[^/]*_document\.idx|finishline-c4/orders(/.*)?|"
    r"(target|work_dir/model\.ckpt-0)\.(index|data-00000-of-00001))$"
)


def benchmark(stem) -> Benchmark:
    return importlib.import_module(f"recipes.{stem}").BENCHMARK


def test_recipes_were_found():
    assert "unet3d" in STEMS


@pytest.mark.parametrize("stem", STEMS)
def test_data_sheet_agrees_with_the_recipe(stem):
    sheet = benchmark(stem)
    assert sheet.name == stem
    assert demo_preset(sheet).is_file()
    assert set(sheet.metrics) <= set(sheet.module_class().metric_names)
    lines = (ROOT / "recipes" / f"{stem}.py").read_text().splitlines()
    assert len(lines) <= 120


@pytest.mark.parametrize("stem", STEMS)
def test_no_data_file_is_opened_before_the_clock_starts(stem, tmp_path, run_python):
    sheet = benchmark(stem)
    preset = str(demo_preset(sheet))
    # The demo data exists before the watched process starts, as prepared real data would.
    assert run(sheet, ["prepare"]) == 0
    args = ["fit", "--config", preset, *CPU, "--output_root", str(tmp_path)]
    args += ["--trainer.limit_train_batches", "3", "--trainer.max_epochs", "1"]
    args += ["--trainer.limit_val_batches", "2"]
    done = run_python(["-c", WATCHED, stem, *args], timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["status"] in (0, 3), done.stderr
    # A library that warns on a normal run belongs into recipes/cli/noise.py, with the reason.
    assert [line for line in done.stderr.splitlines() if not PROGRESS.match(line)] == []
    assert "\x1b" not in done.stdout + done.stderr
    assert [path for path in found["early"] if not NO_SAMPLES.search(path)] == []
    assert [path for path in found["late"] if not NO_SAMPLES.search(path)], "no data was seen"
    folder = next((tmp_path / stem).glob("*"))
    batch_size = json.loads((folder / "run.json").read_text())["global_batch_size"]
    assert_steps_read_samples_only(found["in_steps"], batch_size)
    assert_official_order(folder / "result.txt")


def assert_steps_read_samples_only(events, batch_size):
    """Two steps list no directory, and read at most two files per sample, none of them a record."""
    assert [event for event in events if event[0] != "open"] == []
    paths = [path for _, path in events]
    assert [path for path in paths if NO_SAMPLES.search(path)] == []
    samples = 2 * batch_size
    assert len(set(paths)) <= 2 * samples
    assert len(paths) <= 8 * samples  # numpy opens a mapped file three times


def assert_official_order(path):
    """Keys come in the order of the rules, times never go back, blocks and epochs nest."""
    lines = [json.loads(line.partition(":::MLLOG ")[2]) for line in path.open()]
    keys = [line["key"] for line in lines]
    assert keys[0] == "submission_benchmark"
    order = ["cache_clear", "init_start", "seed", "init_stop", "run_start", "block_start"]
    places = [keys.index(key) for key in order]
    assert places == sorted(places)
    assert keys[-1] == "run_stop"
    for key in ("init_start", "init_stop", "run_start", "run_stop"):
        assert keys.count(key) == 1
    times = [line["time_ms"] for line in lines]
    assert times == sorted(times)
    assert keys.count("block_start") == keys.count("block_stop")
    assert keys.count("epoch_start") == keys.count("epoch_stop")
    assert all(line["metadata"]["file"].startswith("callbacks/") for line in lines)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: "/".join(path.parts[-2:]))
def test_preset_parses_and_says_why(path):
    sheet = benchmark(path.parent.name)
    text = path.read_text()
    assert text.startswith("#"), "a preset begins with a comment that says why it exists"
    assert yaml.safe_load(text), "a preset holds differences"
    cli = RecipeCLI(sheet, "fit", ["--config", str(path)], build=False)
    assert cli.config.target.metrics == dict(sheet.metrics), "presets never lower the target"


@pytest.mark.parametrize("stem", STEMS)
def test_cudnn_tries_its_algorithms_only_where_shapes_stay(stem):
    args = ["--config", str(demo_preset(benchmark(stem)))]
    cli = RecipeCLI(benchmark(stem), "fit", args, build=False)
    assert cli.config.warmup.cudnn_benchmark == (stem not in {"maskrcnn", "minigo"})


@pytest.mark.parametrize("stem", STEMS)
def test_help_reads_like_a_data_sheet(stem):
    command = [sys.executable, "-X", "importtime", f"recipes/{stem}.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "recipes.cli.main" in imported
    assert not imported & {"torch", "lightning", "numba"}, "--help waits for nothing heavy"
    for word in ("Target", "Score", f"python recipes/{stem}.py fit", "prepare", "speed"):
        assert word in done.stdout


@pytest.mark.demo
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", ["1", "2"])
@pytest.mark.parametrize("stem", STEMS)
def test_demo_reaches_the_target(stem, seed, tmp_path):
    # Two threads that sleep while they wait for each other make RNN-T 2.5 times as slow.
    unset = ("PL_GLOBAL_SEED", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment["OMP_NUM_THREADS"] = "2"
    command = [sys.executable, f"recipes/{stem}.py", "fit", "--output_root", str(tmp_path)]
    done = subprocess.run(
        [*command, "--seed_everything", seed, *CPU],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=840,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(next((tmp_path / stem).glob("*/run.json")).read_text())
    assert facts["demo"] is True
    assert facts["division"] == "open"
    assert facts["target"] == dict(benchmark(stem).metrics)
    assert facts["status"] == "success"
    assert facts["seconds_to_target"] < 600
