"""English Wikipedia as masked sentence pairs, for BERT pre-training.

Data: cleaned text of the dump of 2020-01-01 from MLCommons, about 13 GB, CC BY-SA. A run reads a
few per cent of it, so only the parts that it needs are prepared (about 0.25 GB each). Facts:
mlcommons/training @ 9947bdf2, language_model/tensorflow/bert.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch.utils.data import DataLoader

from datamodules.common.base import BenchmarkDataModule
from datamodules.common.cache import build_once, demo_folder
from datamodules.common.preparation import damage_lines, units_to_redo
from datamodules.common.records import changed_units
from datamodules.common.sampling import evaluation_indices, padded_length
from datamodules.wikipedia import build as builder
from datamodules.wikipedia.batches import PackedBatch, Sample, ShardedSamples, pack
from datamodules.wikipedia.inputs import describe_words, mask_a_word, read_masked_text
from datamodules.wikipedia.published import (
    CHECKPOINTS,
    checkpoint_in,
    differences,
    vocabulary_is_published,
)
from datamodules.wikipedia.samples import Recipe
from datamodules.wikipedia.source import (
    EVALUATION,
    MD5_LIST,
    Source,
    check_vocabulary,
    reference_checksums,
)
from datamodules.wikipedia.text import (
    PUBLISHED_PARTS,
    find_parts,
    num_parts_in,
    read_text,
    split_articles,
    text_folder,
)
from datamodules.wikipedia.tokens import Vocabulary

REFERENCE_VOCABULARY = 30_522
# Tokens of a sample at the quantiles 0, 1/17 ... 1, for speed tests without data. Source of the
# mean, about half of 512: Krell et al., Efficient sequence packing, 2021; its shape is an estimate.
WIKIPEDIA_LENGTHS = (*np.linspace(5, 350, 14).astype(int).tolist(), 512, 512, 512, 512)


class WikipediaDataModule(BenchmarkDataModule):
    """Packed batches of masked sentence pairs; see ``PackedBatch`` for their tensors."""

    prediction_endings: ClassVar[tuple[str, ...]] = (".txt",)
    evaluation_sample = "sequence"

    def __init__(
        self,
        *,
        root: Path | None = None,
        prepared_dir: Path | None = None,
        batch_size: int = 32,
        evaluation_batch_size: int = 50,
        max_seq_length: int = 512,
        max_predictions: int = 76,
        masked_lm_prob: float = 0.15,
        short_seq_prob: float = 0.1,
        dupe_factor: int = 10,
        sample_seed: int = 12345,
        num_parts: int = 20,
        num_eval_samples: int = 10_000,
        vocab_size: int | None = None,
        published_text: bool | None = None,
        num_workers: int = 0,
        prepare_processes: int = 0,
    ) -> None:
        """Defaults are the closed reference.

        Args:
            root: Directory with ``vocab.txt``, ``tf1_ckpt/`` or ``tf2_ckpt/``, and the text (itself
                or in ``results4/``): part files, or own ``*.txt`` and ``eval.txt``. None generates
                the demo data.
            prepared_dir: Directory for the shards; default ``finishline-bert`` in the root.
            batch_size: Samples per device and step, before accumulation.
            evaluation_batch_size: Samples per forward pass of an evaluation.
            max_seq_length: Maximum tokens per sample, special tokens included.
            max_predictions: Maximum masked positions per sample.
            masked_lm_prob: Share of positions that are masked.
            short_seq_prob: Share of articles that yield shorter samples.
            dupe_factor: Passes over each article, each with other masks.
            sample_seed: Seed for the samples of every text file.
            num_parts: Text parts to prepare and draw from; 20 of 500 give about 6.3 million
                samples, more than any reference run takes.
            num_eval_samples: Evaluation samples picked from the held-out text.
            vocab_size: Lines that ``vocab.txt`` must have; None accepts any number.
            published_text: Whether to require the published text, by its checksums. None accepts
                other text, which a closed run does not.
            num_workers: Loader processes per device; 0 loads in the training process.
            prepare_processes: Processes for preprocessing; 0 chooses by cores and memory.

        Raises:
            ValueError: If a number is out of range; one line each.
        """
        super().__init__()
        self.recipe = Recipe(
            max_seq_length, max_predictions, masked_lm_prob, short_seq_prob, dupe_factor,
            sample_seed,
        )  # fmt: skip
        counts = {
            "batch_size": batch_size,
            "evaluation_batch_size": evaluation_batch_size,
            "num_parts": num_parts,
            "num_eval_samples": num_eval_samples,
        }
        lines = [f"{name} must be at least 1, got {n}" for name, n in counts.items() if n < 1]
        if lines := lines + self.recipe.problems():
            raise ValueError("\n".join(lines))
        self.demo = root is None
        self.root = None if root is None else Path(root)
        self.prepared_dir = None if prepared_dir is None else Path(prepared_dir)
        self.batch_size, self.evaluation_batch_size = batch_size, evaluation_batch_size
        self.num_parts, self.num_eval_samples = num_parts, num_eval_samples
        self._wanted_words, self.published_text = vocab_size, published_text
        self.num_workers, self.prepare_processes = num_workers, prepare_processes
        self._manifest: dict[str, Any] | None = None
        self._counted: int | None = None

    @property
    def samples_per_epoch(self) -> int:
        """Prepared training samples, padded to a whole number of global batches."""
        return padded_length(self._num_train, self.global_batch_size)

    @property
    def checkpoint(self) -> Path | None:
        """Prefix of the closed division's starting checkpoint.

        None, for random weights, for the demo and for an own vocabulary without a checkpoint, as no
        published one belongs to it.
        """
        if self.root is None:
            return None
        path = checkpoint_in(self.root)
        missing = not Path(f"{path}.index").is_file()
        return None if missing and self._has_own_vocabulary else path

    @cached_property
    def vocab_size(self) -> int:
        """Words, as the flag gives them or else as many as ``vocab.txt`` has lines."""
        if self._wanted_words is not None:
            return self._wanted_words
        path = self._vocab_path
        return len(path.read_bytes().splitlines()) if path.is_file() else REFERENCE_VOCABULARY

    def vocabulary(self) -> list[str]:
        """Return the word pieces by id; ValueError if there are not ``vocab_size`` of them."""
        return Vocabulary.read(self._vocab_path, self._wanted_words).words

    def prepare_data(self) -> None:
        """Make the shards; if they exist, read only the manifest.

        Raises:
            FileNotFoundError: If the root or a file in it is missing.
            ValueError: One line per problem in the data.
        """
        self._prepare(command=False)

    def prepare(self) -> None:
        """Make the shards with a progress bar and print a summary, for the ``prepare`` command.

        Raises:
            FileNotFoundError: If the root or a file in it is missing.
            ValueError: One line per problem in the data.
        """
        manifest = self._prepare(command=True)
        shards = [manifest["shards"][name] for name in self._train_names]
        mean = sum(shard["tokens"] for shard in shards) / self._num_train
        name = "Own text" if self.differences() else "Wikipedia"
        print(
            f"{name}{' demo' if self.demo else ''} is ready in {self._prepared}: "
            f"{len(shards)} parts, {self._num_train:,} training samples of {mean:.0f} "
            f"tokens on average, {self.num_eval_samples:,} evaluation samples, "
            f"{manifest['repeated_articles']:,} repeated articles{self._unchecked(shards)}"
        )

    def _unchecked(self, shards: list[dict[str, Any]]) -> str:
        """Describe the parts whose published MD5 is unknown; empty if there are none."""
        md5s = reference_checksums(text_folder(self._source)) if self._published else None
        count = 0 if md5s is None else sum(shard["file"] not in md5s for shard in shards)
        if not count:
            return ""
        return (
            f"; {count} of the parts were not compared with the published ones: put their MD5s, "
            f"{MD5_LIST}, next to the text and run prepare again"
        )

    def problems(self) -> list[str]:
        """List what makes this root unusable, without reading any text.

        Returns:
            One line per problem: what, where, what to do; empty if there is none.
        """
        if self.root is None:
            return []
        try:
            folder = text_folder(self.root)
        except FileNotFoundError as error:
            return [str(error)]
        lines = damage_lines(self._prepared) + self._missing_files(self.root, folder)
        if self._vocab_path.is_file():
            try:
                self.vocabulary()
            except ValueError as error:
                lines.append(str(error))
        try:
            self._find_parts(folder)
        except (FileNotFoundError, ValueError) as error:
            return [*lines, str(error)]
        return list(dict.fromkeys([*lines, *self._stale_shards(folder)]))

    def _missing_files(self, root: Path, folder: Path) -> list[str]:
        """Name files that are missing, or where the published ones are required too short."""
        wanted: dict[Path, int | None] = dict.fromkeys([folder / "eval.txt", self._vocab_path])
        own = self._has_own_vocabulary or self._is_own_text(folder)
        if not own:
            wanted[folder / "eval.md5"] = None
            checkpoint = checkpoint_in(root)
            published = CHECKPOINTS[checkpoint.relative_to(root)]
            wanted |= {Path(f"{checkpoint}{end}"): file.size for end, file in published.items()}
        lines = []
        for path, size in wanted.items():
            if not path.is_file():
                lines.append(f"{path} is missing; see 'Data' in docs/bert.md for where to get it")
            elif size and self.published_text and path.stat().st_size != size:
                got = path.stat().st_size
                lines.append(
                    f"{path} has {got:,} bytes but the published file has {size:,}; fetch it again"
                )
        return lines

    def _stale_shards(self, folder: Path) -> list[str]:
        """Name what makes the prepared shards others than this run's, or older than their text."""
        try:
            source = self._text_source
            manifest = builder.read_manifest(source, self._prepared)
            if manifest is None and (lines := builder.missing_room(source, self._prepared)):
                return lines
            if manifest is not None:
                builder.check_shards_match(source, self._prepared, manifest["shards"])
        except (FileNotFoundError, ValueError) as error:
            return str(error).splitlines()
        changed = changed_units(self._prepared, folder).values()
        return [f"{line}; run the recipe's prepare command" for line in changed]

    def notes(self) -> list[str]:
        """Say what own text starts from."""
        if self.root is None or Path(f"{checkpoint_in(self.root)}.index").is_file():
            return []
        if self._has_own_vocabulary:
            return ["own vocabulary: training starts from random weights"]
        if not (self.root.is_dir() and self._is_own_text(text_folder(self.root))):
            return []
        return [
            "own text without published starting weights: give some with --model.checkpoint FILE, "
            "or start anew with --model.from_scratch true"
        ]

    def differences(self) -> list[str]:
        """Say how text, vocabulary and starting weights differ from the published ones."""
        if self.root is None:
            return []
        try:
            return differences(self.root, self._vocab_path, self._prepared_shards())
        except (OSError, ValueError):
            return []  # unreadable: reported by ``prepare_data`` and ``problems``

    def net_facts(self) -> dict[str, Any]:
        """Return the number of words."""
        return {"vocab_size": self.vocab_size}

    def read_input(self, source: str) -> dict[str, Any]:
        """Read a text with ``[MASK]`` as a packed batch of one sample, for ``predict``.

        Args:
            source: A text file, or the text itself. An empty line separates segments A and B.

        Returns:
            The batch.

        Raises:
            OSError: If it is no file and has no ``[MASK]``.
            ValueError: If a text has no ``[MASK]`` or too many tokens.
        """
        return read_masked_text(source, self._words(), self.recipe.max_seq_length)

    def write_prediction(self, stem: Path, batch: Any, prediction: Any) -> str:
        """Write the text with its words filled in, and the candidates of each, as ``.txt``.

        Args:
            stem: Path without ending.
            batch: From ``read_input``.
            prediction: Per masked word the ids and probabilities of the best candidates.

        Returns:
            The words that were filled in.
        """
        words, table = describe_words(batch, prediction, self._words().words)
        stem.with_name(f"{stem.name}.txt").write_text(table, encoding="utf-8")
        return ", ".join(words)

    def example_inputs(self) -> list[str]:
        """Return the first sentences of three held-out articles, each with a word masked."""
        articles = split_articles(read_text(text_folder(self._source) / "eval.txt")[0])
        return [mask_a_word(article) for article in articles[:3]]

    def _words(self) -> Vocabulary:
        return Vocabulary.read(self._vocab_path, self.vocab_size)

    def mllog_facts(self) -> dict[str, object]:
        """Return the log's data keys; ``train_samples`` is logged at the end, when it is known."""
        return {
            "eval_samples": self.num_eval_samples,
            "max_sequence_length": self.recipe.max_seq_length,
            "max_predictions_per_seq": self.recipe.max_predictions,
        }

    def train_dataloader(self) -> DataLoader[PackedBatch]:
        """Return this rank's shuffled samples, from where a resumed run stopped."""
        sampler = self.epoch_sampler(self._num_train)
        return self._loader(self._train_names, sampler)

    def val_dataloader(self) -> DataLoader[PackedBatch]:
        """Return this rank's evaluation samples, each exactly once over all ranks.

        Batches are the same for any number of ranks, which share out whole batches.
        """
        size, total = self.evaluation_batch_size, self.num_eval_samples
        batches = [range(a, min(a + size, total)) for a in range(0, total, size)]
        own = [batches[number] for number in evaluation_indices(len(batches), self.trainer)]
        return self._loader([EVALUATION], own)

    def synthetic_batch(self) -> PackedBatch:
        """Return a CPU batch of random words in samples as long as the prepared ones."""
        return self.synthetic_evaluation_batch(self.batch_size)[0]

    def use_synthetic_data(self, memory: float) -> list[str]:
        """Take Wikipedia's lengths of samples and the published vocabulary's size."""
        self.synthetic, self._length_quantiles = True, WIKIPEDIA_LENGTHS
        self.vocab_size = self._wanted_words or REFERENCE_VOCABULARY
        return []

    @cached_property
    def _length_quantiles(self) -> Sequence[int]:
        return self._shards(self._train_names)[0]["length_quantiles"]

    def synthetic_evaluation_batch(self, size: int) -> tuple[PackedBatch, int]:
        """Return random samples on the CPU; evaluation's are as long as those of training."""
        rng = np.random.default_rng(0)
        samples: list[Sample] = []
        for quantile in np.linspace(0, 1, size) if size > 1 else (0.5,):
            length = max(5, int(np.quantile(self._length_quantiles, quantile)))
            length = min(length, self.recipe.max_seq_length)
            masks = min(self.recipe.max_predictions, max(1, round(length * 0.15)), length - 3)
            samples.append(
                Sample(
                    tokens=rng.integers(0, self.vocab_size, length).astype(np.uint16),
                    first_length=length // 2,
                    positions=np.sort(rng.choice(length - 2, masks, replace=False) + 1),
                    labels=rng.integers(0, self.vocab_size, masks).astype(np.uint16),
                    random_next=int(rng.integers(0, 2)),
                )
            )
        return pack(samples, range(size)), size

    @property
    def _source(self) -> Path:
        if self.root is not None:
            return self.root
        from datamodules.wikipedia.demo import NUM_PARTS, VERSION

        return demo_folder("wikipedia", VERSION, {"parts": NUM_PARTS})

    @property
    def _vocab_path(self) -> Path:
        """The vocabulary: in the root, else next to the text."""
        paths = (self._source / "vocab.txt", self._source / "results4" / "vocab.txt")
        return next((path for path in paths if path.is_file()), paths[0])

    @property
    def _prepared(self) -> Path:
        """The directory of the shards, one per set of settings."""
        settings = asdict(self.recipe) | {"eval": self.num_eval_samples, "vocab": self.vocab_size}
        closed = asdict(Recipe()) | {"eval": 10_000, "vocab": REFERENCE_VOCABULARY}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        name = "finishline-bert" + ("" if settings == closed else f"-{digest}")
        return self.prepared_dir or self._source / name

    @property
    def _train_names(self) -> list[str]:
        return [f"train-{number:05d}" for number in self._find_parts(text_folder(self._source))]

    @property
    def _has_own_vocabulary(self) -> bool:
        path = self._vocab_path
        own = self.published_text is None and path.is_file()
        return own and not vocabulary_is_published(path)

    def _is_own_text(self, folder: Path) -> bool:
        return self.published_text is None and num_parts_in(folder) not in (0, PUBLISHED_PARTS)

    def _prepared_shards(self) -> dict[str, dict[str, Any]]:
        """Return the records of this run's shards; empty if they are not prepared."""
        try:
            names = [*self._train_names, EVALUATION]
            return dict(zip(names, self._shards(names), strict=True))
        except (FileNotFoundError, ValueError, KeyError):
            return {}

    def _find_parts(self, folder: Path) -> dict[int, Path]:
        return find_parts(folder, self.num_parts, published=self._published)

    @property
    def _published(self) -> bool:
        return bool(self.published_text) and not self.demo

    @property
    def _num_train(self) -> int:
        """Count the samples once: it is asked for in every step."""
        if self._counted is None:
            self._counted = sum(shard["samples"] for shard in self._shards(self._train_names))
        return self._counted

    def _shards(self, names: list[str]) -> list[dict[str, Any]]:
        """Return the records of some shards from the manifest."""
        if self._manifest is None:
            self._manifest = builder.read_manifest(self._text_source, self._prepared)
        if self._manifest is None:
            raise ValueError(f"{self._prepared} is not prepared; run the recipe's prepare command")
        return [self._manifest["shards"][name] for name in names]

    def _loader(self, names: list[str], batches: Any) -> DataLoader[PackedBatch]:
        paths = [builder.shard_path(self._prepared, name) for name in names]
        samples = ShardedSamples(paths, [shard["samples"] for shard in self._shards(names)])
        return DataLoader(
            samples,
            batch_sampler=batches,
            collate_fn=_as_it_is,
            **self.loader_options,
        )

    def _prepare(self, *, command: bool) -> dict[str, Any]:
        """Make what is missing in the prepared directory and return its manifest.

        Only the command redoes shards of changed text or of another version.
        """
        if self.demo:
            from datamodules.wikipedia.demo import write_text

            build_once(self._source, write_text)
        source, folder = self._text_source, text_folder(self._source)
        redo = units_to_redo(self._prepared, folder) if command else set()
        replace = command or self.demo
        manifest = builder.read_manifest(source, self._prepared, replace=replace)
        if manifest is None or redo:
            manifest = builder.build(
                source,
                self._prepared,
                redo=redo,
                processes=self.prepare_processes,
                show_progress=command or not self.demo,
            )
        else:
            check_vocabulary(source)
            builder.check_shards_match(source, self._prepared, manifest["shards"])
        self._manifest, self._counted = manifest, None
        return manifest

    @property
    def _text_source(self) -> Source:
        folder = text_folder(self._source)
        return Source(
            vocab_path=self._vocab_path,
            vocab_size=self._wanted_words,
            train=self._find_parts(folder),
            evaluation=folder / "eval.txt",
            evaluation_md5s=folder / "eval.md5",
            num_eval_samples=self.num_eval_samples,
            recipe=self.recipe,
            checksums=reference_checksums(folder) if self._published else {},
        )


def _as_it_is(batch: Any) -> Any:
    return batch
