"""Reading preprocessed KiTS19 volumes: crops from memory-mapped files, or volumes kept on a device.

Letters: B batch, D H W voxels of a crop or volume.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
    """A batch that is still to be made on the device; ``draws`` is None for whole volumes."""

    indices: list[int]
    draws: list[SampleDraw] | None


class TrainingVolumes(Dataset[Batch]):
    """Random crops of the training volumes; each worker keeps the component boxes it has computed.

    The boxes live in memory only: the rules allow no new information to be added to the data.
    With ``draws_only`` it gives ``(index, draw)`` instead of tensors, for crops made on a device.
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
        self.folder, self.cases, self.crop_size = folder, list(cases), tuple(crop_size)
        self.oversampling, self.brightness = oversampling, brightness
        self.seed, self.draws_only = seed, draws_only
        self._boxes: dict[int, dict[int, np.ndarray]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_boxes": {}}

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: SampleKey) -> Batch | tuple[int, SampleDraw]:  # type: ignore[override]
        """Return one crop (or index and draw), a pure function of seed and key."""
        draw = self.draw(key)
        if self.draws_only:
            return key.index, draw
        image, label = open_volume(self.folder, self.cases[key.index].case)
        image, label = apply_draw(image, label, draw, self.crop_size)
        return {"image": image, "label": label, "index": torch.tensor(key.index)}

    def draw(self, key: SampleKey) -> SampleDraw:
        """Draw one sample's random choices, independent of earlier draws."""
        return draw_sample(
            sample_rng(self.seed, key.epoch, key.index, key.repeat),
            self.cases[key.index].shape,
            lambda: self.boxes(key.index),
            self.crop_size,
            oversampling=self.oversampling,
            brightness=self.brightness,
        )

    def boxes(self, index: int) -> dict[int, np.ndarray]:
        """Return a volume's component boxes, computed at the first call."""
        if index not in self._boxes:
            path = label_path(self.folder, self.cases[index].case)
            self._boxes[index] = component_boxes(_map(path)[0])
        return self._boxes[index]


class EvaluationVolumes(Dataset[Batch]):
    """Whole preprocessed volumes: those of ``cases`` that ``indices`` name, this rank's share."""

    def __init__(self, folder: Path, cases: Sequence[PreparedCase], indices: Sequence[int]) -> None:
        self.folder, self.cases, self.indices = folder, list(cases), list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Batch:
        """Return one volume; its ``index`` is the number within the whole evaluation set."""
        index = self.indices[position]
        image, label = open_volume(self.folder, self.cases[index].case)
        # clone reads the file here, in the worker, not page by page in the model.
        return {"image": image.clone(), "label": label.clone(), "index": torch.tensor(index)}


class DeviceVolumes:
    """Volumes kept on the accelerator, loaded on first use, inside the timed run.

    168 training volumes in half precision with their labels take about 14 GB. float16 rounds the
    normalised image, within [-2.4, 2.7], by at most 0.001.
    """

    def __init__(self, folder: Path, cases: Sequence[PreparedCase], dtype: torch.dtype) -> None:
        self.folder, self.cases, self.dtype = folder, list(cases), dtype
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def volume(self, index: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return image_1DHW and label_1DHW on the device; not to be changed in place."""
        if index not in self._kept:
            image, label = open_volume(self.folder, self.cases[index].case)
            # copy: on a CPU device the file would otherwise stay mapped.
            self._kept[index] = (
                image.to(device, self.dtype, copy=True),
                label.to(device, copy=True),
            )
        return self._kept[index]

    def batch(self, order: DeviceOrder, crop_size: Sequence[int], device: torch.device) -> Batch:
        """Make the ordered batch on the device, like the host's, without synchronising."""
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
    """Map one preprocessed case into memory: image_1DHW float32 and label_1DHW uint8."""
    image, label = _map(image_path(folder, case)), _map(label_path(folder, case))
    return torch.from_numpy(image), torch.from_numpy(label)


def _map(path: Path) -> np.ndarray:
    try:
        # Mode c maps like r but privately: torch warns of read-only arrays.
        return np.load(path, mmap_mode="c")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged; run the recipe's prepare command") from error


def order_draws(samples: Sequence[tuple[int, SampleDraw]]) -> DeviceOrder:
    """Collate for ``TrainingVolumes(draws_only=True)``."""
    indices, draws = zip(*samples, strict=True)
    return DeviceOrder(list(indices), list(draws))


def order_volumes(indices: Sequence[int]) -> DeviceOrder:
    """Collate for whole volumes kept on the device."""
    return DeviceOrder(list(indices), None)
