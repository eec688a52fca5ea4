"""The examples of the pages' "Your own network": what they show is built, checked and trained."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from recipes.cli.parser import RecipeCLI
from recipes.cli.presets import demo_preset
from recipes.cli.train import check_foreign_net
from tests.page_examples import DOCS, page_examples, write_examples
from tests.test_docs import RECIPE, joined, words

ROOT = DOCS.parent
STEMS = sorted(path.stem for path in (ROOT / "recipes").glob("[a-z]*.py"))
FAST = ["--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"]


def own_commands(stem):
    """Return the arguments of the page's commands that use its examples."""
    text = joined((DOCS / f"{stem}.md").read_text())
    given = [words(arguments) for _, arguments in RECIPE.findall(text)]
    return [one for one in given if re.search(r"\b(mynets|mymodule)\.", " ".join(one))]


COMMANDS = [
    pytest.param(stem, command, id=f"{stem}-{command[2]}")
    for stem in STEMS
    for command in own_commands(stem)
    if "--init_weights" not in command
]


def packed_text():
    places = {"position_ids": torch.tensor([0, 1, 2, 0, 1, 2, 3, 4])}
    places |= {"cu_seqlens": torch.tensor([0, 3, 8]), "masked_index": torch.tensor([1, 5])}
    text = {"input_ids": torch.arange(8) + 5, "segment_ids": torch.zeros(8, dtype=torch.int64)}
    return text | places | {"masked_labels": torch.tensor([7, 9]), "random_next": torch.arange(2)}


def noise_with_labels():
    audio = {"audio": torch.randint(-9999, 9999, (2, 16_000)).short(), "seed": torch.arange(2)}
    audio |= {"audio_lengths": torch.tensor([16_000, 9_000])}
    return audio | {"labels": torch.ones(2, 3).long(), "label_lengths": torch.tensor([3, 2])}


def clicks():
    zeros = torch.zeros(4, 26, dtype=torch.int32)
    return {"dense": zeros[:, :13] + 3, "sparse": zeros, "label": torch.tensor([0, 1, 1, 0]).byte()}


def bags():
    zeros = torch.zeros(4, 214, dtype=torch.int32)
    label = torch.tensor([0, 1, 1, 0]).byte()
    return {"dense": torch.ones(4, 13), "bags": zeros, "label": label}


# Where the data module's synthetic batch needs prepared data.
BATCHES = {"bert": packed_text, "rnnt": noise_with_labels, "dlrm": clicks, "dlrm_dcnv2": bags}


@pytest.fixture
def importable(tmp_path, monkeypatch):
    """Return a function that makes a page's examples importable in this process."""

    def write(stem):
        write_examples(stem, tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        for name in page_examples(stem):
            monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)

    return write


def test_each_page_has_an_example_of_both_and_commands_that_use_them():
    for stem in STEMS:
        assert set(page_examples(stem)) == {"mynets.py", "mymodule.py"}
        flags = {word for command in own_commands(stem) for word in command}
        assert {"--model.net", "--module"} <= flags
        assert "](own_network.md)" in (DOCS / f"{stem}.md").read_text()


def built(stem, flags):
    """Build a demo with these flags, and the network, which DLRM does later."""
    benchmark = importlib.import_module(f"recipes.{stem}").BENCHMARK
    cli = RecipeCLI(benchmark, "fit", ["--config", str(demo_preset(benchmark)), *flags])
    if stem.startswith("dlrm"):  # its tables' sizes are known once the data is prepared
        facts = {"table_sizes": [5] * 26, "num_dense": 13}
        bags = getattr(cli.datamodule, "bag_sizes", None)
        cli.net.facts = lambda: facts | ({"bag_sizes": list(bags)} if bags else {})
        cli.model.configure_model()
    elif hasattr(cli.model, "build"):
        cli.model.build()
    return cli


@pytest.mark.parametrize("stem", STEMS)
def test_the_examples_fit_the_recipe(stem, importable, tmp_path, monkeypatch):
    """Both together: the network passes the check, the module trains it on a synthetic batch."""
    importable(stem)
    *commands, start = sorted(own_commands(stem), key=lambda command: "--init_weights" in command)
    cli = built(stem, [word for command in commands for word in command[1:]])
    assert not cli.net.is_reference
    assert type(cli.model).__name__ == "MyModule"
    check_foreign_net(cli)
    batch = BATCHES[stem]() if stem in BATCHES else cli.datamodule.synthetic_batch()
    loss = cli.model.training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    assert any(p.grad is not None for p in cli.model.net.parameters())

    monkeypatch.chdir(tmp_path)
    given = built(stem, start[1:3]).model.net.state_dict()
    save_file({name: tensor + 1 for name, tensor in given.items()}, "weights.safetensors")
    for name, tensor in built(stem, start[1:]).model.net.state_dict().items():
        assert torch.equal(tensor, given[name] + 1)


@pytest.mark.slow
@pytest.mark.parametrize(("stem", "command"), COMMANDS)
def test_the_pages_commands_train_and_evaluate(stem, command, tmp_path, run_python):
    write_examples(stem, tmp_path)
    done = run_python([str(ROOT / "recipes" / f"{stem}.py"), *command, *FAST], cwd=tmp_path)
    assert done.returncode in (0, 3), done.stdout + done.stderr  # one step need not reach it
    assert re.search(r"^net: .*parameters$", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_same_in_python_trains_with_a_plain_trainer(tmp_path, run_python):
    write_examples("unet3d", tmp_path)
    write_examples("own_network", tmp_path)
    done = run_python(["mytraining.py"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (dice,) = re.findall(r"^mean Dice (\S+)$", done.stdout, re.MULTILINE)
    assert 0 <= float(dice) <= 1
