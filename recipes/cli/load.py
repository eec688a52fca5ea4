"""Load a run's network and data: in Python with ``load_run``, and for the command ``predict``."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from callbacks.checkpoint_files import LAST, checkpoint_of, is_checkpoint
from recipes.cli.arguments import Arguments
from recipes.cli.usage import UsageError

if TYPE_CHECKING:
    import lightning as L

    from recipes.cli.parser import RecipeCLI


def load_run(run: Path | str) -> tuple[L.LightningModule, L.LightningDataModule]:
    """Rebuild a run's module with a checkpoint's weights, and its data module.

    Seeds the random generators as the run did.

    Args:
        run: A run's directory, or a checkpoint in its ``checkpoints``. The directory holds
            ``run.json`` and ``config.yaml``.

    Returns:
        The module in evaluation mode on the CPU, and the data module with its data prepared, so
        that ``train_dataloader()`` and ``val_dataloader()`` can be called.

    Raises:
        FileNotFoundError: If one of the three files is missing.
        ValueError: If the network or the data cannot be built from ``config.yaml``.
    """
    # Torch and Lightning take seconds that the recipes' --help need not wait for.
    from recipes.cli.noise import quiet

    quiet()  # before Lightning is imported: in a notebook that alone may warn
    from recipes.cli.parser import RecipeCLI

    quiet()  # and after it: the import sets Lightning's log level anew
    checkpoint = checkpoint_in(Path(run))
    folder = checkpoint.parent.parent
    name = json.loads((folder / "run.json").read_text())["benchmark"]
    if not is_checkpoint(checkpoint):
        raise FileNotFoundError(
            f"{checkpoint} is missing: the run ended before its first checkpoint"
        )
    benchmark = importlib.import_module(f"recipes.{name}").BENCHMARK
    cli = RecipeCLI(benchmark, "validate", ["--config", str(folder / "config.yaml")])
    load_weights(cli, checkpoint)
    cli.datamodule.prepare_data()
    return cli.model, cli.datamodule


def load_weights(cli: RecipeCLI, checkpoint: Path) -> None:
    """Load a checkpoint into the module and put it into evaluation mode, on the CPU."""
    from modules.common.torch_file import load_verified

    content = load_verified(checkpoint)
    cli.model.on_load_checkpoint(content)
    cli.model.load_state_dict(content["state_dict"])
    cli.model.eval()


def checkpoint_in(run: Path) -> Path:
    """Return the last checkpoint of a run's directory; a checkpoint itself is returned as it is."""
    if not ((run / "config.yaml").is_file() or (run / "run.json").is_file()):
        return run
    return checkpoint_of(run) or run / "checkpoints" / LAST


def with_checkpoint_of_run(arguments: Arguments) -> Arguments:
    """Replace a run's directory after ``--ckpt_path`` by its last checkpoint.

    Raises a UsageError if the run has none.
    """
    given = arguments.value("--ckpt_path")
    if given is None or not Path(given).is_dir() or is_checkpoint(Path(given)):
        return arguments
    checkpoint = checkpoint_in(Path(given))
    if checkpoint == Path(given) or not checkpoint.exists():
        raise UsageError(
            f"--ckpt_path {given}: no checkpoints/{LAST} in this directory; pass a run's directory "
            "(runs/<benchmark>/<time>-seed<seed>) or a checkpoint"
        )
    return Arguments((*arguments.without("--ckpt_path").words, "--ckpt_path", str(checkpoint)))
