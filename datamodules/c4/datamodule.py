"""C4 (English web text) as tokens, for the pre-training of language models.

Data: file 6 of allenai/c4 3.0.1, tokenised with Llama 3.1's tokenizer by MLCommons, 85 GB, ODC-BY;
no login. Training: 20,994,193,570 tokens; evaluation: the first 1,024 sequences of the held-out
file. Facts: mlcommons/training @ aa344c7, small_llm_pretraining/nemo.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.c4 import prepare as preparation
from datamodules.c4 import raw as text_route
from datamodules.c4.indexed import Pair, read_header
from datamodules.c4.inputs import describe_continuation, read_prompt
from datamodules.c4.order import num_samples
from datamodules.c4.published import SPLITS, VOCABULARY, count_lines, find_pair
from datamodules.c4.sequences import SequencesInOrder, ShuffledSequences, Stream
from datamodules.c4.tokenise import read_tokenizer
from datamodules.common.base import BenchmarkDataModule
from datamodules.common.cache import build_once, cache_dir, demo_folder
from datamodules.common.sampling import (
    EpochSampler,
    evaluation_indices,
    padded_length,
    run_seed,
)
from datamodules.common.verification import size_lines

EXAMPLES, EXAMPLE_TOKENS = 3, 32
BYTES_TO_ORDER = 28  # of memory per document, while the order is made


class C4DataModule(BenchmarkDataModule):
    """Sequences of tokens that run across documents.

    A batch is one int64 tensor (B, S + 1): the first S tokens are the input, the last S the labels.
    """

    evaluation_sample = "sequence"
    prediction_endings: ClassVar[tuple[str, ...]] = (".txt",)

    def __init__(
        self,
        *,
        root: Path | None = None,
        prepared_dir: Path | None = None,
        raw: Path | None = None,
        batch_size: int = 1,
        evaluation_batch_size: int = 1,
        seq_length: int = 8192,
        vocab_size: int = VOCABULARY,
        eval_sequences: int = 1024,
        num_shards: int = text_route.NUM_SHARDS,
        num_workers: int = 0,
        prepare_processes: int = 0,
    ) -> None:
        """Defaults are the closed reference on one device.

        Args:
            root: Directory with the token files (``.bin`` and ``.idx``): the published ones, or own
                ones with ``train`` and ``val`` in their names. None generates the demo data.
            prepared_dir: Directory for the manifest and the order; default ``finishline-c4`` in the
                root.
            raw: Directory with C4's ``*.json.gz`` and ``tokenizer.json``, of which ``prepare``
                makes the token files in the root; without a root, next to the text.
            batch_size: Sequences per device and micro-step.
            evaluation_batch_size: Sequences per forward pass of an evaluation.
            seq_length: Tokens of a sequence.
            vocab_size: Number of ids; every id in the data is below.
            eval_sequences: Sequences of an evaluation, from the start of the held-out file.
            num_shards: With ``raw``: C4's training shards to take, from number 768 on.
            num_workers: Loader processes per device; 0 loads in the training process.
            prepare_processes: Processes for ``raw``; 0 chooses by cores and memory.

        Raises:
            ValueError: If a number is out of range; one line each.
        """
        super().__init__()
        counts = {
            "batch_size": batch_size,
            "evaluation_batch_size": evaluation_batch_size,
            "seq_length": seq_length,
            "vocab_size": vocab_size,
            "eval_sequences": eval_sequences,
            "num_shards": num_shards,
        }
        lines = [f"{name} must be at least 1, got {n}" for name, n in counts.items() if n < 1]
        at_least_0 = {"num_workers": num_workers, "prepare_processes": prepare_processes}
        lines += [f"{name} must be at least 0, got {n}" for name, n in at_least_0.items() if n < 0]
        if num_shards > text_route.MOST_SHARDS:
            lines.append(f"num_shards must be at most {text_route.MOST_SHARDS}, got {num_shards}")
        if lines:
            raise ValueError("\n".join(lines))
        self.raw = None if raw is None else Path(raw)
        self.root = self.raw if root is None else Path(root)
        self.demo = self.root is None
        self.prepared_dir = None if prepared_dir is None else Path(prepared_dir)
        self.batch_size, self.evaluation_batch_size = batch_size, evaluation_batch_size
        self.seq_length, self.vocab_size = seq_length, vocab_size
        self.eval_sequences, self.num_shards = eval_sequences, num_shards
        self.num_workers, self.prepare_processes = num_workers, prepare_processes
        self._manifest: dict[str, Any] | None = None

    @property
    def samples_per_epoch(self) -> int:
        """Training sequences per epoch, padded to whole global batches."""
        return padded_length(self._num_sequences("train"), self.global_batch_size)

    def prepare_data(self) -> None:
        """Check the token files, once, and make the run's first order of documents and samples.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: One line per problem in the data.
        """
        self._prepare(command=False)
        trains = self.trainer is None or self.trainer.state.fn == "fit"
        if trains and self._num_sequences("train"):  # else ``setup`` says so
            self._sequences("train").order(0)

    def prepare(self) -> None:
        """Make or check the token files with a progress bar and print a summary.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: One line per problem in the data.
        """
        self._prepare(command=True)
        name = "C4 demo" if self.demo else "Own text" if self.differences() else "C4"
        train, held_out = (self._facts(split) for split in SPLITS)
        print(
            f"{name} is ready in {self._source}: {train['documents']:,} training documents of "
            f"{train['tokens']:,} tokens ({self._num_sequences('train'):,} sequences of "
            f"{self.seq_length:,}), {held_out['documents']:,} held-out documents of "
            f"{held_out['tokens']:,} tokens"
        )

    def setup(self, stage: str) -> None:
        """Check that there are sequences enough.

        Args:
            stage: ``fit`` or ``validate``.

        Raises:
            ValueError: If there is less than a global batch, or than an evaluation.
        """
        found = self._num_sequences("validation")
        if found < self.eval_sequences:
            raise ValueError(
                f"the held-out file gives {found:,} sequences of {self.seq_length:,} tokens, but "
                f"data.eval_sequences is {self.eval_sequences:,}: add held-out text, or give "
                f"--data.eval_sequences {max(found, 1)} (open division)"
            )
        found = self._num_sequences("train")
        if stage == "fit" and found < self.global_batch_size:
            raise ValueError(
                f"the global batch of {self.global_batch_size:,} sequences is larger than the "
                f"training split of {found:,}; lower data.batch_size or the accumulation"
            )

    def problems(self) -> list[str]:
        """List what makes this root unusable; opens no tokens.

        Returns:
            One line per problem: what, where, what to do; empty if there is none.
        """
        if self.root is None:
            return []
        if self.raw is not None and (lines := text_route.missing_text(self._text)):
            return lines
        lines = []
        for split in SPLITS:
            try:
                read_header(find_pair(self._source, split).idx)
            except (FileNotFoundError, ValueError) as error:
                lines += str(error).splitlines() if self.raw is None else []
        try:
            manifest = preparation.read_manifest(self._prepared, self.vocab_size)
        except ValueError as error:
            return [*lines, str(error)]
        lines = lines or (self._changed(manifest) if manifest else [])
        return list(dict.fromkeys(lines))

    def notes(self) -> list[str]:
        """Say what the order costs, and whether documents are marked."""
        if self.root is None:
            return []
        documents, tokens = SPLITS["train"].documents, SPLITS["train"].tokens
        with suppress(OSError, ValueError):  # reported by ``problems``
            documents, tokens = self._counts("train")
        kept = 4 * documents + 12 * num_samples(tokens, self.seq_length)
        lines = [
            f"the order of {documents:,} documents takes {BYTES_TO_ORDER * documents / 1e9:.1f} GB "
            f"of memory while it is made, once per machine and run, and {kept / 1e9:.1f} GB in "
            f"{self._orders}"
        ]
        try:
            manifest = preparation.read_manifest(self._prepared, self.vocab_size)
        except ValueError:
            return lines
        if manifest:
            facts = manifest["splits"]["train"]
            lines.append(
                f"{facts['starts_marked']:.1%} of the first documents start with the id 128000 and "
                f"{facts['ends_marked']:.1%} end with 128001 (the reference adds no marks)"
            )
        return lines

    def differences(self) -> list[str]:
        """Say how the counts of documents and tokens differ from the published ones."""
        if self.root is None:
            return []
        lines = []
        for split in SPLITS:
            try:
                lines += count_lines(split, *self._counts(split))
            except (OSError, ValueError):
                continue  # reported by ``prepare_data`` and ``problems``
        return lines

    def net_facts(self) -> dict[str, Any]:
        """Return the number of ids and of a sequence's tokens."""
        return {"vocab_size": self.vocab_size, "seq_length": self.seq_length}

    def mllog_facts(self) -> dict[str, object]:
        """Return the log's data keys."""
        return {
            "train_samples": self._num_sequences("train"),
            "eval_samples": self.eval_sequences,
            "max_sequence_length": self.seq_length,
        }

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        """Return this rank's samples in the epoch's order, from where a resumed run stopped."""
        sampler = EpochSampler(
            self._num_sequences("train"),
            self.global_batch_size,
            batch_size=self.batch_size,
            shuffle=False,  # the order is the data set's own
            **self.sampler_options,
        )
        return DataLoader(
            self._sequences("train"),
            batch_sampler=sampler,
            collate_fn=torch.stack,
            **self.loader_options,
        )

    def val_dataloader(self) -> DataLoader[torch.Tensor]:
        """Return this rank's evaluation sequences in order, each exactly once over all ranks.

        Batches are the same for any number of ranks, which share out whole batches.
        """
        size, total = self.evaluation_batch_size, self.eval_sequences
        batches = [range(a, min(a + size, total)) for a in range(0, total, size)]
        own: Any = [batches[number] for number in evaluation_indices(len(batches), self.trainer)]
        data = SequencesInOrder(self._stream("validation"), self.seq_length)
        return DataLoader(data, batch_sampler=own, collate_fn=torch.stack, **self.loader_options)

    def synthetic_batch(self) -> torch.Tensor:
        """Return a batch of random tokens on the CPU, for warm-up and speed tests."""
        return self.synthetic_evaluation_batch(self.batch_size)[0]

    def use_synthetic_data(self, memory: float) -> list[str]:
        """Take the settings' vocabulary and length; nothing grows with the data."""
        self.synthetic = True
        return []

    def synthetic_evaluation_batch(self, size: int) -> tuple[torch.Tensor, int]:
        """Return sequences of random tokens on the CPU."""
        rng = np.random.default_rng(0)
        ids = rng.integers(0, self.vocab_size, (size, self.seq_length + 1), dtype=np.int64)
        return torch.from_numpy(ids), size

    def encode(self, text: str) -> list[int] | None:
        """Return a text's tokens; None if there is no tokenizer next to the data."""
        tokenizer = self._tokenizer
        return None if tokenizer is None else tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str | None:
        """Return tokens as text; None if there is no tokenizer next to the data."""
        tokenizer = self._tokenizer
        return None if tokenizer is None else tokenizer.decode(list(ids), skip_special_tokens=False)

    def read_input(self, source: str) -> dict[str, Any]:
        """Read a text to be continued, for ``predict``.

        Args:
            source: A text file, or the text itself, of several words.

        Returns:
            ``ids`` (1, S) int64, ``num_words`` of the vocabulary and ``longest``, the tokens that
            a network sees at once.

        Raises:
            OSError: If it is no file and has no space.
            ValueError: If it has no or too many tokens, or there is no tokenizer.
        """
        ids = read_prompt(source, self.encode, self.seq_length)
        return {"ids": ids, "num_words": self.vocab_size, "longest": self.seq_length}

    def write_prediction(self, stem: Path, batch: Any, prediction: torch.Tensor) -> str:
        """Write a text and its continuations as ``.txt``.

        Args:
            stem: Path without ending.
            batch: From ``read_input``.
            prediction: int64 (2, 1, N) tokens: the likeliest ones, and drawn ones.

        Returns:
            The likeliest continuation in one line.
        """
        rows = [*batch["ids"].tolist(), *prediction[:, 0].tolist()]
        texts = [self.decode(row) or "" for row in rows]
        content = describe_continuation(*texts)
        stem.with_name(f"{stem.name}.txt").write_text(content, encoding="utf-8")
        return " ".join(texts[1].split())

    def example_inputs(self) -> list[str]:
        """Return the beginnings of three held-out sequences."""
        held_out = SequencesInOrder(self._stream("validation"), self.seq_length)
        beginnings = (held_out[number][:EXAMPLE_TOKENS].tolist() for number in range(EXAMPLES))
        return [self.decode(tokens) or "" for tokens in beginnings]

    @cached_property
    def _tokenizer(self) -> Any:
        path = self._source / "tokenizer.json"
        return read_tokenizer(path, self.vocab_size) if path.is_file() else None

    @property
    def _source(self) -> Path:
        """The root, or the directory of the generated text."""
        if self.root is not None:
            return self.root
        from datamodules.c4.demo import NUM_SHARDS, VERSION

        params = {"shards": NUM_SHARDS, "vocab_size": self.vocab_size}
        return demo_folder("c4", VERSION, params)

    @property
    def _prepared(self) -> Path:
        return self.prepared_dir or self._source / "finishline-c4"

    @property
    def _orders(self) -> Path:
        """Where orders are kept: next to the manifest, or in the cache if that is read-only."""
        prepared = self._prepared
        read_only = prepared.exists() and not os.access(prepared, os.W_OK)
        return (cache_dir() / "c4" if read_only else prepared) / "orders"

    @property
    def _text(self) -> text_route.Text:
        shards = self.num_shards
        if self.demo:
            from datamodules.c4.demo import NUM_SHARDS as shards  # noqa: N811
        source = self._source
        folder = self.raw or source
        return text_route.Text(folder, source, self._prepared / "text", shards, self.vocab_size)

    def _prepare(self, *, command: bool) -> None:
        show_progress = command or not self.demo
        if self.demo:
            from datamodules.c4.demo import write_shards

            build_once(self._source, write_shards)
        replace = command or self.demo
        manifest = preparation.read_manifest(self._prepared, self.vocab_size, replace=replace)
        if manifest is None or command:
            if self.demo or self.raw is not None:
                text_route.make_token_files(
                    self._text,
                    redo=command,
                    processes=self.prepare_processes,
                    show_progress=show_progress,
                )
            manifest = preparation.check_files(
                self._source,
                self._prepared,
                self.vocab_size,
                redo=command,
                show_progress=show_progress,
            )
        elif lines := self._changed(manifest):
            raise ValueError("\n".join(lines))
        self._manifest = manifest

    def _changed(self, manifest: dict[str, Any]) -> list[str]:
        """Return a line per token file that is missing or has another size than was checked."""
        sizes = {k: v for facts in manifest["splits"].values() for k, v in facts["sizes"].items()}
        lines = size_lines(self._source, sizes).values()
        return [f"{line}; run the recipe's prepare command" for line in lines]

    def _facts(self, split: str) -> dict[str, Any]:
        if self._manifest is None:
            self._manifest = preparation.read_manifest(self._prepared, self.vocab_size)
        if self._manifest is None:
            raise ValueError(f"{self._prepared} is not prepared; run the recipe's prepare command")
        return self._manifest["splits"][split]

    def _counts(self, split: str) -> tuple[int, int]:
        """Return a split's documents and tokens: from the manifest, else from headers and sizes."""
        try:
            facts = self._facts(split)
            return facts["documents"], facts["tokens"]
        except ValueError:
            pair = find_pair(self._source, split)
            index = read_header(pair.idx)
            size = pair.bin.stat().st_size
            return index.documents, size // np.dtype(index.dtype).itemsize

    def _num_sequences(self, split: str) -> int:
        if self.synthetic:
            return num_samples(SPLITS[split].tokens, self.seq_length)
        return num_samples(self._facts(split)["tokens"], self.seq_length)

    def _stream(self, split: str) -> Stream:
        facts = self._facts(split)
        pair = Pair.of(self._source / Path(facts["file"]).with_suffix(""))
        return Stream(
            pair, facts["dtype"], facts["documents"], facts["tokens"], facts["index_hash"]
        )

    def _sequences(self, split: str) -> ShuffledSequences:
        return ShuffledSequences(self._stream(split), self.seq_length, run_seed(), self._orders)
