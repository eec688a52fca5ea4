"""``--help`` as a data sheet: every flag with its closed default and its unit, in groups.

jsonargparse's own page, with all types, all of Lightning's flags and every class that could be
named, is ``--help-all``.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import textwrap
from argparse import SUPPRESS, Action
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from jsonargparse import ArgumentParser, Namespace

from recipes.cli import jsonargparse_private
from recipes.cli.arguments import Arguments
from recipes.cli.benchmark import Benchmark
from recipes.cli.division import net_name

GROUPS = (
    "run", "data", "model", "target", "evaluation", "trainer", "warmup", "checkpoint", "submission",
)  # fmt: skip
TITLES = {
    "run": "what to run, and where its results go",
    "target": "the quality that stops the clock",
    "evaluation": "how often the quality is measured, and when the run gives up",
    "trainer": "devices, precision, logging; Lightning's Trainer",
    "warmup": "compilation and settings, on synthetic data before the clock starts",
    "checkpoint": "checkpoints/last.ckpt, to resume from",
    "submission": "metadata of a submission; affects only the log",
}
# Words of our own where the library's are long or say nothing; the only flags of Lightning's
# Trainer that a run has a use for.
TEXTS = {
    "config": "YAML file, such as a preset (short: -c)",
    "print_config": "Print the resolved settings and exit",
    "help": "Show this page",
    "help_all": "Show every flag, with its type",
    "trainer.accelerator": "cpu, cuda or mps; auto: the best",
    "trainer.devices": "Devices per node, or their numbers",
    "trainer.num_nodes": "Nodes",
    "trainer.strategy": "ddp or fsdp2 for several devices",
    "trainer.precision": "or bf16-mixed, 16-mixed, 64-true ...",
    "trainer.accumulate_grad_batches": "Batches per optimizer step on each device",
    "trainer.log_every_n_steps": "Optimizer steps between two logged rows",
    "trainer.logger": "WandbLogger, TensorBoardLogger ...",
    "trainer.profiler": "simple, advanced or pytorch",
    "trainer.deterministic": "true: only deterministic kernels",
    "trainer.max_time": "Training time limit (open division)",
    "trainer.limit_train_batches": "Batches per epoch (open division)",
    "trainer.callbacks": "Further callbacks (open division)",
}
PLACEHOLDERS = {
    "config": "FILE",
    "ckpt_path": "FILE|last|auto",
    "trainer.precision": "32-true",
    "trainer.logger": "NAME",
    "trainer.profiler": "NAME",
    "trainer.max_time": "DD:HH:MM:SS",
    "trainer.callbacks": "CLASS",
    "trainer.deterministic": "false",
}
# Of no use to ``predict``, which draws nothing at random and makes no run's directory.
NOT_PREDICTED = ("seed_everything", "output_root", "force_resume", "print_config", "config")
NOT_TIMED = ("checkpoint", "submission")  # groups of no use to ``speed``
INDENT, COLUMN = 2, 38  # of flags, of their descriptions
LONG = 80  # characters: about two lines
WORDS = {Path: "PATH", int: "N", float: "X"}  # for a value without a default


def add_help_all(parser: ArgumentParser) -> None:
    """Add ``--help-all``, which prints jsonargparse's own page."""
    parser.add_argument("--help-all", action="help", help="Show every flag with its type.")


def print_help_if_asked(
    parser: ArgumentParser, benchmark: Benchmark, command: str, arguments: Arguments
) -> None:
    """Print the data sheet and exit where ``--help`` is among the arguments."""
    if "--help" in arguments:
        print(help_page(parser, benchmark, command))
        raise SystemExit(0)


def help_page(parser: ArgumentParser, benchmark: Benchmark, command: str) -> str:
    """Return the data sheet of one command's flags, as wide as the terminal."""
    width = min(shutil.get_terminal_size().columns, 100) - 1
    takes = " --ckpt_path RUN INPUT ..." if command == "predict" else ""
    usage = f"usage: python recipes/{benchmark.name}.py {command}{takes} [--flag VALUE ...]"
    about = (
        f"{benchmark.dataset}, {benchmark.area}. Target: {benchmark.target_text()}. Each flag is "
        "shown with its default, the closed reference's; capitals mean that there is none, a|b a "
        "choice with the default first. --model.net.help CLASS lists the arguments of a network."
    )
    if command in ("prepare", "doctor"):
        about = about.rpartition(". ")[0] + "."
    if command == "predict":
        about = (
            f"{benchmark.predicts}, with the preprocessing of the evaluation. INPUT is a file, or "
            "several; without one a demo's run predicts examples of its held-out data. All other "
            "settings are the run's own (--trainer.accelerator: the best of this machine)."
        )
    defaults = parser.get_defaults()
    lines = [usage, "", *textwrap.wrap(about, width)]
    sections = _sections(parser, NOT_PREDICTED if command == "predict" else ())
    for name in ("run",) if command == "predict" else GROUPS:
        if name in sections and not (command == "speed" and name in NOT_TIMED):
            title, actions = sections[name]
            lines += [
                "",
                *textwrap.wrap(f"{name}: {TITLES.get(name, title.partition(';')[0])}", width),
            ]
            for action in actions:
                lines += _flag_lines(action, defaults, width)
    return "\n".join(lines)


def _sections(parser: ArgumentParser, skip: Sequence[str]) -> dict[str, tuple[str, list[Action]]]:
    """Return group -> title and flags, without those that only ``--help-all`` lists."""
    sections: dict[str, tuple[str, list[Action]]] = {}
    for title, actions in jsonargparse_private.groups(parser):
        for action in actions:
            group, dot, name = _name(action).partition(".")
            whole_group = not dot and group in GROUPS  # --model CONFIG
            rare = group == "trainer" and _name(action) not in TEXTS
            rare |= not dot and _name(action) in skip
            hidden = action.help == SUPPRESS or name.endswith(".help")
            if not (whole_group or rare or hidden):
                section = sections.setdefault(group if dot else "run", (title, []))
                section[1].append(action)
    for _, actions in sections.values():
        actions.sort(key=_position)
    return sections


def _name(action: Action) -> str:
    flag = next(name for name in action.option_strings if name.startswith("--"))
    return flag.removeprefix("--").replace("-", "_")


def _position(action: Action) -> int:
    """Return the position among ``TEXTS``; other flags come first, in their own order."""
    if _name(action) == "model.net":
        return -2
    order = list(TEXTS)
    return order.index(_name(action)) if _name(action) in TEXTS else -1


def _flag_lines(action: Action, defaults: Namespace, width: int) -> Iterator[str]:
    flag = next(name for name in action.option_strings if name.startswith("--"))
    head = " " * INDENT + f"{flag} {_value(action, defaults.get(action.dest))}".rstrip()
    unit = defaults.get("evaluation.unit")
    text = textwrap.wrap(_text(action).replace("in unit", f"in {unit}"), width - COLUMN)
    if len(head) < COLUMN and text:
        head = head.ljust(COLUMN) + text.pop(0)
    yield head
    yield from (" " * COLUMN + line for line in text)


def _text(action: Action) -> str:
    """Return what a flag means: the first sentence of its description, or its first clause."""
    text = " ".join((action.help or "").replace("``", "").split())
    sentence = re.split(r"(?<=[\w)])\. (?=[A-Z])", text)[0].rstrip(".")
    short = sentence if len(sentence) <= LONG else sentence.partition("; ")[0]
    return TEXTS.get(_name(action), short)


def _value(action: Action, default: Any) -> str:
    """Return a flag's default as one would write it, or a word for a value without one."""
    name = _name(action)
    if name in ("help", "help_all", "print_config"):
        return ""
    if name == "ckpt_path" and "directory" in (action.help or ""):
        return "RUN|FILE"  # validate and predict
    kind = jsonargparse_private.value_type(action)
    if choices := _choices(kind):
        return "|".join(sorted(choices, key=lambda choice: choice != default))
    if default is None:
        words = (WORDS[t] for t in (kind, *get_args(kind)) if t in WORDS)
        return PLACEHOLDERS.get(name) or next(words, "VALUE")
    if name == "model.net":
        return net_name(default)
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list | tuple):
        shown = [str(item) for item in default[:5]] + ["..."] * (len(default) > 5)
        return f"[{','.join(shown)}]"
    if isinstance(default, Mapping):
        return shlex.quote(json.dumps(dict(default)))
    return str(default)


def _choices(kind: Any) -> list[str]:
    words = get_args(kind)
    return list(words) if words and all(isinstance(word, str) for word in words) else []
