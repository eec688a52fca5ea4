"""LibriSpeech: read English with its text, for RNN-T.

Data: https://www.openslr.org/12, 60 GB of FLAC, CC BY 4.0. Training on train-clean-100,
train-clean-360 and train-other-500 (281,241 utterances), evaluation on dev-clean (2,703). Facts:
mlcommons/training @ 9947bdf2, rnn_speech_recognition/pytorch.

Letters: B batch, N audio samples, U labels.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.common.base import BenchmarkDataModule
from datamodules.common.cache import build_once, demo_folder
from datamodules.common.preparation import damage_lines, missing_space, units_to_redo
from datamodules.common.records import check_settings
from datamodules.common.sampling import evaluation_indices, ranks, run_seed
from datamodules.common.stream.loaders import evaluation_loader, training_loader
from datamodules.common.stream.splits import streamed_splits
from datamodules.librispeech import build as builder
from datamodules.librispeech import synthetic
from datamodules.librispeech.audio import Batch, Utterances, batches_by_length, collate
from datamodules.librispeech.flac import SAMPLE_RATE
from datamodules.librispeech.inputs import read_recording
from datamodules.librispeech.manifest import (
    DATASET,
    TOKENIZER,
    Manifest,
    manifest_differences,
    read_manifest,
)
from datamodules.librispeech.raw import scan
from datamodules.librispeech.sampler import BucketSampler, check_fills_a_step, rows_per_epoch
from datamodules.librispeech.streamed import (
    UtteranceKind,
    streamed_manifest,
    streamed_tokenizer,
)
from datamodules.librispeech.subsets import (
    Subsets,
    choose_subsets,
    count_recordings,
    find_data,
    has_recordings,
)
from datamodules.librispeech.subsets import differences as subset_differences
from datamodules.librispeech.text import Tokenizer

REFERENCE_VOCABULARY = 1023
CHANGED_LIST = "recordings or transcripts were added, removed or changed since it was prepared"


class LibriSpeechDataModule(BenchmarkDataModule):
    """Utterances as raw audio and label ids; features and augmentation are the module's.

    A batch is a dict of ``audio`` (B, N) int16 at 16 kHz, ``audio_lengths`` (B,), ``labels``
    (B, U) in ``[0, vocab_size)``, ``label_lengths`` (B,), ``seed`` (B,) of each sample's random
    draws and ``index`` (B,), all int64.
    """

    prediction_endings: ClassVar[tuple[str, ...]] = (".txt",)
    evaluation_sample = "utterance"

    def __init__(
        self,
        *,
        root: Path | None = None,
        prepared_dir: Path | None = None,
        batch_size: int = 128,
        max_duration: float = 16.7,
        num_buckets: int = 6,
        vocab_size: int = REFERENCE_VOCABULARY,
        tokenizer_model: Path | None = None,
        validation_batch_size: int = 64,
        num_workers: int = 0,
        prepare_processes: int = 0,
        train_subsets: Sequence[str] | None = None,
        evaluation_subsets: Sequence[str] | None = None,
        shards: str | None = None,
        val_shards: str | None = None,
        num_train_samples: int | None = None,
        num_val_samples: int | None = None,
        shuffle_buffer: int = 1000,
    ) -> None:
        """Defaults are the closed reference on one device with 8 accumulated micro-steps.

        Args:
            root: Directory with the subsets, or with ``LibriSpeech`` in it. None generates the
                demo data.
            prepared_dir: Directory for the shards; default ``finishline-rnnt`` in the root.
            batch_size: Utterances per device and micro-step.
            max_duration: Longest training utterance in seconds; longer ones are left out.
            num_buckets: Buckets of similar length that training rows come from.
            vocab_size: SentencePiece pieces; the blank is one more label.
            tokenizer_model: A SentencePiece model to use; None trains one on the transcripts.
            validation_batch_size: Utterances decoded at a time; affects only time and memory.
            num_workers: Loader processes per device; 0 loads in the training process.
            prepare_processes: Processes for preprocessing; 0 chooses by cores and memory.
            train_subsets: Directories of the root to train on, for own data; None takes
                LibriSpeech's three, or without any of its subsets those named ``train...``.
            evaluation_subsets: Directories to evaluate on; None takes ``dev-clean``, or those named
                ``dev...``, ``eval...`` or ``val...``.
            shards: Webdataset shards to stream, such as ``URL/train-{0000..0127}.tar``, in place of
                the root (open division); or a directory of prepared shards of both splits. Samples
                have ``flac`` (or ``wav``) and ``txt``.
            val_shards: Shards to evaluate on.
            num_train_samples: Utterances in the training shards, if no index says it.
            num_val_samples: Utterances in the evaluation shards, likewise.
            shuffle_buffer: Utterances of a loader process among which the next one is drawn.

        Raises:
            ValueError: If a number is out of range; one line each.
        """
        super().__init__()
        least = {
            "batch_size": (batch_size, 1),
            "num_buckets": (num_buckets, 1),
            "vocab_size": (vocab_size, 2),
            "validation_batch_size": (validation_batch_size, 1),
            "num_workers": (num_workers, 0),
            "prepare_processes": (prepare_processes, 0),
        }
        problems = [
            f"{name} must be at least {bound}, got {value}"
            for name, (value, bound) in least.items()
            if value < bound
        ]
        if max_duration <= 0:
            problems.append(f"max_duration must be above 0 seconds, got {max_duration}")
        if problems:
            raise ValueError("\n".join(problems))
        self.streamed = streamed_splits(
            shards,
            val_shards,
            num_train_samples,
            num_val_samples,
            shuffle_buffer,
            prepared_dir=prepared_dir,
            root=root,
            dataset=DATASET,
            evaluation="dev",
        )
        self.demo = root is None and self.streamed is None
        self.root, self.prepared_dir = root, prepared_dir
        self.batch_size, self.max_duration, self.num_buckets = batch_size, max_duration, num_buckets
        self.vocab_size, self.tokenizer_model = vocab_size, tokenizer_model
        self.validation_batch_size = validation_batch_size
        self.num_workers, self.prepare_processes = num_workers, prepare_processes
        self.train_subsets, self.evaluation_subsets = train_subsets, evaluation_subsets
        self._names: Sequence[str] = ()

    @property
    def samples_per_epoch(self) -> int:
        """Training utterances per epoch: whole optimizer steps only."""
        row, accumulation = self._row_size, self.accumulation
        return rows_per_epoch(len(self._train_numbers), row, accumulation) * row

    def prepare_data(self) -> None:
        """Make vocabulary and shards; if they are there, only the manifest is read."""
        if self.streamed:
            self.streamed.check()
            self.decode([])  # the vocabulary is there
            return
        self._prepare(show_progress=not self.demo, replace=self.demo)

    def net_facts(self) -> dict[str, Any]:
        """Return the number of labels, without the blank."""
        return {"num_labels": self.vocab_size}

    def setup(self, stage: str) -> None:
        """Check, before anything takes long, that the utterances fill one optimizer step."""
        if stage == "fit":
            check_fills_a_step(len(self._train_numbers), self._row_size, self.accumulation)

    def prepare(self) -> None:
        """Prepare with a progress bar and a verdict; what changed since is prepared again."""
        if self.streamed:
            self.streamed.prepare()
            self.decode([])
            return
        manifest = self._prepare(show_progress=True, replace=True, check_raw=True)
        name = "Own data" if self.differences() else f"LibriSpeech{' demo' if self.demo else ''}"
        print(
            f"{name} is ready in {self._prepared}: "
            f"{len(manifest.num_samples['train'])} training utterances, "
            f"{len(self._train_numbers)} of them up to {self.max_duration} s, and "
            f"{len(manifest.num_samples['dev'])} evaluation utterances"
        )

    def problems(self) -> list[str]:
        """Return one line per problem of this root, without opening any recording."""
        if self.streamed:
            return self.streamed.problems() or self._vocabulary_problems()
        if self.root is None:
            return []
        try:
            manifest = read_manifest(self._prepared, self.vocab_size)
            lines = damage_lines(self._prepared, self._source)
            if manifest is not None and not self._has_raw:
                return lines
            utterances, problems = scan(self._folder, self._subsets)
        except (FileNotFoundError, ValueError) as error:
            return str(error).splitlines()
        if manifest is None:
            size = 0 if problems else builder.shard_bytes(utterances)
            return [*lines, *problems, *missing_space(self._prepared, size)]
        current = builder.is_current(self._prepared, utterances, self._subsets)
        if not (lines or problems or current):
            lines = [f"{self._folder}: {CHANGED_LIST}; run the recipe's prepare command"]
        return lines

    def differences(self) -> list[str]:
        """Compare the utterances with LibriSpeech's and, once prepared, hours and letters."""
        if self.root is None:
            return []
        manifest = read_manifest(self._prepared, self.vocab_size, replace=True)
        if manifest is None:
            counts = count_recordings(self._folder, self._subsets)
            return subset_differences(self._subsets, counts, self._folder)
        return manifest_differences(manifest, self._folder if self._has_raw else self._source)

    def mllog_facts(self) -> dict[str, object]:
        """Return the log's data keys, from the manifest and the arguments."""
        row = self._row_size
        return {
            "train_samples": len(self._train_numbers) // row * row,
            "eval_samples": len(self._manifest.num_samples["dev"]),
            "data_train_max_duration": self.max_duration,
            "data_train_num_buckets": self.num_buckets,
        }

    def train_dataloader(self) -> DataLoader[Any]:
        """Return this rank's share of rows of similar length, from the resume position on."""
        if self.streamed:
            most = {"max_duration": self.max_duration, "num_buckets": self.num_buckets}
            kind = self._kind(self.batch_size, **most)
            return training_loader(self, self.streamed, kind, self.samples_per_epoch)
        numbers = self._train_numbers
        utterances = Utterances(
            self._prepared, "train", self._manifest, seed=run_seed(), numbers=numbers
        )
        sampler = BucketSampler(
            self._num_samples("train")[numbers],
            batch_size=self.batch_size,
            num_buckets=self.num_buckets,
            accumulation=self.accumulation,
            **self.sampler_options,
        )
        return DataLoader(
            utterances, batch_sampler=sampler, collate_fn=collate, **self.loader_options
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Return all evaluation utterances, each exactly once over all ranks."""
        if self.streamed:
            size = self.validation_batch_size
            return evaluation_loader(self, self.streamed, self._kind(size), size)
        utterances = Utterances(self._prepared, "dev", self._manifest, seed=run_seed())
        self._names = utterances.keys.tolist()
        batches = batches_by_length(
            evaluation_indices(len(utterances), self.trainer),
            self._num_samples("dev"),
            self.validation_batch_size,
        )
        plan: Any = batches
        return DataLoader(utterances, batch_sampler=plan, collate_fn=collate, **self.loader_options)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of label ids.

        Args:
            ids: Label ids in ``[0, vocab_size)``.

        Returns:
            Words separated by single spaces.
        """
        return self._tokenizer.decode(ids)

    def read_input(self, source: str) -> Batch:
        """Read a recording as an evaluation batch of one, for ``predict``.

        Args:
            source: Sound file, mono at 16 kHz.

        Returns:
            The batch, without labels.

        Raises:
            OSError: If there is no such file.
            ValueError: If it cannot be read, or has another rate or more channels.
        """
        return read_recording(source)

    def write_prediction(self, stem: Path, batch: Any, prediction: Sequence[int]) -> str:
        """Write the text as ``.txt``.

        Args:
            stem: Path without ending.
            batch: From ``read_input``.
            prediction: Label ids.

        Returns:
            The text, in quotation marks.
        """
        text = self.decode(prediction)
        stem.with_name(f"{stem.name}.txt").write_text(f"{text}\n", encoding="utf-8")
        return f'"{text}"'

    def example_inputs(self) -> list[str]:
        """Return three held-out recordings; none of shards."""
        if self.streamed:
            return []
        folders = [self._folder / name for name in self._subsets.evaluation]
        paths = (path for folder in folders for path in sorted(folder.rglob("*.flac")))
        return [str(path) for path in islice(paths, 3)]

    def utterance_name(self, number: int) -> str:
        """Return the name of an evaluation utterance.

        Args:
            number: ``index`` of the batch.

        Returns:
            ``SPEAKER-CHAPTER-NNNN``; of streamed shards ``SHARD:POSITION``.
        """
        if self.streamed:
            return self.streamed.evaluation.name(number)
        return self._names[number]

    def synthetic_batch(self) -> Batch:
        """Return a random training batch on the CPU whose lengths are spread like the data's."""
        return self._random_utterances(self._num_samples("train")[self._train_numbers])

    def use_synthetic_data(self, memory: float) -> list[str]:
        """Take LibriSpeech's numbers of utterances, their lengths and a vocabulary of numbers."""
        self.synthetic, self._manifest = True, synthetic.manifest(self.vocab_size)
        self._tokenizer = synthetic.Numbers()  # type: ignore[assignment]
        return []

    def synthetic_evaluation_batch(self, size: int) -> tuple[Batch, int]:
        """Return random utterances on the CPU."""
        return self._random_utterances(self._num_samples("dev"), size), size

    def _random_utterances(self, num_samples: np.ndarray, size: int = 0) -> Batch:
        """Return ``size`` utterances, by default a training batch, whose lengths are spread."""
        lengths, size = np.sort(num_samples), size or self.batch_size
        quantiles = np.linspace(0, 1, size) if size > 1 else np.array([0.5])
        positions = (quantiles * (len(lengths) - 1)).round().astype(int)
        audio_lengths = torch.from_numpy(lengths[positions])
        share = audio_lengths / audio_lengths.max()
        label_lengths = (share * self._manifest.most_labels).long().clamp(min=1)
        shape = (size, int(audio_lengths.max()))
        labels_shape = (size, int(label_lengths.max()))
        return {
            "audio": torch.randint(-8192, 8192, shape, dtype=torch.int16),
            "audio_lengths": audio_lengths,
            "labels": torch.randint(1, self.vocab_size, labels_shape),
            "label_lengths": label_lengths,
            "seed": torch.randint(2**62, (size,)),
            "index": torch.arange(size),
        }

    @property
    def _source(self) -> Path:
        """The root, or the folder of the generated raw data."""
        from datamodules.librispeech.demo import PARAMETERS, VERSION

        return self.root or demo_folder("librispeech", VERSION, PARAMETERS)

    @property
    def _prepared(self) -> Path:
        """The folder of the shards; another vocabulary size has another one."""
        size = "" if self.vocab_size == REFERENCE_VOCABULARY else f"-{self.vocab_size}"
        return self.prepared_dir or self._source / f"finishline-rnnt{size}"

    @cached_property
    def _manifest(self) -> Manifest:
        if self.streamed:
            return streamed_manifest(self.streamed, self.vocab_size, self.max_duration)
        manifest = read_manifest(self._prepared, self.vocab_size)
        if manifest is None:
            raise ValueError(f"{self._prepared} is not prepared; run the recipe's prepare command")
        return manifest

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer(self._tokenizer_path, self.vocab_size)

    @property
    def _tokenizer_path(self) -> Path:
        if self.streamed:
            return streamed_tokenizer(self.streamed, self.tokenizer_model)
        return self._prepared / TOKENIZER

    def _kind(self, batch_size: int, **settings: Any) -> UtteranceKind:
        path, seed = self._tokenizer_path, run_seed()
        return UtteranceKind(path, self.vocab_size, batch_size, seed, **settings)

    def _vocabulary_problems(self) -> list[str]:
        try:
            self.decode([])
            return []
        except (FileNotFoundError, ValueError) as error:
            return [str(error)]

    def _num_samples(self, split: str) -> np.ndarray:
        """Return the audio samples of every utterance of a split."""
        return np.array(self._manifest.num_samples[split])

    @cached_property
    def _train_numbers(self) -> np.ndarray:
        """Training utterances that are not too long."""
        return np.flatnonzero(self._num_samples("train") <= self.max_duration * SAMPLE_RATE)

    @property
    def _row_size(self) -> int:
        """Utterances per micro-step over all ranks."""
        return self.batch_size * ranks(self.trainer)[1]

    @property
    def _has_raw(self) -> bool:
        """Whether the recordings are still there; once prepared they are not needed."""
        try:
            return has_recordings(self._folder, self._subsets)
        except FileNotFoundError:
            return False

    @cached_property
    def _folder(self) -> Path:
        """The folder with the subsets."""
        given = (*(self.train_subsets or ()), *(self.evaluation_subsets or ()))
        return find_data(self._source, given)

    @cached_property
    def _subsets(self) -> Subsets:
        return choose_subsets(self._folder, self.train_subsets, self.evaluation_subsets)

    def _prepare(self, *, show_progress: bool, replace: bool, check_raw: bool = False) -> Manifest:
        """Prepare the folder if need be, and return its manifest."""
        if self.demo:
            from datamodules.librispeech.demo import write_corpus

            build_once(self._source, write_corpus)
        out, work = self._prepared, {"processes": self.prepare_processes}
        redo: set[str] = set()
        if check_raw:
            redo = units_to_redo(out, self._source, show_progress=show_progress, **work)
        manifest = read_manifest(out, self.vocab_size, replace=replace)
        if manifest is not None and self.tokenizer_model is not None:
            builder.check_same_vocabulary(out, self.tokenizer_model, self.vocab_size)
        if manifest is not None:
            self._check_subsets(manifest)
        if manifest is not None and not redo and not (check_raw and self._has_raw):
            return manifest
        return builder.build(
            self._source,
            out,
            self._folder,
            self._subsets,
            vocab_size=self.vocab_size,
            tokenizer_model=self.tokenizer_model,
            redo=redo,
            show_progress=show_progress,
            **work,
        )

    def _check_subsets(self, manifest: Manifest) -> None:
        """Raise a ValueError if other subsets were prepared than the flags name."""
        if manifest.subsets is None:
            return
        flags = {"train_subsets": self.train_subsets, "evaluation_subsets": self.evaluation_subsets}
        actual = dict(zip(flags, map(list, manifest.subsets.values()), strict=True))
        wanted = {name: list(value) for name, value in flags.items() if value is not None}
        check_settings(self._prepared, actual, wanted)
