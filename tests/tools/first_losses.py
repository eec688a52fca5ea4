"""A Lightning callback for ``tests.same_bits``: exact losses of the first batches, then a stop.

It runs next to the code of any revision, so it imports nothing of ours.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback

LIBRARY = {"recipes", "modules", "datamodules", "callbacks"}


class FirstLosses(Callback):
    """Writes losses, weights and an evaluation as JSON, and ends the process.

    Args:
        path: File to write.
        tree: Folder that every module of the library must come from.
        batches: Number of training batches.
        evaluate: Wait for the first evaluation that follows them.
    """

    def __init__(self, path: str, tree: str, *, batches: int = 10, evaluate: bool = True) -> None:
        self.path, self.tree = Path(path), Path(tree)
        self.batches, self.evaluate = batches, evaluate
        self.record: dict[str, str] = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        count = sum(name.startswith("loss") for name in self.record)
        if count < self.batches:
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs
            self.record[f"loss {count + 1}"] = exact(loss)
        if count + 1 == self.batches:
            self.record["weights"] = digest(pl_module)
            if not self.evaluate:
                self.end()

    def on_validation_end(self, trainer, pl_module) -> None:
        found = {k: v for k, v in sorted(trainer.callback_metrics.items()) if k.startswith("val/")}
        for name, value in found.items():
            self.record.setdefault(name, exact(value))
        if "weights" in self.record:
            self.end()

    def end(self) -> None:
        foreign = [name for name, path in loaded() if not path.is_relative_to(self.tree)]
        assert not foreign, f"not from {self.tree}: {foreign}"
        self.path.write_text(json.dumps(self.record))
        os._exit(0)  # the run's own end (checkpoint, plots) takes longer than its ten steps


def exact(value) -> str:
    """A number with all its bits, and its size for a person."""
    number = float(value)
    return f"{number.hex()} ({number:.6g})"


def digest(module: torch.nn.Module) -> str:
    """Hash of all weights and buffers in the order of their registration, whatever their names."""
    sha = hashlib.sha256()
    for tensor in module.state_dict().values():
        if isinstance(tensor, torch.Tensor):
            sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return sha.hexdigest()[:16]


def loaded() -> list[tuple[str, Path]]:
    """The library's modules of this process, with their files."""
    modules = {name: getattr(m, "__file__", None) for name, m in list(sys.modules.items())}
    return [(k, Path(v).resolve()) for k, v in modules.items() if v and k.split(".")[0] in LIBRARY]
