"""The training and evaluation shards that a data module streams, and what is known of them."""

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.progress import stage
from datamodules.common.shards import FORMAT
from datamodules.common.stream import sizes
from datamodules.common.stream.opening import ShardError, open_shard, read_small, serves_parts
from datamodules.common.stream.pattern import (
    base_name,
    check_disjoint,
    check_pattern,
    expand,
    is_directory,
    is_local,
    is_web,
    local_path,
    show,
    sibling,
)
from datamodules.common.stream.samples import BLOCK
from datamodules.common.stream.sizes import PIECE, ShardList

TRAIN_FLAG, EVALUATION_FLAG = "data.shards", "data.val_shards"
CONNECTIONS = 16


@dataclass(frozen=True)
class Patterns:
    """The patterns that the flags name.

    Attributes:
        train: Pattern of the training shards, or a directory of prepared shards of both splits.
        evaluation: Pattern of the evaluation shards; None with a directory.
        num_train: Training samples, where no index says it.
        num_evaluation: Evaluation samples, likewise.
        prepared_dir: Where counts are kept; None is in the cache.
        shuffle_buffer: Samples of a loader process among which the next one is drawn.
    """

    train: str
    evaluation: str | None
    num_train: int | None
    num_evaluation: int | None
    prepared_dir: Path | None
    shuffle_buffer: int


def streamed_splits(
    shards: str | None,
    val_shards: str | None,
    num_train_samples: int | None,
    num_val_samples: int | None,
    shuffle_buffer: int,
    *,
    prepared_dir: Path | None,
    root: Path | None,
    dataset: str,
    evaluation: str,
) -> "StreamedSplits | None":
    """Return what a data module streams by its arguments of these names; None for no shards.

    Args:
        shards: Argument.
        val_shards: Argument.
        num_train_samples: Argument.
        num_val_samples: Argument.
        shuffle_buffer: Argument.
        prepared_dir: Argument.
        root: Argument.
        dataset: Data set that prepared shards must be of.
        evaluation: Its name of the evaluation split.

    Returns:
        The shards; no file was opened.

    Raises:
        ValueError: If the arguments contradict each other; one line.
    """
    if shards is None:
        given = {
            "val_shards": val_shards,
            "num_train_samples": num_train_samples,
            "num_val_samples": num_val_samples,
        }
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"data.{name} goes with --{TRAIN_FLAG} PATTERN, which is missing")
        return None
    if root is not None:
        raise ValueError("give --data.root or --data.shards, not both")
    if shuffle_buffer < 0:
        raise ValueError(f"data.shuffle_buffer must be at least 0, got {shuffle_buffer}")
    patterns = Patterns(
        shards, val_shards, num_train_samples, num_val_samples, prepared_dir, shuffle_buffer
    )
    return StreamedSplits(patterns, dataset=dataset, evaluation=evaluation)


class StreamedSplits:
    """Shards of both splits.

    Args:
        patterns: What the flags name.
        dataset: Data set that prepared shards must be of.
        evaluation: Its name of the evaluation split.

    Raises:
        ValueError: If the flags contradict each other; one line. No file is opened.
    """

    def __init__(self, patterns: Patterns, *, dataset: str, evaluation: str) -> None:
        self.patterns, self._dataset = patterns, dataset
        self._names = ("train", evaluation)
        for flag, n in (("num_train", patterns.num_train), ("num_val", patterns.num_evaluation)):
            if n is not None and n < 1:
                raise ValueError(f"data.{flag}_samples must be at least 1, got {n}")
        check_pattern(patterns.train, TRAIN_FLAG)
        if patterns.evaluation is not None:
            check_pattern(patterns.evaluation, EVALUATION_FLAG)
        elif not is_directory(patterns.train):
            raise ValueError(
                f"--{TRAIN_FLAG} {show(patterns.train)} is not a directory of prepared shards, so "
                f"--{EVALUATION_FLAG} PATTERN must name the shards to evaluate on"
            )

    @cached_property
    def train(self) -> ShardList:
        """The training shards; a ``ValueError`` of one line if anything is missing."""
        shards = self._sized(0, self.patterns.num_train, "data.num_train_samples")
        return replace(shards, starts=self._starts(shards))

    @cached_property
    def evaluation(self) -> ShardList:
        """The evaluation shards, none of which is trained on."""
        shards = self._sized(1, self.patterns.num_evaluation, "data.num_val_samples")
        check_disjoint(self.train.addresses, shards.addresses)
        return shards

    def file_beside(self, name: str) -> tuple[str, bytes | None]:
        """Return the address and the bytes of a file in the training shards' directory.

        Args:
            name: Its name.

        Returns:
            The address, empty for commands, and the content; None if there is no such file.

        Raises:
            ShardError: If it cannot be read.
        """
        address = sibling(self._addresses(0)[0], name)
        return address, read_small(address) if address else None

    def manifest(self, split: int) -> dict[str, Any] | None:
        """Return the manifest of prepared shards, 0 for training; None for any other shards."""
        address = sibling(self._addresses(split)[0], f"{self._names[split]}.json")
        return self._manifest(address) if address else None

    def check(self) -> None:
        """Find all shards and their sizes; on a server, ask for the first and last of each split.

        Local files are not opened, nor commands run: that is for the clock to count.

        Raises:
            ValueError: One line on what is missing.
        """
        for shards in (self.train, self.evaluation):
            for address in dict.fromkeys((shards.addresses[0], shards.addresses[-1])):
                if is_web(address) and (line := _problem(address)):
                    raise ShardError(line)

    def notes(self) -> list[str]:
        """Return one line if prepared shards can only be read in the order they were written."""
        if self.train.starts is not None or self.manifest(0) is None:
            return []
        return [
            f"{show(self.train.addresses[0])} is served whole only (no HTTP ranges), and prepared "
            "shards are sorted: batches are of few classes or speakers unless "
            "--data.shuffle_buffer is large"
        ]

    def problems(self) -> list[str]:
        """Return one line per shard that cannot be opened, or the first other problem."""
        try:
            self.check()
            addresses = [*self.train.addresses, *self.evaluation.addresses]
        except (ValueError, OSError) as error:
            return str(error).splitlines()
        with (
            stage("opening shards", len(addresses)) as progress,
            ThreadPoolExecutor(CONNECTIONS) as pool,
        ):
            lines = []
            for line in pool.map(_problem, addresses):
                progress.done += 1
                lines += [line] if line else []
        return lines

    def prepare(self) -> None:
        """Count the samples of shards whose sizes are not known, and say that nothing is to do."""
        self._count()
        self.check()
        print(f"Nothing to prepare: {self.summary()} are streamed as they are")

    def _count(self) -> None:
        for split, name in enumerate(("train", "evaluation")):
            addresses = self._addresses(split)
            try:
                known = getattr(self, name).samples is not None
            except sizes.UnknownSizesError:
                known = False
            if not known:
                path = sizes.count(addresses, self.patterns.prepared_dir)
                print(f"Counted the samples of {len(addresses)} shards: {path}")
                self.__dict__.pop(name, None)

    def summary(self) -> str:
        """Return the numbers of shards and samples in words."""
        train, evaluation = self.train, self.evaluation
        return (
            f"{len(train.addresses):,} training shards with {train.total:,} samples and "
            f"{len(evaluation.addresses):,} evaluation shards with {evaluation.total:,}"
        )

    def digest(self) -> str:
        """Return a hash that stays the same when the shards are moved."""
        return f"{self.train.digest()} {self.evaluation.digest()}"

    def num_bytes(self) -> int | None:
        """Return the size of the training shards where it is known without asking for each."""
        addresses = self.train.addresses
        if all(map(is_local, addresses)):
            return sum(os.path.getsize(address) for address in addresses)
        manifest = self.manifest(0) or {"shards": []}
        by_name = {shard["name"]: shard["bytes"] for shard in manifest["shards"]}
        return sum(by_name.values()) if len(by_name) == len(addresses) else None

    def skip_note(self, start: tuple[int, int], samples_per_epoch: int, samples: int) -> str:
        """Return what a resumed run says: what skipping the done part of its epoch costs.

        Args:
            start: Epoch, from 0, and its batches that are done.
            samples_per_epoch: Samples of an epoch over all ranks.
            samples: Those that are done.

        Returns:
            One line.
        """
        share, size = samples / samples_per_epoch, self.num_bytes()
        volume = "" if size is None else f" (about {share * size / 1e9:,.2f} GB)"
        return (
            f"Resuming in epoch {start[0] + 1} after {start[1]:,} batches: {samples:,} samples, "
            f"{share:.0%} of the epoch{volume}, are read again and skipped; they are not decoded"
        )

    def _addresses(self, split: int) -> tuple[str, ...]:
        text = self.patterns.evaluation if split else self.patterns.train
        if text is not None and not is_directory(text):
            return expand(text, (TRAIN_FLAG, EVALUATION_FLAG)[split])
        folder = self._folder(text or self.patterns.train)
        address = f"{folder}{self._names[split]}.json"
        manifest = self._manifest(address)
        if manifest is None:
            raise ShardError(
                f"{show(address)} does not exist: {show(folder)} is not a directory of prepared "
                f"{self._dataset} shards; name other shards with a pattern, such as "
                f"{show(folder)}train-{{000000..000127}}.tar{_hint(folder)}"
            )
        return tuple(f"{folder}{shard['name']}" for shard in manifest["shards"])

    def _sized(self, split: int, given: int | None, flag: str) -> ShardList:
        where = self.patterns.prepared_dir
        return sizes.sized(self._addresses(split), given, flag=flag, prepared_dir=where)

    def _starts(self, shards: ShardList) -> tuple[tuple[int, ...], ...] | None:
        """Return where pieces of prepared shards begin, from their index."""
        manifest = self.manifest(0) if serves_parts(shards.addresses[0]) else None
        _, content = self.file_beside("train.index.npy") if manifest else ("", None)
        if manifest is None or content is None:
            return None
        number = {shard["name"]: n for n, shard in enumerate(manifest["shards"])}
        index = np.load(io.BytesIO(content))
        fields = 1 + 2 * len(manifest["fields"])
        # A sample begins with the header block in front of its first file.
        begins = index[:, 1:fields:2].min(1) - BLOCK
        rows = [begins[index[:, 0] == number.get(base_name(a), -1)] for a in shards.addresses]
        if tuple(len(row) for row in rows) != shards.samples:
            return None
        return tuple(tuple(row[::PIECE].tolist()) for row in rows)

    @staticmethod
    def _folder(text: str) -> str:
        """Return a directory's address with a slash at its end."""
        place = text if not is_local(text) else local_path(text)
        return f"{place.rstrip('/')}/"

    def _manifest(self, address: str) -> dict[str, Any] | None:
        """Read a manifest of prepared shards; None if there is none, or another program's file."""
        content = read_small(address)
        try:
            manifest = None if content is None else json.loads(content)
            found = (manifest["dataset"], manifest["format"]) if manifest is not None else None
        except (ValueError, KeyError, TypeError):
            return None
        if found not in (None, (self._dataset, FORMAT)):
            raise ShardError(
                f"{show(address)} belongs to {found[0]!r} (format {found[1]}), not to "  # type: ignore[index]
                f"{self._dataset!r} (format {FORMAT})"
            )
        return manifest


def _problem(address: str) -> str:
    """Open a shard and return one line if that fails."""
    try:
        with open_shard(address) as stream:
            return "" if stream.read(512) else f"{show(address)}: is empty"
    except ShardError as error:
        return error.line


def _hint(folder: str) -> str:
    """Name a directory of prepared shards one level below."""
    if not is_local(folder):
        return ""
    below = sorted(Path(folder).glob("finishline-*/train.json"))
    return f"; {below[0].parent} is one" if below else ""
