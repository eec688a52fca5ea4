"""Every recipe's own flags and their defaults, as a list that a change has to touch on purpose.

Lightning's ``--trainer.*`` flags are not listed. ``python -m tests.recipes.test_flags`` writes the
lists anew.
"""

import importlib
from pathlib import Path

import pytest

from recipes.cli.parser import RecipeCLI

ROOT = Path(__file__).resolve().parents[2]
STEMS = sorted(path.stem for path in (ROOT / "recipes").glob("[a-z]*.py"))
SNAPSHOTS = Path(__file__).resolve().parent / "data/flags"
REFRESH = "python -m tests.recipes.test_flags"


def flags(stem: str) -> list[str]:
    """``--name = default`` of each flag of ``fit``, sorted; with the rule where closed has one."""
    benchmark = importlib.import_module(f"recipes.{stem}").BENCHMARK
    defaults = RecipeCLI(benchmark, "fit", [], build=False).parser.get_defaults()
    own = {k: v for k, v in vars(defaults.as_flat()).items() if not k.startswith("trainer.")}
    net = own.pop("model.net")
    own |= {f"model.net.init_args.{name}": value for name, value in net["init_args"].items()}
    own["model.net.class_path"] = net["class_path"]
    rules = {rule.key: f"  # closed: {rule.text}" for rule in benchmark.closed}
    return sorted(f"--{name} = {value}{rules.get(name, '')}" for name, value in own.items())


def difference(listed: list[str], found: list[str]) -> list[str]:
    gone = [f"- {line}" for line in listed if line not in found]
    return gone + [f"+ {line}" for line in found if line not in listed]


@pytest.mark.parametrize("stem", STEMS)
def test_flags_and_defaults_are_those_listed(stem):
    changed = difference((SNAPSHOTS / f"{stem}.txt").read_text().splitlines(), flags(stem))
    hint = f"if this is meant, refresh the list with: {REFRESH}"
    assert not changed, "\n".join([f"flags of {stem} changed; {hint}", *changed])


def test_every_recipe_has_a_list_and_every_list_a_recipe():
    assert STEMS
    assert sorted(path.stem for path in SNAPSHOTS.glob("*.txt")) == STEMS


@pytest.mark.parametrize("group", ["model", "data", "target", "evaluation", "warmup"])
def test_lists_hold_every_group(group):
    for path in SNAPSHOTS.glob("*.txt"):
        assert f"--{group}." in path.read_text(), path.name


def test_a_removed_a_new_and_a_changed_flag_are_shown():
    assert difference(["--a = 1", "--b = 2"], ["--b = 3", "--c = 4"]) == [
        "- --a = 1",
        "- --b = 2",
        "+ --b = 3",
        "+ --c = 4",
    ]


if __name__ == "__main__":
    SNAPSHOTS.mkdir(parents=True, exist_ok=True)
    for stem in STEMS:
        (SNAPSHOTS / f"{stem}.txt").write_text("\n".join(flags(stem)) + "\n")
