"""The first check of a GPU, with steps of its own instead of the real ones."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import gpu_check, gpu_ranks
from tests.gpu_check import RECIPES, Step, parse, plan, run_all
from tests.gpu_table import table

GOOD = {
    "benchmark": "dlrm", "device": "NVIDIA H200", "precision": "bf16-mixed", "scaled": [],
    "figures": {"samples_per_second": 8.1e6, "ms_per_step_median": 6.8, "ms_per_step_p90": 7.0,
                "mfu": 0.04, "peak_memory_gib": 97.0},
    "published": {"share_of_best": 1.09, "share_of_limit": 0.24},
}  # fmt: skip
VARIANTS = {
    "benchmark": "unet3d",
    "variants": [
        {"name": "bf16", "samples_per_second": 30.0, "ms_per_step_median": 90.0,
         "loss_error": 1e-3, "gradient_error": 2e-3, "right": True, "error": None},
        {"name": "preset", "samples_per_second": None, "right": False, "error": "no compiler"},
    ],
}  # fmt: skip


def python(text):
    return [sys.executable, "-c", text]


def test_a_failure_or_a_step_without_end_stops_nothing_else(tmp_path):
    mark = tmp_path / "survived"
    (tmp_path / "child.py").write_text(f"import time; time.sleep(2); open({str(mark)!r}, 'w')")
    parent = f"import subprocess as s, sys; s.run([sys.executable, {str(tmp_path / 'child.py')!r}])"
    steps = [
        Step("endless", python(parent), 1.0),
        Step("first", python("print('fine')"), 60),
        Step("wrong", python("raise SystemExit('this is why')"), 60),
        Step("last", python("print('reached')"), 60),
    ]
    outcomes = run_all(steps, tmp_path, 181)
    assert [each.status for each in outcomes] == [
        "stopped after 1 s", "passed", "failed (1)", "passed",
    ]  # fmt: skip
    assert outcomes[2].last_line == "this is why"
    assert "reached" in (tmp_path / "last.log").read_text()
    time.sleep(2)
    assert not mark.exists(), "children of a stopped step go on"
    text, right = table(tmp_path, outcomes)
    assert "wrong: failed (1); this is why" in text
    assert right  # no figure is wrong


def test_steps_beyond_the_budget_are_named(tmp_path):
    outcomes = run_all([Step("a", python("import time; time.sleep(9)"), 60)] * 2, tmp_path, 1.0)
    assert [each.status for each in outcomes] == ["stopped after 1 s", "left out"]


def test_the_plan_is_correctness_then_all_recipes_then_variants(tmp_path):
    steps = plan(parse(["--devices", "4", "--out", str(tmp_path)]))
    names = [step.name for step in steps]
    assert names[:2] == ["correct", "ranks"]
    assert names[2:10] == [f"speed {stem}" for stem in RECIPES]
    assert {name.split()[0] for name in names[10:]} == {"variants"}
    assert "variants minigo" in names
    assert len(RECIPES) == 8  # of v1.0; later ones take more than their share of eight minutes
    assert set(RECIPES) < {path.stem for path in gpu_check.ROOT.glob("recipes/[a-z]*.py")}
    for step in steps[2:]:
        assert (gpu_check.ROOT / step.command[step.command.index("--config") + 1]).is_file()
    (dlrm,) = (step for step in steps if step.name == "variants dlrm")
    assert "--memory_gib" in dlrm.command
    assert (
        "the_presets_precision_compilation_and_layout_train_the_demo"
        in Path(gpu_check.ROOT / "tests/recipes/test_gpu.py").read_text()
    )
    (deselected,) = (word for word in steps[0].command if word.startswith("not "))
    assert deselected == "not the_presets_precision_compilation_and_layout"
    files = [word for word in steps[0].command if word.startswith("tests/")]
    assert {"tests/recipes/test_gpu.py", "tests/modules/minigo/test_inference.py"} <= set(files)
    assert "tests/test_docs.py" not in files


@pytest.mark.parametrize(
    "args", [[], ["--devices", "8"], ["--minutes", "30", "--device", "cpu"], ["--only", "resnet"]]
)
def test_the_time_is_shared_so_that_every_step_gets_a_turn(args):
    given = parse(args)
    steps = plan(given)
    assert sum(step.limit_s for step in steps) == pytest.approx(60 * given.minutes)
    # A process that only imports and builds takes about ten seconds.
    assert min(step.limit_s for step in steps) >= 15


def test_a_step_may_take_what_others_left_but_not_what_is_kept_for_later_ones(
    tmp_path, monkeypatch
):
    clock, limits = [0.0], []

    def run_step(step, logs):
        limits.append(step.limit_s)
        clock[0] += {"quick": 2.0, "endless": step.limit_s}[step.name]
        return gpu_check.Outcome(step, "passed", 0.0, "")

    monkeypatch.setattr(gpu_check, "run_step", run_step)
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: clock[0])
    quick, endless = Step("quick", [], 10.0), Step("endless", [], 10.0)
    run_all([quick, endless, endless, quick], tmp_path, 40.0)
    assert limits == [10.0, 18.0, 10.0, 10.0]


def test_the_table_has_every_recipe_and_variant(tmp_path):
    for name, facts in (("speed/dlrm", GOOD), ("variants/unet3d", VARIANTS)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.json").write_text(json.dumps(facts))
    (tmp_path / "speed" / "rnnt.json").write_text('{"benchmark": "rnnt"}')  # stopped early
    (tmp_path / "speed" / "ssd.json").write_text('{"benchm')
    text, right = table(tmp_path, [])
    assert right
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    for words in ("NVIDIA H200", "8,100,000", "109 %", "24 %", "97", "no"):
        assert words in rows["dlrm"]
    assert rows["rnnt"].split()[1:] == ["-"] * 9 + ["no"]
    assert "did not run: no compiler" in text
    VARIANTS["variants"][0]["right"] = False
    (tmp_path / "variants" / "unet3d.json").write_text(json.dumps(VARIANTS))
    text, right = table(tmp_path, [])
    assert "WRONG" in text
    assert not right


def test_ranks_that_differ_are_shown(tmp_path):
    facts = {"devices": 8, "losses": {"ddp": 4.5, "fsdp2": 4.6},
             "equal": {"ddp": True, "fsdp2": False},
             "samples_per_second": {"one": 2e3, "all": 15e3}, "efficiency": 0.9375}  # fmt: skip
    (tmp_path / "ranks.json").write_text(json.dumps(facts))
    text, right = table(tmp_path, [])
    assert "8 ranks, ddp: evaluation loss 4.500000, equals one rank" in text
    assert "fsdp2: evaluation loss 4.600000, DIFFERS FROM ONE RANK" in text
    assert "efficiency 93.8 %" in text
    assert not right


def test_a_missing_package_is_named_before_anything_runs(tmp_path, monkeypatch, capsys):
    assert gpu_check.missing_packages() == []
    monkeypatch.setattr(gpu_check, "plan", lambda given: pytest.fail("a step was planned"))
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["no-such-package>=2,<3", "torch>=2.11"]\n'
    )
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    assert gpu_check.main(["--out", str(tmp_path)]) == 2
    assert "not installed: no-such-package; run pip" in capsys.readouterr().out


def test_a_check_that_is_stopped_ends_its_step(tmp_path):
    text = (
        "import signal, sys; from pathlib import Path; from tests.gpu_check import Step, run_all\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "wait = [sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); "
        "time.sleep(60)']\n"
        f"run_all([Step('a', wait, 60)], Path({str(tmp_path)!r}), 60)"
    )
    check = subprocess.Popen(python(text), cwd=Path(__file__).parents[1])
    log, end = tmp_path / "a.log", time.monotonic() + 30
    while time.monotonic() < end and not (log.is_file() and log.read_text().count("\n") >= 2):
        time.sleep(0.05)
    check.terminate()
    assert check.wait(30) == 143
    step = int(log.read_text().splitlines()[-1])
    with pytest.raises(ProcessLookupError):
        os.kill(step, 0)


def test_the_status_tells_whether_all_was_right(tmp_path, monkeypatch, capsys):
    kept, old = tmp_path / "data" / "mine.json", tmp_path / "speed" / "dlrm.json"
    for path in (kept, old):
        path.parent.mkdir()
        path.write_text("{}")
    for code in (0, 1):
        step = Step("only", python(f"raise SystemExit({code})"), 60)
        monkeypatch.setattr(gpu_check, "plan", lambda given, step=step: [step])
        assert gpu_check.main(["--out", str(tmp_path)]) == code
    assert (tmp_path / "table.txt").read_text() in capsys.readouterr().out
    assert kept.is_file()
    assert not old.exists()


@pytest.mark.slow
def test_two_cpu_ranks_equal_one_and_scaling_is_measured(tmp_path):
    assert gpu_ranks.main(["--device", "cpu", "--devices", "2", "--out", str(tmp_path)]) == 0
    facts = json.loads((tmp_path / "ranks.json").read_text())
    assert facts["equal"] == {"ddp": True, "fsdp2": True}
    assert facts["efficiency"] > 0
