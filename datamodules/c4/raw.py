"""The raw route: C4's text and a tokenizer become the two pairs of token files.

Each shard becomes a part, by several processes and restartable; then the parts of a split are
joined and removed. The joined files are Megatron's, equal to what its own script makes.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.c4.indexed import Pair, token_type, write_index
from datamodules.c4.published import SPLITS, split_of
from datamodules.c4.tokenise import Shard, fingerprint, lengths_of, read_tokenizer, tokenise
from datamodules.common.atomic import atomic_file
from datamodules.common.preparation import Preparation, Unit, preparing, shorten, space_problem
from datamodules.common.progress import Stage, stage
from datamodules.common.reading import entries
from datamodules.common.records import changed_units

DATASET, VERSION = "c4-text", 1
FIRST_SHARD, NUM_SHARDS, MOST_SHARDS = 768, 128, 256  # C4 has 1,024
HELD_OUT = SPLITS["validation"].documents
HELD_OUT_SHARDS = 3  # the first ones have as many
WORKER_BYTES = 10**9
SERIAL_BYTES = 50_000_000  # below this a process's start costs more than the work
# Bytes of a packed text file to bytes of its tokens, at most.
GROWTH = {"int32": 3.0, "uint16": 1.5}
COPIED = 2**24
MOST_NAMED = 8
C4 = "https://huggingface.co/datasets/allenai/c4, folder en, ODC-BY"


@dataclass(frozen=True)
class Text:
    """Where the text is, and what becomes of it."""

    folder: Path
    root: Path
    """Where the token files are written."""
    parts: Path
    """Folder for the parts and the records."""
    num_shards: int
    vocab_size: int

    @property
    def tokenizer(self) -> Path:
        """The tokenizer: next to the text, else next to the token files."""
        paths = [folder / "tokenizer.json" for folder in (self.folder, self.root)]
        return next((path for path in paths if path.is_file()), paths[0])

    @property
    def pairs(self) -> dict[str, Pair]:
        """The token files by split."""
        return {name: Pair.of(self.root / split.stem) for name, split in SPLITS.items()}

    def settings(self) -> dict[str, object]:
        """Return what the token files depend on besides the text."""
        return {
            "tokenizer": fingerprint(self.tokenizer),
            "vocab_size": self.vocab_size,
            "num_shards": self.num_shards,
        }


def text_files(folder: Path, num_shards: int) -> dict[str, list[Path]]:
    """Return the text files by split; a folder ``en`` below may hold them.

    Args:
        folder: Holds C4's own shards, or own ``*.json.gz`` with ``train`` and ``val`` in the names.
        num_shards: Of C4's own, how many from 768 on are for training.

    Returns:
        The files in order.

    Raises:
        FileNotFoundError: If some are missing; one line each.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a directory; text of C4: {C4}")
    folder = folder / "en" if (folder / "en").is_dir() else folder
    found = [path for path in entries(folder) if path.name.endswith(".json.gz")]
    last = FIRST_SHARD + num_shards
    named = [f"c4-train.{i:05d}-of-01024.json.gz" for i in range(FIRST_SHARD, last)]
    # Fewer shards of training text are somebody's own choice: then as much as there is will do.
    least = HELD_OUT_SHARDS if num_shards >= NUM_SHARDS else 1
    held_out = [f"c4-validation.{i:05d}-of-00008.json.gz" for i in range(least)]
    files = {
        split: _named(folder, names, [path for path in found if split_of(path.name) == split])
        for split, names in (("train", named), ("validation", held_out))
    }
    missing = [path for paths in files.values() for path in paths if not path.is_file()]
    if missing:
        hint = f"get it from {C4}, or take fewer shards with --data.num_shards (open division)"
        lines = [f"{path} is missing; {hint}" for path in missing]
        raise FileNotFoundError("\n".join(shorten(lines, MOST_NAMED)))
    return files


def _named(folder: Path, names: Sequence[str], found: Sequence[Path]) -> list[Path]:
    """Return the wanted files if one of them is there, or nothing else is; else what was found."""
    wanted = [folder / name for name in names]
    return wanted if not found or any(path in found for path in wanted) else list(found)


def make_token_files(
    text: Text, *, redo: bool = False, processes: int = 0, show_progress: bool = False
) -> None:
    """Write both pairs of token files, unless they are there; finished shards are kept.

    Args:
        text: Text and settings.
        redo: Look for text that has changed since, and make everything of it again.
        processes: Worker processes; 0 chooses by cores and memory.
        show_progress: Draw a progress bar.

    Raises:
        FileNotFoundError: If text or tokenizer is missing; one line each.
        ValueError: If either is damaged, or the disk too small; one line each.
    """
    if not _are_there(text):  # before any directory is made
        text_files(text.folder, text.num_shards)
    changed = changed_units(text.parts, text.folder) if redo else {}
    for line in changed.values():
        print(f"{line}; preparing it again")
    with preparing(
        text.parts,
        DATASET,
        text.settings(),
        version=VERSION,
        root=text.folder,
        redo=changed,
        show_progress=show_progress,
    ) as preparation:
        if preparation.manifest is None or not _are_there(text):
            _make(preparation, text, processes)


def missing_text(text: Text) -> list[str]:
    """Return one line per thing that is missing or too small to begin with."""
    if _are_there(text):
        return []
    try:
        files = text_files(text.folder, text.num_shards)
        read_tokenizer(text.tokenizer, text.vocab_size)
    except (FileNotFoundError, ValueError) as error:
        return str(error).splitlines()
    needed = sum(unit.num_bytes for units in _units(text, files).values() for unit in units)
    line = space_problem(text.parts, needed)
    return [line] if line else []


def _are_there(text: Text) -> bool:
    return all(path.is_file() for pair in text.pairs.values() for path in pair)


def _make(preparation: Preparation, text: Text, processes: int) -> None:
    files = text_files(text.folder, text.num_shards)
    read_tokenizer(text.tokenizer, text.vocab_size)
    text.root.mkdir(parents=True, exist_ok=True)
    units = _units(text, files)
    results = preparation.run(
        "tokenising",
        tokenise,
        [unit for split in units.values() for unit in split],
        processes=processes,
        worker_bytes=WORKER_BYTES,
        serial_bytes=SERIAL_BYTES,
    )
    _check_repeats(text, results)
    for stale in text.root.glob(".*_document.*.partial-*"):  # of a killed run: we hold the lock
        stale.unlink()
    counts = {}
    for split, pair in text.pairs.items():
        names = [unit.name for unit in units[split]]
        with stage(f"joining the {split} tokens", len(names)) as now:
            _join(text, names, pair, now)
        counts[split] = {
            key: sum(results[name][key] for name in names)
            for key in ("documents", "tokens", "empty")
        }
    if text.tokenizer.parent != text.root:
        shutil.copy(text.tokenizer, text.root / "tokenizer.json")
    preparation.finish({"splits": counts})
    for unit in (unit for split in units.values() for unit in split):
        for name in unit.files:
            (text.parts / name).unlink()


def _check_repeats(text: Text, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise if two shards have the same text."""
    seen: dict[str, str] = {}
    for name, facts in results.items():
        if (twin := seen.setdefault(facts["hash"], name)) != name:
            first, second = (results[each]["file"] for each in (twin, name))
            raise ValueError(
                f"{text.folder}: {first} and {second} hold the same text; fetch one of them again, "
                "or remove it"
            )


def _units(text: Text, files: dict[str, list[Path]]) -> dict[str, list[Unit]]:
    """One unit per training shard, and one for all held-out text, whose documents are counted."""
    train = [(f"train-{i:05d}", (path,), None) for i, path in enumerate(files["train"])]
    held_out = ("validation", tuple(files["validation"]), HELD_OUT)
    return {
        "train": [_unit(text, *arguments) for arguments in train],
        "validation": [_unit(text, *held_out)],
    }


def _unit(text: Text, name: str, paths: tuple[Path, ...], most: int | None) -> Unit:
    dtype = token_type(text.vocab_size)
    shard = Shard(name, paths, most, text.tokenizer, text.vocab_size, dtype, text.parts)
    # Twice: the parts, and the joined file.
    size = int(2 * GROWTH[dtype] * sum(path.stat().st_size for path in paths))
    fingerprint = " ".join(path.name for path in paths)
    return Unit(name, shard, (f"{name}.bin", f"{name}.npy"), fingerprint, size)


def _join(text: Text, names: Sequence[str], pair: Pair, now: Stage) -> None:
    """Write a split's two files from its parts."""
    with atomic_file(pair.bin) as out:
        for name in names:
            with (text.parts / f"{name}.bin").open("rb") as part:
                shutil.copyfileobj(part, out, COPIED)
            now.done += 1
    lengths = lengths_of([text.parts / f"{name}.npy" for name in names])
    write_index(pair.idx, token_type(text.vocab_size), lengths)
