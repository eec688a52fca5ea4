"""The command ``predict``: apply a trained run to inputs of one's own.

A benchmark with ``predicts`` in its data sheet has, in its data module, ``read_input(source)``
(an evaluation batch of one sample, on the CPU), ``write_prediction(stem, batch, prediction)``
(writes the files, returns the result in words), ``prediction_endings`` and ``example_inputs()``;
and in its module ``predict_step(batch, batch_idx)`` and perhaps ``draw_prediction(path, batch,
prediction)`` for a picture.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device

from callbacks.live_line import LIVE
from recipes.cli.arguments import Arguments
from recipes.cli.benchmark import Benchmark
from recipes.cli.checks import check_named_checkpoint, check_weights
from recipes.cli.doing import doing
from recipes.cli.load import load_weights, with_checkpoint_of_run
from recipes.cli.noise import quiet
from recipes.cli.parser import RecipeCLI
from recipes.cli.resume import with_run_config
from recipes.cli.screen import wrap_to_terminal
from recipes.cli.usage import UsageError

PICTURE = ".png"
LONGEST = 100  # characters of a text on the screen


def predict(benchmark: Benchmark, arguments: Arguments) -> int:
    """Predict every input; return 0, or 1 if there was an error with one of them."""
    quiet()
    if not benchmark.predicts:
        raise UsageError(
            f"{benchmark.name} has no predict: its inputs are not files of their own; "
            "load_run in Python returns the trained network"
        )
    inputs, arguments = arguments.inputs, with_checkpoint_of_run(arguments.without(""))
    check_named_checkpoint(benchmark, arguments)
    cli = RecipeCLI(benchmark, "predict", with_run_config(arguments))
    if not cli.config.ckpt_path:
        raise UsageError("predict needs --ckpt_path RUN (a run's directory or checkpoint)")
    check_weights(cli.model, Path(cli.config.ckpt_path))
    load_weights(cli, Path(cli.config.ckpt_path))
    if cli.demo:
        with doing("preparing the demo data"):
            cli.datamodule.prepare_data()  # the cache may have been emptied
        inputs = inputs or _examples(cli)
    if not inputs:
        raise UsageError(f"predict needs at least one INPUT ({benchmark.predicts})")
    return _predict_all(_Predictor(cli, arguments), inputs)


def _examples(cli: RecipeCLI) -> list[str]:
    """Return held-out samples of the demo's data, announced in one line."""
    examples = cli.datamodule.example_inputs()
    print(wrap_to_terminal("No INPUT: predicting held-out examples of the demo."), flush=True)
    return examples


def _predict_all(predictor: _Predictor, inputs: Sequence[str]) -> int:
    failed = 0
    for source, name in zip(inputs, output_names(inputs), strict=True):
        LIVE.show(f"predicting {shorten(source)}")
        try:
            print(f"{shorten(source)}: {predictor.predict(source, name)}", flush=True)
        except Exception as error:  # libraries raise many kinds; the other inputs count
            if "--debug" in sys.argv:
                raise
            failed += 1
            line = wrap_to_terminal(f"error: {_reason(source, error)}", stream=sys.stderr)
            print(line, file=sys.stderr, flush=True)
    done = len(inputs) - failed
    where = f"; see {predictor.out}" if done else ""
    print(wrap_to_terminal(f"{done} of {len(inputs)} inputs predicted{where}"), flush=True)
    return 1 if failed else 0


class _Predictor:
    """A trained module on its device, and where its predictions go."""

    def __init__(self, cli: RecipeCLI, arguments: Arguments) -> None:
        self.out, self._overwrite = cli.config.out, cli.config.overwrite
        self._model: Any = cli.model
        self._data: Any = cli.datamodule
        given = cli.config.trainer.accelerator if "--trainer.accelerator" in arguments else "auto"
        # A run on many GPUs is applied with one device, of whatever kind is here.
        trainer = cli.build_trainer(
            accelerator=given, devices=1, num_nodes=1, strategy="auto", logger=False,
            callbacks=[], enable_progress_bar=False,
        )  # fmt: skip
        self._device, self._precision = trainer.strategy.root_device, trainer.precision_plugin
        self._model = self._precision.convert_module(self._model).to(self._device)

    def predict(self, source: str, name: str) -> str:
        """Predict one input; return the result and the files in words."""
        endings = [*self._data.prediction_endings]
        endings += [PICTURE] if hasattr(self._model, "draw_prediction") else []
        paths = [self.out / f"{name}{ending}" for ending in endings]
        if not self._overwrite and (taken := [path for path in paths if path.exists()]):
            raise FileExistsError(
                f"{taken[0]} exists; pass another directory with --out DIR, or --overwrite true"
            )
        batch = self._data.read_input(source)
        with torch.inference_mode(), self._precision.predict_step_context():
            moved = self._precision.convert_input(move_data_to_device(batch, self._device))
            prediction = self._model.predict_step(moved, 0)
        self.out.mkdir(parents=True, exist_ok=True)
        result = self._data.write_prediction(self.out / name, batch, prediction)
        if PICTURE in endings:
            self._model.draw_prediction(paths[-1], batch, prediction)
        return f"{result} -> {', '.join(str(path) for path in paths)}"


def output_names(inputs: Sequence[str]) -> Iterator[str]:
    """Yield a file name without ending for each input; equal ones get their directory or a number.

    An input that is text, not a file, is called ``input-1`` and so on.
    """
    stems = [_stem(source, number) for number, source in enumerate(inputs, 1)]
    seen: set[str] = set()
    for source, stem in zip(inputs, stems, strict=True):
        parent = Path(source).resolve().parent.name if os.path.isfile(source) else ""
        name = f"{parent}-{stem}" if parent and stems.count(stem) > 1 else stem
        number, unique = 1, name
        while unique in seen:
            number += 1
            unique = f"{name}-{number}"
        seen.add(unique)
        yield unique


def _stem(source: str, number: int) -> str:
    # Not Path.is_file: it raises for a text that is longer than a file's name may be.
    return Path(Path(source).name.removesuffix(".gz")).stem if os.path.isfile(source) else (
        f"input-{number}"
    )  # fmt: skip


def shorten(source: str) -> str:
    """Return an input for the screen: a path, or a text in one line, cut off if it is long."""
    line = source if os.path.isfile(source) else " ".join(source.split())
    return line if os.path.isfile(source) or len(line) <= LONGEST else f"{line[: LONGEST - 4]} ..."


def _reason(source: str, error: Exception) -> str:
    text = str(error).strip().partition("\n")[0] or "no message"
    if not isinstance(error, ValueError | OSError):
        text = f"{type(error).__name__}: {text}"
    return text if shorten(source) in text else f"{shorten(source)}: {text}"
