"""Cached component boxes against labelling per sample: a ratio within one run, not a wall time."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from datamodules.common.sampling import SampleKey
from datamodules.kits19.cases import PreparedCase, image_path, label_path
from datamodules.kits19.volumes import TrainingVolumes

SHAPE, CROP = (192, 192, 192), (128, 128, 128)


def median_seconds(work: Callable[[int], object], repeats: int) -> float:
    """Median time of ``work(0)``, ``work(1)``, ..."""
    times = []
    for i in range(repeats):
        start = time.perf_counter()
        work(i)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


@pytest.mark.speed
@pytest.mark.slow
def test_balanced_crop_cached_boxes_are_20_times_faster(tmp_path: Path) -> None:
    label = np.zeros((1, *SHAPE), np.uint8)
    label[0, 60:120, 30:70, 30:80] = label[0, 60:120, 120:160, 30:80] = 1
    label[0, 80:100, 40:60, 50:70] = 2
    np.save(label_path(tmp_path, "00000"), label)
    np.save(image_path(tmp_path, "00000"), np.zeros((1, *SHAPE), np.float32))
    dataset = TrainingVolumes(
        tmp_path,
        [PreparedCase("00000", SHAPE, "", "")],
        CROP,
        oversampling=1.0,
        brightness="reference",
        seed=0,
    )
    dataset.draw(SampleKey(0, 0, 0))  # the one labelling of the run
    cached = median_seconds(lambda epoch: dataset.draw(SampleKey(0, epoch, 0)), 50)

    def label_whole_volume(_: int) -> None:
        components, _count = ndimage.label(label[0] == 1)
        ndimage.find_objects(components)

    labelling = median_seconds(label_whole_volume, 5)
    print(f"{cached * 1e6:.0f} us against {labelling * 1e3:.1f} ms: {labelling / cached:.0f} x")
    assert labelling / cached >= 20
