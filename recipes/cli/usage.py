"""One clear line for a wrong flag or configuration key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from recipes.cli.arguments import Arguments


class UsageError(ValueError):
    """A setting that cannot work; the command exits with status 2."""


ACCUMULATION = ("trainer.accumulate_grad_batches",)
UNRECOGNISED = re.compile(r"unrecognized arguments: (\S+)", re.IGNORECASE)
BROKEN_CONFIG = re.compile(r"Problems parsing config: (.*)")
IN_GROUP = re.compile(r"Group '([\w.]+)' does not accept option '([\w.]+)'")
NOT_IMPORTED = re.compile(
    r"(No module named '[\w.]+'|module '[\w.]+' has no attribute '\w+').*"
    r"Got value: (\S+)"
)
# Flags of other programs -> ours; the first that the command has.
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("lr", "learning_rate", "base_lr", "max_lr"), ("model.learning_rate", "model.lr_rates")
    ),
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs", "max_epochs"), ("trainer.max_epochs",)),
    **dict.fromkeys(("steps", "num_steps", "max_steps", "max_iters"), ("trainer.max_steps",)),
    **dict.fromkeys(("batch_size", "bs", "batch", "train_batch_size"), ("data.batch_size",)),
    **dict.fromkeys(("wd", "weight_decay"), ("model.weight_decay",)),
    **dict.fromkeys(
        ("data", "dataset", "data_dir", "data_path", "data_root", "dataset_dir", "root"),
        ("data.root",),
    ),
    **dict.fromkeys(("workers", "num_workers", "j"), ("data.num_workers", "data.workers")),
    **dict.fromkeys(("seed", "random_seed", "manual_seed"), ("seed_everything",)),
    **dict.fromkeys(("gpus", "num_gpus", "gpu", "ngpus", "devices"), ("trainer.devices",)),
    **dict.fromkeys(("device", "accelerator"), ("trainer.accelerator",)),
    **dict.fromkeys(("amp", "fp16", "bf16", "dtype", "precision"), ("trainer.precision",)),
    **dict.fromkeys(("output", "output_dir", "out", "out_dir", "save_dir"), ("output_root",)),
    **dict.fromkeys(("resume", "ckpt", "checkpoint", "resume_from"), ("ckpt_path",)),
    **dict.fromkeys(("weights", "pretrained", "init"), ("init_weights",)),
    **dict.fromkeys(("net", "arch", "network", "model", "model_name"), ("model.net",)),
    **dict.fromkeys(("accum", "grad_accum", "gradient_accumulation_steps"), ACCUMULATION),
    **dict.fromkeys(("logger", "wandb"), ("trainer.logger",)),
}
NO_OPTION = re.compile(r"Option '([\w.]+)' is not accepted")
NO_SUBTYPE = re.compile(r"Subtypes: \[(.+?)\] Errors: .*Given value: (.*)")
WRONG_VALUE = re.compile(r"Expected an? (.+?)\. Got value: (.*)")


def explain(message: str, known: Sequence[str], arguments: Arguments) -> str:
    """Turn the parser's message into one line that names the nearest valid flag."""
    line = " ".join(part.strip() for part in message.splitlines() if part.strip())
    if match := UNRECOGNISED.search(line):
        return _unexpected(match[1], known, arguments)
    if match := BROKEN_CONFIG.search(line):
        # The parser does not say which of several files it read.
        return f"--config {' or '.join(arguments.values('--config'))}: {match[1]}"
    if match := IN_GROUP.search(line):
        return unknown(f"{match[1]}.{match[2]}", known, arguments)
    if (match := NO_OPTION.search(line)) and "class_path=" not in line:
        return unknown(match[1], known, arguments)
    key = re.match(r'Parser key "([\w.]+)":', line)
    return line if key is None else _wrong_value(key[1], line[key.end() :].strip())


def _wrong_value(flag: str, text: str) -> str:
    if match := NOT_IMPORTED.search(text):
        missing = match[1].startswith("No module")
        where = (
            "; searched installed packages, PYTHONPATH and the current directory" if missing else ""
        )
        return f"--{flag}: cannot import {match[2]} ({match[1]}){where}"
    if match := NO_SUBTYPE.search(text):
        return f"--{flag}: got {match[2]}, allowed: {_subtypes(match[1])}"
    if match := WRONG_VALUE.search(text):
        return f"--{flag}: got {match[2]}, allowed: {_type_name(match[1])}"
    return f"--{flag}: {text}"


def _unexpected(word: str, known: Sequence[str], arguments: Arguments) -> str:
    if word.endswith(".tar") and "--data.shards" in arguments:
        return f"unexpected argument {word!r}: put the pattern of --data.shards in quotes"
    if word in arguments.words and not word.startswith("-"):
        return (
            f"unexpected argument {word!r}: options start with --; quote values that contain spaces"
        )
    return unknown(word.partition("=")[0].lstrip("-"), known, arguments)


def unknown(name: str, known: Sequence[str], arguments: Arguments) -> str:
    """Name the valid flag, or the configuration key, that is nearest to an unknown one."""
    given = f"--{name}" in arguments
    what = f"unknown flag --{name}" if given else f"unknown key {name} in the configuration"
    near = _usual_name(name, known)
    near = near or difflib.get_close_matches(f"--{name}", known, n=1, cutoff=0.6)
    if not near:
        return f"{what}; --help-all lists all"
    return f"{what}; did you mean {near[0] if given else near[0].lstrip('-')}?"


def _usual_name(name: str, known: Sequence[str]) -> list[str]:
    """Return the flag for what other programs call ``--lr``, ``--epochs`` or ``--batch-size``."""
    word = name.replace("-", "_").lower().rpartition(".")[2]
    wanted = [f"--{flag}" for flag in USUAL_NAMES.get(word, ())]
    if not wanted and "." not in name:  # right but for its group
        wanted = [flag for flag in known if flag.rpartition(".")[2] == word and "." in flag]
    return [flag for flag in wanted if flag in known][:1]


def _subtypes(text: str) -> str:
    """Return the members of a union in plain words, each once: ``int, None``."""
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text).replace("NoneType", "None")
    text = re.sub(r"typing\.Literal\[([^\]]*)\]", r"\1", text).replace("'", "")
    words = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text).split(", ")
    return ", ".join(dict.fromkeys(words))


def _type_name(text: str) -> str:
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text)
    literal = re.fullmatch(r"typing\.Literal\[(.+)\]", text)
    return literal[1].replace("'", "") if literal else text
