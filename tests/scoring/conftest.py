"""Makers of logs and run folders, and the command line as a function."""

import json
import os
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from scoring.cli import main
from scoring.official import processes
from tests.warm import WarmProcess

DATA = Path(__file__).parent / "data"
START_MS = 1_620_000_000_000
OFFICIAL = (
    "mlperf_logging.compliance_checker.mlp_compliance",
    "mlperf_logging.rcp_checker.rcp_checker",
    "mlperf_logging.result_summarizer.result_summarizer",
    "mlperf_logging.package_checker.package_checker",
    "scoring.official",
)


@pytest.fixture(scope="session", autouse=True)
def warm_checkers(tmp_path_factory):
    """Ask the package checker in forks of one process, as its imports take a second."""
    warm, alone = WarmProcess(tmp_path_factory.mktemp("official"), OFFICIAL), threading.Lock()

    def run(command, *, input, timeout, env, **_):
        with alone:
            return warm.run(command[1:], env=env, cwd=os.getcwd(), timeout=timeout, input=input)

    ways = SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "subprocess", ways)
        yield
    warm.close()


def mllog(key, value=None, ms=0, **metadata):
    """One log line; ``ms`` counts from the run's init_start."""
    event = {
        "namespace": "",
        "time_ms": START_MS + ms,
        "event_type": "POINT_IN_TIME",
        "key": key,
        "value": value,
        "metadata": {"file": "train.py", "lineno": 7, **metadata},
    }
    return ":::MLLOG " + json.dumps(event)


def ssd_lines(
    *, seconds=600.0, evals=((40, 0.15), (50, 0.24)), status="success", seed=1, gbs=1024, **facts
):
    """A closed ssd log that the official checker accepts."""
    values = {
        "submission_benchmark": "ssd",
        "submission_org": "org",
        "submission_division": "closed",
        "submission_status": "onprem",
        "submission_platform": "box",
        "cache_clear": True,
        "seed": seed,
        "global_batch_size": gbs,
        "gradient_accumulation_steps": 1,
        "model_bn_span": 8,
        "opt_learning_rate_warmup_factor": 0,
        "opt_learning_rate_warmup_steps": 300,
        "opt_weight_decay": 5e-4,
        "opt_base_learning_rate": 2.5e-3,
        "max_samples": 1,
        "opt_learning_rate_decay_boundary_epochs": [40, 50],
        "train_samples": 117266,
        "eval_samples": 5000,
        **facts,
    }
    stop = 20_000 + int(seconds * 1000)
    lines = [mllog(key, value) for key, value in values.items()]
    lines += [mllog("init_start"), mllog("init_stop", ms=10_000), mllog("run_start", ms=20_000)]
    lines.append(mllog("epoch_start", ms=20_000, epoch_num=1))
    for number, (epoch, value) in enumerate(evals, start=1):
        ms = 20_000 + (stop - 20_000) * number // len(evals)
        lines.append(mllog("eval_start", ms=ms - 100, epoch_num=epoch))
        lines.append(mllog("eval_accuracy", value, ms=ms, epoch_num=epoch))
        lines.append(mllog("eval_stop", ms=ms, epoch_num=epoch))
    last = evals[-1][0] if evals else 1
    lines.append(mllog("epoch_stop", ms=stop, epoch_num=last))
    if status is not None:
        lines.append(mllog("run_stop", ms=stop, status=status))
    return lines


def write_lines(path, lines, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


def make_run(root, *, number=1, seconds=600.0, seed=None, stem="ssd", lines=None, **record):
    """One run folder of ours."""
    seed = 100 + number if seed is None else seed
    folder = root / stem / f"2024010{number}-000000-seed{seed}"
    reached = record.get("status", "success") == "success"
    if lines is None:
        status = {"success": "success", "aborted": "aborted"}.get(record.get("status", "success"))
        evals = ((40, 0.15), (50, 0.24)) if reached else ((40, 0.15), (80, 0.22))
        lines = ssd_lines(seconds=seconds, seed=seed, status=status, evals=evals)
    write_lines(folder / "result.txt", lines)
    facts = {
        "benchmark": stem,
        "division": "closed",
        "dataset": "coco",
        "demo": False,
        "net": "modules.detection.ssd.net.SSD",
        "net_arguments": {},
        "status": "success",
        "stop_reason": "TARGET_REACHED" if reached else "BUDGET_EXHAUSTED",
        "seconds_to_target": seconds if reached else None,
        "quality": {"mAP": 0.24},
        "target": {"mAP": 0.23},
        "seed": seed,
        "samples_per_second": 1000.0,
        "seconds": {"init": 20.0, "train": 590.0, "eval": 10.0, "total": seconds},
        "global_batch_size": 1024,
        "devices": 1,
        "strategy": "single_device",
        "precision": "32-true",
        "parameters": 1_000_000,
        "flops_per_sample": 2e9,
        "system": {"cpu": "Test CPU", "memory_gib": 8, "os": "Linux", "accelerator": None},
        "versions": {"torch": "2.11.0", "lightning": "2.6.6"},
        "git_revision": "abc",
        "resumed": False,
        **record,
    }
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture
def published():
    """Small copies of nine published results."""
    return DATA / "published"


@pytest.fixture
def later():
    """Published results of later rounds."""
    return DATA / "later"


@pytest.fixture
def cli(capsys):
    """Run the command line; gives (exit status, standard output, standard error)."""

    def call(*arguments):
        status = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def make():
    """The makers, as tests are no package and cannot import each other."""

    class Makers:
        line = staticmethod(mllog)
        ssd = staticmethod(ssd_lines)
        write = staticmethod(write_lines)
        run = staticmethod(make_run)

    return Makers
