"""Reading preprocessed KiTS19 volumes: crops from memory-mapped files, or volumes kept on a device.

Letters: B batch, D H W voxels of a crop or volume.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.sampling import SampleKey, sample_rng
from datamodules.kits19.cases import PreparedCase, image_path, label_path
from datamodules.kits19.transforms import (
    BrightnessForm,
    SampleDraw,
    apply_draw,
    component_boxes,
    draw_sample,
)

Batch = dict[str, Tensor]


class DeviceOrder(NamedTuple):
    """A batch that is still to be made on the device.

    Attributes:
        indices: Sample numbers.
        draws: Random choices per sample; None asks for whole volumes.
    """

    indices: list[int]
    draws: list[SampleDraw] | None


class TrainingVolumes(Dataset[Batch]):
    """Random crops of the training volumes; each worker keeps the component boxes it has computed.

    The boxes live in memory only: the rules allow no new information to be added to the data.
    """

    def __init__(
        self,
        folder: Path,
        cases: Sequence[PreparedCase],
        crop_size: Sequence[int],
        *,
        oversampling: float,
        brightness: BrightnessForm,
        seed: int,
        draws_only: bool = False,
    ) -> None:
        """What to read and how to draw.

        Args:
            folder: Prepared folder.
            cases: Training cases; sample i is the i-th.
            crop_size: Crop's size (D, H, W).
            oversampling: Probability of a crop on the foreground, in [0, 1].
            brightness: See ``draw_sample``.
            seed: Run seed.
            draws_only: Give ``(index, draw)`` instead of tensors, for crops made on a device.
        """
        self.folder, self.cases, self.crop_size = folder, list(cases), tuple(crop_size)
        self.oversampling, self.brightness = oversampling, brightness
        self.seed, self.draws_only = seed, draws_only
        self._boxes: dict[int, dict[int, np.ndarray]] = {}

    def __len__(self) -> int:
        """Number of volumes."""
        return len(self.cases)

    def __getitem__(self, key: SampleKey) -> Batch | tuple[int, SampleDraw]:  # type: ignore[override]
        """One crop, a pure function of seed and key.

        Args:
            key: Sample, epoch and repetition.

        Returns:
            ``image`` (1, D, H, W) float32, ``label`` (1, D, H, W) uint8, ``index`` () int64; or the
            index and the draw.
        """
        draw = self.draw(key)
        if self.draws_only:
            return key.index, draw
        image, label = open_volume(self.folder, self.cases[key.index].case)
        image, label = apply_draw(image, label, draw, self.crop_size)
        return {"image": image, "label": label, "index": torch.tensor(key.index)}

    def draw(self, key: SampleKey) -> SampleDraw:
        """The random choices of one sample.

        Args:
            key: Sample, epoch and repetition.

        Returns:
            The draw; it does not depend on what was drawn before.
        """
        return draw_sample(
            sample_rng(self.seed, key.epoch, key.index, key.repeat),
            self.cases[key.index].shape,
            lambda: self.boxes(key.index),
            self.crop_size,
            oversampling=self.oversampling,
            brightness=self.brightness,
        )

    def boxes(self, index: int) -> dict[int, np.ndarray]:
        """Component boxes of one volume, computed at the first call.

        Args:
            index: Sample number.

        Returns:
            Result of ``component_boxes``.
        """
        if index not in self._boxes:
            path = label_path(self.folder, self.cases[index].case)
            self._boxes[index] = component_boxes(np.load(path, mmap_mode="r")[0])
        return self._boxes[index]


class EvaluationVolumes(Dataset[Batch]):
    """Whole preprocessed volumes."""

    def __init__(self, folder: Path, cases: Sequence[PreparedCase], indices: Sequence[int]) -> None:
        """What to read.

        Args:
            folder: Prepared folder.
            cases: All evaluation cases.
            indices: The ones that this rank evaluates.
        """
        self.folder, self.cases, self.indices = folder, list(cases), list(indices)

    def __len__(self) -> int:
        """Number of volumes of this rank."""
        return len(self.indices)

    def __getitem__(self, place: int) -> Batch:
        """One volume.

        Args:
            place: Position among this rank's volumes.

        Returns:
            ``image`` (1, D, H, W) float32, ``label`` (1, D, H, W) uint8, ``index`` () int64, the
            number within the whole evaluation set.
        """
        index = self.indices[place]
        image, label = open_volume(self.folder, self.cases[index].case)
        # clone reads the file here, in the worker, not page by page in the model.
        return {"image": image.clone(), "label": label.clone(), "index": torch.tensor(index)}


class DeviceVolumes:
    """Volumes kept on the accelerator, filled as they are first asked for, inside the timed run.

    168 training volumes in half precision with their labels take about 14 GB.
    """

    def __init__(self, folder: Path, cases: Sequence[PreparedCase], dtype: torch.dtype) -> None:
        """What to keep.

        Args:
            folder: Prepared folder.
            cases: Cases; volume i is the i-th.
            dtype: Type of the images on the device; float16 rounds the normalised image, within
                [-2.4, 2.7], by at most 0.001.
        """
        self.folder, self.cases, self.dtype = folder, list(cases), dtype
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def volume(self, index: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """One volume on the device.

        Args:
            index: Volume's number.
            device: Where to keep it.

        Returns:
            image_1DHW in the chosen type and label_1DHW uint8; not to be changed in place.
        """
        if index not in self._kept:
            image, label = open_volume(self.folder, self.cases[index].case)
            # copy: on a CPU device the file would otherwise stay mapped.
            self._kept[index] = (
                image.to(device, self.dtype, copy=True),
                label.to(device, copy=True),
            )
        return self._kept[index]

    def batch(self, order: DeviceOrder, crop_size: Sequence[int], device: torch.device) -> Batch:
        """Make the ordered batch on the device, without waiting for it.

        Args:
            order: What the loader asks for.
            crop_size: Crop's size (D, H, W).
            device: The accelerator.

        Returns:
            A batch like the host path's, image as float32.
        """
        pairs = [self.volume(index, device) for index in order.indices]
        if order.draws is not None:
            pairs = [
                apply_draw(*pair, draw, crop_size)
                for pair, draw in zip(pairs, order.draws, strict=True)
            ]
        images, labels = zip(*pairs, strict=True)
        return {
            "image": torch.stack(images).float(),
            "label": torch.stack(labels),
            "index": torch.tensor(order.indices).to(device, non_blocking=True),
        }


def open_volume(folder: Path, case: str) -> tuple[Tensor, Tensor]:
    """Map one preprocessed case into memory; only what is used of it is read.

    Args:
        folder: Prepared folder.
        case: 5-digit id.

    Returns:
        image_1DHW float32 and label_1DHW uint8, views of the files.
    """
    # Mode c maps like r but privately: torch warns of read-only arrays, and writes stay in memory.
    image = np.load(image_path(folder, case), mmap_mode="c")
    label = np.load(label_path(folder, case), mmap_mode="c")
    return torch.from_numpy(image), torch.from_numpy(label)


def order_draws(samples: Sequence[tuple[int, SampleDraw]]) -> DeviceOrder:
    """Collate for ``TrainingVolumes(draws_only=True)``.

    Args:
        samples: Index and draw of each sample.

    Returns:
        The order for the device.
    """
    indices, draws = zip(*samples, strict=True)
    return DeviceOrder(list(indices), list(draws))


def order_volumes(indices: Sequence[int]) -> DeviceOrder:
    """Collate for whole volumes kept on the device.

    Args:
        indices: Volume numbers.

    Returns:
        The order for the device.
    """
    return DeviceOrder(list(indices), None)
