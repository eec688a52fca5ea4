"""Images that are streamed from webdataset shards: ``jpg`` (or another image) and ``cls``."""

import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from datamodules.common.sampling import SampleKey
from datamodules.common.stream.batches import chunks
from datamodules.common.stream.samples import Raw
from datamodules.common.stream.splits import StreamedSplits
from datamodules.imagenet.files import ENDINGS, Counts
from datamodules.imagenet.jpeg import standard_jpeg
from datamodules.imagenet.samples import EncodedTrainingImages, EvaluationImages, TrainingImages

IMAGE, LABEL = ("jpg", *(ending[1:] for ending in ENDINGS if ending != ".jpg")), ("cls",)
MOST_LABEL_SHOWN, MOST_DIGITS = 20, 9


class StreamedContents:
    """Contents of shards: classes and images of both splits.

    Args:
        streamed: The shards.
        num_classes: As the flag gives it; None takes that of prepared shards.
    """

    def __init__(self, streamed: StreamedSplits, num_classes: int | None) -> None:
        self._streamed, self._num_classes = streamed, num_classes

    @cached_property
    def synsets(self) -> list[str]:
        """Names of the classes; their numbers where the shards do not name them."""
        manifest = self._streamed.manifest(0)
        names = manifest["facts"]["synsets"] if manifest else None
        given = self._num_classes
        if names is None and given is None:
            raise ValueError(
                "how many classes the shards have is not known: give --data.num_classes"
            )
        if names is not None and given not in (None, len(names)):
            raise ValueError(f"the shards have {len(names)} classes, data.num_classes is {given}")
        return names if names is not None else [str(number) for number in range(given or 0)]

    @property
    def counts(self) -> Counts:
        streamed = self._streamed
        return Counts(len(self.synsets), streamed.train.total, streamed.evaluation.total)


class ImageKind:
    """Batches of images; raises one line that names shard and key of a bad one.

    Args:
        side: Pixels of a side.
        num_classes: Labels are below.
        batch_size: Images of a batch.
        seed: Of the augmentation; None crops the centre, as for an evaluation.
        encoded: Leave the training images to a device that decodes.
    """

    def __init__(
        self,
        side: int,
        num_classes: int,
        batch_size: int,
        *,
        seed: int | None = None,
        encoded: bool = False,
    ) -> None:
        self._side, self._num_classes, self._batch_size = side, num_classes, batch_size
        self._seed, self._training = seed, EncodedTrainingImages if encoded else TrainingImages

    def group(self, samples: Iterator[Raw], batches: int, rng: random.Random) -> Iterator[Any]:
        return chunks(samples, self._batch_size)

    def make(self, raw: Sequence[Raw], epoch: int) -> Any:
        source = _BatchSource(raw, self._num_classes)
        if self._seed is None:
            numbers = [image.number for image in raw]
            return EvaluationImages(source, self._side, numbers).__getitems__(range(len(raw)))
        keys = [SampleKey(image.number, epoch, image.repeat) for image in raw]
        return self._training(source, self._side, self._seed).__getitems__(keys)


class _BatchSource:
    """The images of one batch, by number."""

    remedy = "replace it in the shard"

    def __init__(self, raw: Sequence[Raw], num_classes: int) -> None:
        self._raw, self._num_classes = {image.number: image for image in raw}, num_classes

    def read(self, number: int) -> tuple[bytes, int]:
        image = self._raw[number]
        return standard_jpeg(image.field(IMAGE)), self._label(image.field(LABEL))

    def name(self, number: int) -> str:
        return self._raw[number].name

    def _label(self, content: bytes) -> int:
        text = content.strip()
        digits = text.lstrip(b"0") or text[:1]
        if not text.isdigit() or len(digits) > MOST_DIGITS or int(digits) >= self._num_classes:
            shown = text[:MOST_LABEL_SHOWN].decode(errors="replace")
            allowed = f"0 to {self._num_classes - 1}"
            raise ValueError(f"has class {shown!r} (cls); with data.num_classes it is {allowed}")
        return int(digits)
