"""Show that a change moved no bit: the first ten losses of the demos, before it and after.

    python -m tests.same_bits REVISION [STEM ...]

Trains each demo for ten batches and an evaluation, with one seed and one thread, in a copy of
REVISION and in the working tree. The losses, a hash of the weights after them and the evaluation's
metrics must be equal to the bit; prints them as a table. Exit status 1 where one differs or a run
fails. All eight take about five minutes on a quiet core, most of it demo data and imports.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORDER = ROOT / "tests/tools/first_losses.py"
SEED, BATCHES = 20210630, 10

# Samples per step of each demo: the evaluation comes after the tenth step, regardless of the epoch.
BATCH_SIZES = {
    "unet3d": 2,
    "rnnt": 8,
    "resnet": 32,
    "ssd": 4,
    "bert": 64,
    "dlrm": 256,
    "gpt_oss_20b": 16,
    "llama31_8b": 16,
    "dlrm_dcnv2": 512,
    "maskrcnn": 4,
}
# Mini Go is evaluated between generations only: small ones, played in turn with the training, so
# that the ten batches span three generations and two of these come from the new network's games.
OWN_FLAGS = {
    "minigo": ("--data.overlap=false", "--data.games_per_generation=16", "--data.eval_games=8")
}
# What may differ: (stem, row) -> by which share of the value (inf for a hash), and why.
EXCEPTIONS: dict[tuple[str, str], tuple[float, str]] = {
    ("dlrm", "val/auc"): (1e-6, "the CPU kernels of 0.1 summed in another order"),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.same_bits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("revision", help="revision to compare the working tree with")
    parser.add_argument("stems", nargs="*", metavar="STEM", help="demos (default: all)")
    given = parser.parse_args(arguments)
    stems = given.stems or sorted(
        path.parent.name for path in ROOT.glob("recipes/presets/*/demo.yaml")
    )
    failed = []
    with tempfile.TemporaryDirectory(prefix="same_bits-") as name:
        old = checkout(given.revision, Path(name))
        for stem in stems:
            pair = [first_losses(tree, stem, Path(name)) for tree in (old, ROOT)]
            if not report(stem, *pair):
                failed.append(stem)
    print(f"differ: {', '.join(failed)}" if failed else f"equal to the bit: {', '.join(stems)}")
    return 1 if failed else 0


def checkout(revision: str, folder: Path) -> Path:
    """A copy of the files of a revision; the repository is not touched."""
    tree = folder / "revision"
    tree.mkdir()
    archive = subprocess.run(
        ["git", "archive", revision], cwd=ROOT, check=True, stdout=subprocess.PIPE
    ).stdout
    subprocess.run(["tar", "-x", "-C", tree], input=archive, check=True)
    return tree


def first_losses(tree: Path, stem: str, folder: Path) -> dict[str, str]:
    """Name of each figure -> its value; empty where the run failed, with its error printed."""
    work = Path(tempfile.mkdtemp(dir=folder))
    # Besides the recorder, only this tree is on the path: an editable install comes after both.
    shutil.copy(RECORDER, work)
    result = work / "losses.json"
    paths = os.pathsep.join([str(tree), str(work)])
    # Another revision may write its demo data in another format, and each prepares its own.
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    cache = {"FINISHLINE_CACHE": str(folder / f"cache of {tree.name}")}
    run = subprocess.run(
        [sys.executable, str(tree / f"recipes/{stem}.py"), *flags(stem, result, tree)],
        env={**os.environ, **one_thread, **cache, "PYTHONPATH": paths, "WANDB_MODE": "disabled"},
        cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if not result.exists():
        print(f"{stem} in {tree} failed:\n{run.stdout}")
        return {}
    return json.loads(result.read_text())


def flags(stem: str, result: Path, tree: Path) -> list[str]:
    samples = BATCHES * BATCH_SIZES.get(stem, 0)
    after = [f"--evaluation.{name}={samples}" for name in ("first", "every", "limit")]
    after += ["--evaluation.unit=samples", "--evaluation.round_to=step"]
    recorder = [
        "--trainer.callbacks+=first_losses.FirstLosses",
        f"--trainer.callbacks.path={result}",
        f"--trainer.callbacks.tree={tree}",
        f"--trainer.callbacks.batches={BATCHES}",
    ]
    preset = f"--config={tree / f'recipes/presets/{stem}/demo.yaml'}"
    quiet = ["--trainer.enable_progress_bar=false", f"--seed_everything={SEED}", "--debug"]
    return ["fit", preset, *(after if samples else OWN_FLAGS[stem]), *recorder, *quiet]


def report(stem: str, old: dict[str, str], new: dict[str, str]) -> bool:
    """Print one demo's rows; tell whether all are equal that must be."""
    good = bool(old and new)
    for name in sorted(old | new, key=[*old, *new].index):
        before, after = old.get(name, "missing"), new.get(name, "missing")
        verdict = "equal" if before == after else f"DIFFERS: {after}"
        if before != after:
            allowed, reason = EXCEPTIONS.get((stem, name), (None, ""))
            known = allowed is not None and "missing" not in (before, after)
            close = known and near(before, after, allowed)
            verdict += f" (within {allowed:g}: {reason})" if close else ""
            good &= close
        print(f"{stem:9} {name:27} {before:40} {verdict}", flush=True)
    return good


def near(before: str, after: str, allowed: float) -> bool:
    """Whether a figure moved by no more than an exception allows."""
    x, y = (float.fromhex(text.partition(" ")[0]) for text in (before, after))
    return abs(x - y) <= allowed * max(abs(x), abs(y))


if __name__ == "__main__":
    sys.exit(main())
