"""Every command in README, docs and recipe docstrings parses against the real command lines."""

import ast
import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from recipes.cli.arguments import Arguments
from recipes.cli.main import COMMANDS
from recipes.cli.parser import RecipeCLI
from recipes.speed.flags import SpeedCLI
from tests.page_examples import page_examples, write_examples

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "recipes").glob("[a-z]*.py"))
RECIPE = re.compile(r"(?:python|torchrun [^\n`]*?) ?recipes/(\w+)\.py ([^\n`]+)")
TORCHRUN = re.compile(r"torchrun ([^\n`]*?) recipes/\w+\.py ([^\n`]+)")
BATCH_SCRIPT = re.compile(r"^#SBATCH .*?(?=^```)", re.MULTILINE | re.DOTALL)
SWEEP = re.compile(r"wandb sweep (\S+\.yaml)")
LINK = re.compile(r"\]\((?!http)([^)#]+)\)")
ANCHOR = re.compile(r"\]\(([\w./]*\.md)?#([\w-]+)\)")
SCORING = re.compile(r"python -m scoring ([^\n`]+)")
# Stands for a network of the reader's own.
PLACEHOLDERS = {"my.Net": "torch.nn.Identity"}


def words(text):
    """Arguments of a command, without the comment or description after it."""
    text = re.sub(r"\[(--[^\]]*)\]", r"\1", text)  # optional flags are parsed like the others
    text = re.split(r"\s{2,}| #|\)", text.strip())[0].rstrip(".;,")
    return [PLACEHOLDERS.get(word, word) for word in shlex.split(text)]


def joined(text):
    """Commands over several lines as one line each."""
    return re.sub(r"\s*\\+\n\s*", " ", text)


def found(pattern):
    return [
        pytest.param(*match.groups(), id=f"{page.name}-{number}")
        for page in PAGES
        for number, match in enumerate(pattern.finditer(joined(page.read_text())))
    ]


def test_pages_hold_commands():
    assert len(found(RECIPE)) > 10
    assert len(found(SCORING)) >= 5


@pytest.mark.parametrize(("stem", "text"), found(RECIPE))
def test_recipe_command_parses(stem, text, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    write_examples(stem, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in page_examples(stem):
        monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)
    benchmark = importlib.import_module(f"recipes.{stem}").BENCHMARK
    command, *args = words(text)
    assert command in {*COMMANDS, *benchmark.commands}
    if command in ("prepare", "doctor"):
        parser = importlib.import_module("jsonargparse").ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(benchmark.datamodule_class(), "data")
        parser.parse_args(list(Arguments(args).without("--submission.division").words))
    elif command == "predict":
        given = Arguments(args)
        assert given.inputs
        assert "--ckpt_path" in given
        assert benchmark.predicts
        RecipeCLI(benchmark, command, given.without(""), build=False)
    elif command == "speed":
        SpeedCLI(benchmark, args, build=False)
    elif command in COMMANDS:
        RecipeCLI(benchmark, command, args, build=False)


@pytest.mark.parametrize("text", found(SCORING))
def test_scoring_command_parses(text):
    from scoring.cli import parser

    args = words(text)
    parsed = parser().parse_args(args[: args.index("--")] if "--" in args else args)
    assert parsed is not None


def test_readme_begins_with_what_a_newcomer_needs():
    top = "\n".join((ROOT / "README.md").read_text().splitlines()[:25])
    assert "pip install -e . && python recipes/unet3d.py fit" in top
    assert "pip install -e '.[test]' && pytest" in top
    for path in (ROOT / "recipes").glob("[a-z]*.py"):
        assert f"`{path.stem}`" in top, f"README's table lacks {path.stem}"


@pytest.mark.parametrize(("own", "recipe"), found(TORCHRUN))
def test_torchrun_line_agrees_with_the_recipes_devices(own, recipe):
    from torch.distributed.run import get_args_parser

    args = get_args_parser().parse_args([*shlex.split(own), "script"])
    flags = pairs(recipe)
    assert args.nproc_per_node == flags["--trainer.devices"]
    assert args.nnodes.split(":")[-1] == flags.get("--trainer.num_nodes", "1")
    assert "strategy" in recipe


def pairs(text):
    """Flag -> value of a command."""
    args = words(text)
    return {flag: value for flag, value in zip(args, args[1:], strict=False) if flag[:2] == "--"}


def test_batch_scripts_agree_with_the_recipes_devices():
    scripts = [m[0] for page in PAGES for m in BATCH_SCRIPT.finditer(joined(page.read_text()))]
    assert scripts
    for script in scripts:
        asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", script, re.MULTILINE))
        flags = pairs(RECIPE.search(script)[2])
        assert "srun python recipes/" in script
        assert asked["nodes"] == flags["--trainer.num_nodes"]
        assert asked["ntasks-per-node"] == asked["gpus-per-node"] == flags["--trainer.devices"]


def test_links_and_sweeps_lead_somewhere():
    for page in PAGES:
        text = page.read_text()
        for target in LINK.findall(text) if page.suffix == ".md" else ():
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
        for target in SWEEP.findall(text):
            assert (ROOT / target).is_file(), f"{page.name} names {target}"


def templates():
    """Every text of the code; what is filled in at run time is a NUL character."""
    for package in ("recipes", "callbacks", "modules", "datamodules", "scoring"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [p.value if isinstance(p, ast.Constant) else "\0" for p in node.values]
                    yield "".join(parts)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


TROUBLES = re.findall(
    r"^### `(.+)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE
)


def test_every_quoted_error_line_is_one_of_the_codes():
    texts = list(templates())
    assert len(TROUBLES) > 30
    for line in TROUBLES:  # `...` stands for anything
        pattern = re.compile(".*".join(re.escape(part) for part in line.split("...")), re.DOTALL)
        assert any(pattern.search(text) for text in texts), f"nothing prints {line!r}"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("[a-z]*.py")), ids=lambda p: p.stem)
def test_each_benchmark_has_a_page_with_what_a_reader_looks_for(path):
    text = (ROOT / "docs" / f"{path.stem}.md").read_text()
    assert len(text.splitlines()) <= 160
    needs = importlib.import_module(f"recipes.{path.stem}").BENCHMARK.needs
    wanted = ["doctor --data.root", "fit --data.root", "## Demo", "icence", "Expected time"]
    wanted += ["## Your own network", "](own_data.md#", "GPU was measured"]
    if needs.published_minutes is not None:
        wanted += [f"Expected time: {needs.published_minutes:g} min on eight A100"]
    for word in wanted:
        assert word in text, f"docs/{path.stem}.md says nothing of {word!r}"
    assert re.search(r"\d GB| size", text)
    assert re.search(r"^## Differences from the reference$", text, re.MULTILINE)


def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = str(page.relative_to(ROOT / "docs"))
        assert name == "README.md" or f"({name})" in index, f"docs/README.md lacks {name}"


def test_links_to_headings_lead_somewhere():
    for page in PAGES:
        for target, anchor in ANCHOR.findall(page.read_text()):
            text = ((page.parent / target) if target else page).read_text()
            titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{page.name} links to {target}#{anchor}"
