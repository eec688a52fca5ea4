"""Measure how long a demo takes to its target, over seeds, and keep the figures that users read.

    python -m tests.demo_times STEM [--seeds 10] [--anew] [--write]

Runs ``python recipes/STEM.py fit`` with the seeds 0, 1, ... one after the other, as a newcomer
does, and adds a row per run to recipes/presets/demo_times.csv at once. Seeds in it are not run
again, so the command can be stopped and repeated; ``--anew`` drops the benchmark's rows first.
Prints median and worst. Exit status 1 if fewer than nine of ten seeds reached the target within
three minutes. ``--write`` puts the figures into the README, the recipe and its page.

Two quiet cores are meant: ``others`` is the mean number of cores that other programs used.
"""

import argparse
import csv
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recipes.cli.demo_times import TABLE, demo_time, rows

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = (
    "stem", "seed", "reached", "seconds", "processor_seconds", "epochs", "others", "cores",
    "machine", "revision",
)  # fmt: skip
LIMIT_S = 180
THREADS = 2


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.demo_times",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stem")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--anew", action="store_true", help="measure all seeds again")
    parser.add_argument("--write", action="store_true", help="put the figures into the pages")
    given = parser.parse_args(arguments)
    measured = rows()
    if given.anew:
        measured = [row for row in measured if row["stem"] != given.stem]
    done = {row["seed"] for row in measured if row["stem"] == given.stem}
    for seed in range(given.seeds):
        if str(seed) in done:
            continue
        row = measure(given.stem, seed)
        measured.append(row)
        save(measured)
        print(json.dumps(row), flush=True)
    if given.write:
        write_figures(given.stem)
    return judge(given.stem)


def judge(stem: str) -> int:
    """Print the summary; return 1 if a tenth of the seeds or more missed the three minutes."""
    runs = [row for row in rows() if row["stem"] == stem]
    good = [r for r in runs if r["reached"] == "yes" and float(r["seconds"]) <= LIMIT_S]
    figures = demo_time(stem)
    print(
        f"{stem}: {figures}, {figures.processor:.1f} processor minutes, {figures.seeds} seeds; "
        f"{len(good)} of {len(runs)} seeds within {LIMIT_S} s"
    )
    return 0 if len(good) >= 0.9 * len(runs) else 1


def measure(stem: str, seed: int) -> dict[str, Any]:
    """Run one demo and return its row."""
    unset = ("PL_GLOBAL_SEED", "OMP_WAIT_POLICY")  # sleeping threads make RNN-T 2.5 times as slow
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment["OMP_NUM_THREADS"] = str(THREADS)
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, f"recipes/{stem}.py", "fit", "--output_root", output]
        own, total, start = _own_seconds(), _machine_seconds(), time.monotonic()
        done = subprocess.run(
            [*command, "--seed_everything", str(seed), "--trainer.accelerator", "cpu"],
            cwd=ROOT, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        own, total = _own_seconds() - own, _machine_seconds() - total
        wall = time.monotonic() - start
        if done.returncode not in (0, 3):
            raise SystemExit(f"{stem}, seed {seed}: {done.stderr.strip()}")
        record = json.loads(next(Path(output, stem).glob("*/run.json")).read_text())
    values = (
        stem, seed, "yes" if done.returncode == 0 else "no",
        round(record["seconds_to_target"] or record["seconds"]["total"], 1), round(own, 1),
        record["epochs"], round(max(0.0, total - own) / wall, 2), os.cpu_count(), _machine(),
        _revision(),
    )  # fmt: skip
    return dict(zip(COLUMNS, map(str, values), strict=True))


def save(measured: list[dict[str, str]]) -> None:
    """Write the table anew, sorted; a stop in between leaves the one before."""
    order = sorted(measured, key=lambda row: (row["stem"], int(row["seed"])))
    new = TABLE.with_suffix(".new")
    with new.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(order)
    new.replace(TABLE)


def places(stem: str) -> dict[Path, str]:
    """File -> regular expression whose first group is the demo's time there."""
    return {
        ROOT / "README.md": rf"(?m)^\| `{stem}` .*\| ([^|]* min \(worst[^|]*\)) \|$",
        ROOT / f"recipes/{stem}.py": r"demo: ([\d.]+ min \(worst[^)]*\))",
        ROOT / f"docs/{stem}.md": r"two cores: ([\d.]+ min \(worst[^)]*\))",
    }


def write_figures(stem: str) -> None:
    """Replace the demo's time in every place that states it."""
    for path, pattern in places(stem).items():
        text = path.read_text()
        place = re.search(pattern, text)
        if place is None:
            raise SystemExit(f"{path} states no time of the demo: no match of {pattern}")
        path.write_text(text[: place.start(1)] + str(demo_time(stem)) + text[place.end(1) :])


def _own_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _machine_seconds() -> float:
    """Processor time of all programs so far, where Linux tells; ours alone elsewhere."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return _own_seconds()
    user, nice, system, _, _, irq, soft, *_ = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def _machine() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
