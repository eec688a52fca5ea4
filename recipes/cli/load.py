"""Load a finished run's network and data in Python, for notebooks and scripts."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lightning as L


def load_run(folder: Path | str) -> tuple[L.LightningModule, L.LightningDataModule]:
    """Rebuild a run's module with its last checkpoint's weights, and its data module.

    Seeds the random generators as the run did.

    Args:
        folder: A run's directory, with ``run.json``, ``config.yaml``, ``checkpoints/last.ckpt``.

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
    from modules.common.torch_file import load_verified
    from recipes.cli.parser import RecipeCLI

    quiet()  # and after it: the import sets Lightning's log level anew
    folder = Path(folder)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    name = json.loads((folder / "run.json").read_text())["benchmark"]
    if not checkpoint.is_file():
        raise FileNotFoundError(
            f"{checkpoint} is missing: the run ended before its first checkpoint"
        )
    benchmark = importlib.import_module(f"recipes.{name}").BENCHMARK
    cli = RecipeCLI(benchmark, "validate", ["--config", str(folder / "config.yaml")])
    content = load_verified(checkpoint)
    cli.model.on_load_checkpoint(content)
    cli.model.load_state_dict(content["state_dict"])
    cli.datamodule.prepare_data()
    return cli.model.eval(), cli.datamodule
