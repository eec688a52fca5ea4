"""ImageNet (ILSVRC-2012): photographs of 1000 classes, for ResNet-50; or one's own images.

Data: https://image-net.org, 148 GB of training and 6.7 GB of evaluation images as JPEG; a free
account, non-commercial research only. Facts: mlcommons/training, image_classification (v1.0).

Letters: B batch, S side of the square images.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.common.cache import build_once, demo_folder
from datamodules.common.device_jpeg import Decoder, DecodesOnDevice
from datamodules.common.inputs import write_json
from datamodules.common.preparation import (
    damage_lines,
    missing_space,
    units_to_redo,
    was_interrupted,
)
from datamodules.common.sampling import evaluation_indices, padded_length, run_seed
from datamodules.common.shards import has_shards
from datamodules.common.stream.loaders import evaluation_loader, training_loader
from datamodules.common.stream.splits import streamed_splits
from datamodules.imagenet import prepare as builder
from datamodules.imagenet.contents import IMAGENET, Contents, differences
from datamodules.imagenet.files import Counts, Wanted, scan
from datamodules.imagenet.images import decode
from datamodules.imagenet.inputs import name_of, read_image, words_of
from datamodules.imagenet.samples import (
    Batch,
    EncodedTrainingImages,
    EvaluationImages,
    TrainingImages,
    as_is,
)
from datamodules.imagenet.sources import DATASET, ImageSource
from datamodules.imagenet.streamed import ImageKind, StreamedContents


class ImageNetDataModule(DecodesOnDevice):
    """Random windows of the training images and centre crops of the evaluation images.

    A batch is a dict of ``image`` (B, 3, S, S) uint8 RGB with channels innermost in memory (the
    module normalises on the device), ``label`` (B,) int64 and ``index`` (B,) int64.
    """

    prediction_endings: ClassVar[tuple[str, ...]] = (".json",)
    evaluation_sample = "image"

    def __init__(
        self,
        *,
        root: Path | None = None,
        prepared_dir: Path | None = None,
        batch_size: int = 408,
        evaluation_batch_size: int = 500,
        image_size: int = 224,
        num_classes: int | None = None,
        num_train: int | None = None,
        num_val: int | None = None,
        num_workers: int = 0,
        prepare_processes: int = 0,
        decoder: Decoder = "cpu",
        shards: str | None = None,
        val_shards: str | None = None,
        num_train_samples: int | None = None,
        num_val_samples: int | None = None,
        shuffle_buffer: int = 1000,
    ) -> None:
        """Defaults are the closed reference.

        Args:
            root: Directory with ``train/<class>/`` and ``val/``, or one with finished shards. None
                generates the demo data.
            prepared_dir: Directory for shards and listings; default ``finishline-imagenet`` in the
                root.
            batch_size: Training images per device and step.
            evaluation_batch_size: Evaluation images per device and step; affects only time
                and memory.
            image_size: Side of the crops in pixels.
            num_classes: Class directories that must be there; None accepts any number.
            num_train: Training images that must be there; None accepts any number.
            num_val: Evaluation images that must be there; None accepts any number.
            num_workers: Loader processes per device; 0 loads in the training process.
            prepare_processes: Processes that write shards; 0 chooses by cores and memory.
            decoder: Where training images are decoded: ``nvimgcodec`` decodes on a CUDA device
                (extra ``[gpu]``); its pixels differ by rounding.
            shards: Webdataset shards to stream, such as ``URL/train-{0000..0127}.tar``, in place of
                the root (open division); or a directory of prepared shards of both splits. Samples
                have ``jpg`` (or ``png`` ...) and ``cls``.
            val_shards: Shards to evaluate on.
            num_train_samples: Images in the training shards, if no index says it.
            num_val_samples: Images in the evaluation shards, likewise.
            shuffle_buffer: Images of a loader process among which the next one is drawn.

        Raises:
            ValueError: If a number is out of range; one line each.
        """
        super().__init__()
        sizes = {
            "batch_size": batch_size,
            "evaluation_batch_size": evaluation_batch_size,
            "image_size": image_size,
            "num_classes": num_classes,
            "num_train": num_train,
            "num_val": num_val,
        }
        counts = {"num_workers": num_workers, "prepare_processes": prepare_processes}
        bounds = [(name, value, 1) for name, value in sizes.items()]
        bounds += [(name, value, 0) for name, value in counts.items()]
        if bad := [
            f"data.{name} must be at least {least}, got {value}"
            for name, value, least in bounds
            if value is not None and value < least
        ]:
            raise ValueError("\n".join(bad))
        self.streamed = streamed_splits(
            shards,
            val_shards,
            num_train if shards and num_train_samples is None else num_train_samples,
            num_val if shards and num_val_samples is None else num_val_samples,
            shuffle_buffer,
            prepared_dir=prepared_dir,
            root=root,
            dataset=DATASET,
            evaluation="val",
        )
        self.demo = root is None and self.streamed is None
        self.root, self.prepared_dir = root, prepared_dir
        self.batch_size, self.evaluation_batch_size = batch_size, evaluation_batch_size
        self.image_size = image_size
        self._wanted = Wanted(num_classes, num_train, num_val)
        if self.streamed:
            self._streamed_contents = StreamedContents(self.streamed, num_classes)
        self.num_workers, self.prepare_processes = num_workers, prepare_processes
        self.decoder = decoder

    @cached_property
    def counts(self) -> Counts:
        """Classes and images, as flags give them or else as they are in the root."""
        if self.demo:
            return _demo_counts()
        if self.streamed:
            return self._streamed_contents.counts
        if None not in self._wanted:
            return Counts(*self._wanted)  # type: ignore[arg-type]
        return self._contents.counts

    @property
    def samples_per_epoch(self) -> int:
        """Training images per epoch, padded to a whole number of global batches."""
        return padded_length(self.counts.train, self.global_batch_size)

    def prepare_data(self) -> None:
        """List the files, unless there are shards or a listing; opens no image."""
        if self.streamed:
            self.streamed.check()
            return
        self._write_demo()
        builder.make_readable(*self._place)

    def prepare(self) -> None:
        """Check every image and write shards, or check those that are there by their hashes."""
        if self.streamed:
            self.streamed.prepare()
            return
        self._write_demo()
        options: dict[str, Any] = {"processes": self.prepare_processes, "show_progress": True}
        redo = units_to_redo(self._prepared, self._source)
        intact = builder.drop_damaged(*self._place, named=redo, **options)
        intact = intact and not was_interrupted(self._prepared)
        if redo or not intact or builder.outdated_splits(*self._place):
            encoded_anew = builder.write_all_shards(*self._place, redo=redo, **options)
            print(f"{encoded_anew} images are not plain JPEGs (PNG, CMYK) and were re-encoded")
        self._forget()
        for line in self.notes():
            print(f"Note: {line}")
        name = "ImageNet demo" if self.demo else "Own data" if self.differences() else "ImageNet"
        print(
            f"{name} is ready in {self._prepared}: "
            f"{self.counts.train} training and {self.counts.val} evaluation images of "
            f"{self.counts.classes} classes"
        )

    def problems(self) -> list[str]:
        """Return one line per problem of this root, without opening an image or writing a file."""
        if self.streamed:
            return self.streamed.problems()
        if self.root is None:
            return []
        try:
            if any(has_shards(self._prepared, split) for split in builder.SPLITS):
                return builder.shard_problems(self._prepared, self._wanted) or self._stale_shards()
            size = builder.shard_bytes(self.root, scan(self.root, self._wanted))
            return missing_space(self._prepared, size)
        except (FileNotFoundError, ValueError) as error:
            return str(error).splitlines()

    def notes(self) -> list[str]:
        """Return one line per class directory with entries that are not images."""
        try:
            return [] if self.root is None else list(scan(self.root, self._wanted).unused)
        except (FileNotFoundError, ValueError):
            return []  # reported by ``problems``, or there are shards alone

    def differences(self) -> list[str]:
        """Say how classes and images differ from ImageNet's, by counts and names."""
        try:
            return [] if self.root is None else differences(self._contents)
        except (FileNotFoundError, ValueError):
            return []  # unreadable: reported by ``prepare_data`` and ``problems``

    def net_facts(self) -> dict[str, Any]:
        """Return the number of classes and the images' side in pixels."""
        classes = self._streamed_contents.synsets if self.streamed else None
        number = self.counts.classes if classes is None else len(classes)
        return {"num_classes": number, "image_size": self.image_size}

    def setup(self, stage: str) -> None:
        """Check that the training set fills a global batch."""
        if self.global_batch_size > self.counts.train:
            raise ValueError(
                f"the global batch of {self.global_batch_size} images (data.batch_size "
                f"{self.batch_size} x devices x accumulation) is larger than the training set of "
                f"{self.counts.train}; lower data.batch_size"
            )
        super().setup(stage)

    def decode_on_host(self, data: bytes) -> Tensor:
        return decode(data)

    def with_images(self, batch: dict[str, Any], images: list[Tensor]) -> dict[str, Any]:
        image_BSS3 = torch.stack([image.permute(1, 2, 0) for image in images])
        return {"image": image_BSS3.permute(0, 3, 1, 2), **batch}

    def mllog_facts(self) -> dict[str, object]:
        """Return the log's data keys."""
        return {
            "train_samples": self.counts.train,
            "eval_samples": self.counts.val,
            "samples_per_epoch": self.samples_per_epoch,
        }

    def train_dataloader(self) -> DataLoader[Any]:
        """Return shuffled, augmented images of this rank, from the resume position on."""
        if self.streamed:
            kind = self._kind(self.batch_size, seed=run_seed(), encoded=self.decoder != "cpu")
            return training_loader(self, self.streamed, kind, self.samples_per_epoch)
        sampler = self.epoch_sampler(self.counts.train)
        source = self._open("train")
        images = TrainingImages if self.decoder == "cpu" else EncodedTrainingImages
        dataset = images(source, self.image_size, run_seed())
        return DataLoader(dataset, batch_sampler=sampler, **self.loader_options)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return evaluation images of this rank, each exactly once over all ranks."""
        if self.streamed:
            kind = self._kind(self.evaluation_batch_size)
            return evaluation_loader(self, self.streamed, kind, self.evaluation_batch_size)
        source = self._open("val")
        numbers = evaluation_indices(self.counts.val, self.trainer)
        dataset = EvaluationImages(source, self.image_size, numbers)
        return DataLoader(dataset, batch_size=self.evaluation_batch_size, **self.loader_options)

    def synthetic_batch(self) -> Batch:
        """Return a random training batch on the CPU, for warm-up and speed tests."""
        return self.synthetic_evaluation_batch(self.batch_size)[0]

    def use_synthetic_data(self, memory: float) -> list[str]:
        """Take ImageNet's numbers of classes and images."""
        self.synthetic, self.counts = True, IMAGENET
        return []

    def synthetic_evaluation_batch(self, size: int) -> tuple[Batch, int]:
        """Return random images on the CPU."""
        B, S = size, self.image_size
        image_BSS3 = torch.randint(0, 256, (B, S, S, 3), dtype=torch.uint8)
        batch: Batch = {
            "image": image_BSS3.permute(0, 3, 1, 2),
            "label": torch.randint(0, self.counts.classes, (B,)),
            "index": torch.arange(B),
        }
        return batch, B

    def class_names(self) -> list[str]:
        """Name the classes.

        Returns:
            Names by class number: words where they are known, else the directories'.

        Returns:
            One name per class.

        Raises:
            ValueError: If the data is not prepared.
        """
        if self.demo:
            from datamodules.imagenet.demo import NAMES

            return list(NAMES)
        contents = self._streamed_contents if self.streamed else self._contents
        return words_of(contents.synsets)

    def read_input(self, source: str) -> dict[str, Any]:
        """Read an image and crop it as an evaluation image, for ``predict``.

        Args:
            source: Image file.

        Returns:
            ``image`` (1, 3, S, S) uint8 RGB.

        Raises:
            OSError: If there is no such file.
            ValueError: If it is not a readable image.
        """
        return {"image": read_image(source, self.image_size)}

    def write_prediction(self, stem: Path, batch: Any, prediction: list[tuple[int, float]]) -> str:
        """Write the most probable classes as ``.json``.

        Args:
            stem: Path without ending.
            batch: From ``read_input``.
            prediction: Class number and probability, the most probable first.

        Returns:
            The three most probable classes in words.
        """
        names = self.class_names()
        rows = [
            {"class": number, "name": name_of(number, names), "probability": round(share, 6)}
            for number, share in prediction
        ]
        write_json(stem.with_name(f"{stem.name}.json"), {"top": rows})
        return ", ".join(f"{name_of(n, names)} {share:.1%}" for n, share in prediction[:3])

    def example_inputs(self) -> list[str]:
        """Return three held-out images of different classes; none of shards."""
        if self.streamed:
            return []
        folders = sorted(path for path in (self._source / "val").iterdir() if path.is_dir())
        return [str(min(folder.iterdir())) for folder in folders[:3]]

    @property
    def _source(self) -> Path:
        """The root, or the folder of the generated images."""
        from datamodules.imagenet.demo import VERSION

        return self.root or demo_folder("imagenet", VERSION, vars(_demo_counts()))

    @property
    def _prepared(self) -> Path:
        """The folder of shards and listings."""
        if has_shards(self._source, "train"):
            return self._source
        return self.prepared_dir or self._source / "finishline-imagenet"

    @property
    def _place(self) -> tuple[Path, Path, Counts | Wanted]:
        """Raw images, prepared folder and the counts that they must have."""
        return self._source, self._prepared, _demo_counts() if self.demo else self._wanted

    @cached_property
    def _contents(self) -> Contents:
        return builder.contents_of(*self._place)

    def _kind(self, batch_size: int, **settings: Any) -> ImageKind:
        return ImageKind(self.image_size, self.counts.classes, batch_size, **settings)

    def _forget(self) -> None:
        """Count again: there are shards now, or others."""
        for name in ("_contents", "counts"):
            self.__dict__.pop(name, None)

    def _open(self, split: str) -> ImageSource:
        source, prepared, counts = self._place
        return builder.open_source(source, prepared, split, counts)

    def _stale_shards(self) -> list[str]:
        if splits := builder.outdated_splits(*self._place):
            return [
                f"{self.root}: images of {' and '.join(splits)} were added, removed, renamed or "
                f"relabelled since the shards in {self._prepared} were written; run the "
                "recipe's prepare command"
            ]
        return damage_lines(self._prepared, self._source)

    @property
    def loader_options(self) -> dict[str, Any]:
        """Worker and memory settings of both loaders; a data set gives whole batches."""
        return super().loader_options | {"collate_fn": as_is}

    def _write_demo(self) -> None:
        if self.demo:
            from datamodules.imagenet.demo import write_textures

            build_once(self._source, write_textures)


def _demo_counts() -> Counts:
    from datamodules.imagenet.demo import COUNTS

    return COUNTS
