"""KiTS19: CT volumes of the abdomen with kidneys and kidney tumours, for 3D U-Net.

Data: https://github.com/neheller/kits19, about 30 GB raw and 29 GB preprocessed, CC BY-NC-SA 4.0.
168 training and 42 evaluation cases. Own data in its layout has any number of cases and classes.
Facts: mlcommons/training @ 9947bdf2,
image_segmentation/pytorch.

Letters: B batch, D H W voxels of 1.6 x 1.2 x 1.2 mm.
"""

import sys
from collections.abc import Sequence
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.common.base import BenchmarkDataModule
from datamodules.common.cache import build_once, demo_folder
from datamodules.common.preparation import damage_lines, units_to_redo
from datamodules.common.records import damaged_units
from datamodules.common.sampling import evaluation_indices, padded_length, run_seed
from datamodules.kits19 import build as builder
from datamodules.kits19.cases import (
    Cases,
    PreparedCase,
    count_classes,
    prepared_cases,
    read_cases,
)
from datamodules.kits19.checksums import (
    checksum_verdict,
    is_other_data,
    label_errors,
    reference_checksums,
)
from datamodules.kits19.inputs import axes_of, read_volume, write_mask
from datamodules.kits19.raw import IMAGE, find_data, is_preprocessed
from datamodules.kits19.split import CaseSplit, choose_split, kits19_split, list_cases, some_cases
from datamodules.kits19.split import differences as split_differences
from datamodules.kits19.transforms import BrightnessForm
from datamodules.kits19.volumes import (
    Batch,
    DeviceOrder,
    DeviceVolumes,
    EvaluationVolumes,
    TrainingVolumes,
    order_draws,
    order_volumes,
)

REFERENCE_CROP = (128, 128, 128)
KIDNEY_CLASSES = ("kidney", "tumour")


class KiTS19DataModule(BenchmarkDataModule):
    """Crops of the training volumes and whole evaluation volumes.

    A training batch is a dict of ``image`` (B, 1, D, H, W) float32, normalised; ``label``, same
    shape, uint8 in 0..K-1 (K = 3 for KiTS19); ``index`` (B,) int64. An evaluation batch is one
    whole volume, B = 1.
    """

    prediction_endings: ClassVar[tuple[str, ...]] = (".nii.gz",)
    evaluation_sample = "window"

    def __init__(
        self,
        *,
        root: Path | None = None,
        prepared_dir: Path | None = None,
        batch_size: int = 2,
        crop_size: tuple[int, int, int] = REFERENCE_CROP,
        oversampling: float = 0.4,
        brightness: BrightnessForm = "reference",
        num_workers: int = 0,
        prepare_processes: int = 0,
        device_cache: bool = False,
        evaluation_cases: Path | None = None,
    ) -> None:
        """Defaults are the closed reference on one device.

        Args:
            root: Directory with the raw ``case_XXXXX`` directories, a ``kits19`` clone, or one with
                files that are already preprocessed. None generates the demo data.
            prepared_dir: Directory for the preprocessed files; default ``finishline-unet3d`` in the
                root.
            batch_size: Samples per device and step.
            crop_size: Training crop in voxels (D, H, W), and the minimum size of a prepared volume.
            oversampling: Probability of a crop on the foreground, in [0, 1].
            brightness: ``reference`` multiplies by 1.7 to 2.3 as the reference does; ``plain`` by
                0.7 to 1.3 as accepted submissions did.
            num_workers: Loader processes per device; 0 loads in the training process.
            prepare_processes: Processes for preprocessing; 0 chooses by cores and memory.
            device_cache: Keep all volumes on the accelerator (about 20 GB, training images in
                half precision) and crop and augment there.
            evaluation_cases: File with one case id per line, for own data: those that are evaluated
                on; None takes the benchmark's 42 in KiTS19 and every fifth case of other data.

        Raises:
            ValueError: If a number is out of range; one line each.
        """
        super().__init__()
        problems = [
            f"{name} must be {rule}, got {value}"
            for name, value, rule, good in (
                ("batch_size", batch_size, "at least 1", batch_size >= 1),
                ("crop_size", crop_size, "three sizes >= 1", min(crop_size) >= 1),
                ("oversampling", oversampling, "in [0, 1]", 0 <= oversampling <= 1),
                ("num_workers", num_workers, "at least 0", num_workers >= 0),
                ("prepare_processes", prepare_processes, "at least 0", prepare_processes >= 0),
            )
            if not good
        ]
        if problems:
            raise ValueError("\n".join(problems))
        self.demo = root is None
        # Notebooks pass text.
        self.root = None if root is None else Path(root)
        self.prepared_dir = None if prepared_dir is None else Path(prepared_dir)
        self.batch_size, self.crop_size = batch_size, tuple(crop_size)
        self.oversampling, self.brightness = oversampling, brightness
        self.num_workers, self.prepare_processes = num_workers, prepare_processes
        self.device_cache = device_cache
        self.evaluation_cases = None if evaluation_cases is None else Path(evaluation_cases)
        self._train_volumes: DeviceVolumes | None = None
        self._evaluation_volumes: DeviceVolumes | None = None

    @property
    def samples_per_epoch(self) -> int:
        """Training samples per epoch, padded to a whole number of global batches."""
        return padded_length(len(self._split.train), self.global_batch_size)

    def prepare_data(self) -> None:
        """Make the preprocessed files; if they are there, only the manifest is read."""
        self._prepare(show_progress=not self.demo)

    def prepare(self) -> None:
        """Prepare with a progress bar and a verdict; what changed since is prepared again."""
        cases = self._prepare(show_progress=True, check_raw=True)
        split, own = self._split, not self._is_benchmark
        name = "Own data" if own else f"KiTS19{' demo' if self.demo else ''}"
        classes = f", {count_classes(cases)} classes" if own else ""
        print(
            f"{name} is ready in {self._prepared}: "
            f"{len(split.train)} training and {len(split.evaluation)} evaluation cases{classes}"
        )
        if own and self.evaluation_cases is None:
            print("Every fifth case is evaluated on; --data.evaluation_cases FILE names others")
        for line in checksum_verdict(cases, self._checksums):
            print(line)

    def problems(self) -> list[str]:
        """Return one line per problem of this root, without reading or writing any volume."""
        if self.root is None:
            return []
        try:
            folder = find_data(self.root)
            done = read_cases(self._prepared, self.crop_size)
            todo = [case for case in self._split.cases if case not in done]
            if is_preprocessed(folder):
                return builder.missing_files(folder, todo)
            if not todo:
                return damage_lines(self._prepared, folder)
            trusted = bool(self._checksums)
            return [
                *damage_lines(self._prepared, folder),
                *builder.raw_problems(
                    folder, self._prepared, todo, self.crop_size, trusted=trusted
                ),
            ]
        except (FileNotFoundError, ValueError) as error:
            return str(error).splitlines()

    def differences(self) -> list[str]:
        """Compare cases and split with KiTS19's and, once prepared, classes and checksums."""
        if self.root is None:
            return []
        lines = split_differences(self._split, kits19_split())
        cases = self._prepared_cases()
        if cases and (number := count_classes(cases)) != len(KIDNEY_CLASSES) + 1:
            lines.append(f"{number} classes instead of its {len(KIDNEY_CLASSES) + 1}")
        if wrong := label_errors(self._prepared, cases, self._checksums):
            lines.append(f"labels that differ from the published ones in {some_cases([*wrong])}")
        return lines

    def net_facts(self) -> dict[str, Any]:
        """Return axes, channels and classes (with background) of the volumes, and the crop."""
        return {
            "spatial_dims": 3,
            "in_channels": 1,
            "num_classes": len(self.class_names) + 1,
            "image_size": self.crop_size,
        }

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the foreground classes: ``kidney, tumour``, or ``1, 2, ...`` of own data."""
        if self._is_benchmark:
            return KIDNEY_CLASSES
        cases = self._prepared_cases()
        if not cases:
            raise ValueError(
                f"{self._prepared} is not prepared; run the recipe's prepare command with the "
                "same --data flags"
            )
        return tuple(str(label) for label in range(1, count_classes(cases)))

    def mllog_facts(self) -> dict[str, object]:
        """Return the log's data keys, from the split and the arguments."""
        return {
            "train_samples": len(self._split.train),
            "eval_samples": len(self._split.evaluation),
            "samples_per_epoch": self.samples_per_epoch,
            "oversampling": self.oversampling,
            "training_input_shape": list(self.crop_size),
        }

    def train_dataloader(self) -> DataLoader[Any]:
        """Return shuffled crops of this rank, from the resume position on."""
        cases = self._cases(self._split.train)
        dataset = TrainingVolumes(
            self._prepared,
            cases,
            self.crop_size,
            oversampling=self.oversampling,
            brightness=self.brightness,
            seed=run_seed(),
            draws_only=self.device_cache,
        )
        sampler = self.epoch_sampler(len(cases))
        if self.device_cache:
            # The loader then gives indices and draws; transfer_batch_to_device makes the crops.
            self._train_volumes = DeviceVolumes(self._prepared, cases, torch.float16)
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=order_draws if self.device_cache else None,
            **self.loader_options,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Return whole evaluation volumes of this rank, each exactly once over all ranks."""
        cases = self._cases(self._split.evaluation)
        indices = evaluation_indices(len(cases), self.trainer)
        if not self.device_cache:
            volumes = EvaluationVolumes(self._prepared, cases, indices)
            return DataLoader(volumes, batch_size=1, **self.loader_options)
        # Evaluation keeps single precision: the quality must not depend on where volumes are kept.
        self._evaluation_volumes = DeviceVolumes(self._prepared, cases, torch.float32)
        numbers: Any = indices
        return DataLoader(numbers, batch_size=1, collate_fn=order_volumes)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Move a batch, or with ``device_cache`` make it on the device, without synchronising."""
        if not isinstance(batch, DeviceOrder):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        volumes = self._evaluation_volumes if batch.draws is None else self._train_volumes
        assert volumes is not None
        return volumes.batch(batch, self.crop_size, device)

    def synthetic_batch(self) -> Batch:
        """Return a random training batch on the CPU, for warm-up and speed tests."""
        return self._random_volumes(self.batch_size, self.crop_size)

    def use_synthetic_data(self, memory: float) -> list[str]:
        """Take KiTS19's cases and classes."""
        self.synthetic, self._split = True, kits19_split()
        return []

    def synthetic_evaluation_batch(self, size: int) -> tuple[Batch, int]:
        """Return a random volume on the CPU of ``size`` windows that overlap by a half."""
        depth, *area = self.crop_size
        return self._random_volumes(1, (depth + (size - 1) * (depth // 2), *area)), size

    def _random_volumes(self, number: int, size: Sequence[int]) -> Batch:
        shape = (number, 1, *size)
        return {
            "image": torch.randn(shape),
            "label": torch.randint(0, len(self.class_names) + 1, shape, dtype=torch.uint8),
            "index": torch.zeros(number, dtype=torch.int64),
        }

    def read_input(self, source: str) -> dict[str, Any]:
        """Read a CT volume and preprocess it as an evaluation case, for ``predict``.

        Args:
            source: NIfTI file in Hounsfield units. Its axes are brought into the data set's order.

        Returns:
            ``image`` (1, 1, D, H, W) float32, and ``grid`` for ``write_prediction``.

        Raises:
            OSError: If there is no such file.
            ValueError: If it is not one volume of three axes.
        """
        batch = read_volume(source, axes_of(self._source), self.crop_size)
        return {**batch, "names": self.class_names}

    def write_prediction(self, stem: Path, batch: Any, prediction: np.ndarray) -> str:
        """Write the mask on the input's own grid as ``.nii.gz``.

        Args:
            stem: Path without ending.
            batch: From ``read_input``.
            prediction: mask_DHW, uint8 class ids of the preprocessed volume.

        Returns:
            The volume of each class in words.
        """
        volumes = write_mask(stem.with_name(f"{stem.name}.nii.gz"), prediction, batch["grid"])
        names = [f"class {name}" if name.isdigit() else name for name in batch["names"]]
        # Without a voxel of the last classes there are fewer volumes.
        pairs = zip_longest(names, volumes, fillvalue=0.0)
        return ", ".join(f"{name} {volume:.1f} ml" for name, volume in pairs)

    def example_inputs(self) -> list[str]:
        """Return two held-out raw cases."""
        folder = find_data(self._source)
        return [str(folder / f"case_{case}" / IMAGE) for case in self._split.evaluation[:2]]

    @property
    def _is_benchmark(self) -> bool:
        """Whether the cases are those of the demo or, by their names, of KiTS19."""
        return self.demo or self._split.cases == kits19_split().cases and not self._is_other_data

    @property
    def _is_other_data(self) -> bool:
        """Whether the prepared cases show that KiTS19's names are other data's."""
        cases = self._prepared_cases()
        other = bool(cases) and count_classes(cases) != len(KIDNEY_CLASSES) + 1
        errors = label_errors(self._prepared, cases, self._checksums)
        return other or bool(errors) and is_other_data(cases, errors)

    @property
    def _checksums(self) -> dict[str, str]:
        """MD5 of the files that must equal the reference's: of KiTS19's cases at its crop size."""
        same = not self.demo and self.crop_size == REFERENCE_CROP
        return reference_checksums() if same and self._split.cases == kits19_split().cases else {}

    @cached_property
    def _split(self) -> CaseSplit:
        """The cases of the root, or the benchmark's while there are none."""
        if self.root is None:
            return _demo_split()
        try:
            folder = find_data(self.root)
        except FileNotFoundError:
            return kits19_split()
        names = prepared_cases(folder) if is_preprocessed(folder) else list_cases(folder)
        return choose_split(folder, names, kits19_split(), self.evaluation_cases)

    def _prepared_cases(self) -> Cases:
        """Return the cases of the split if all of them are prepared, else none."""
        done = read_cases(self._prepared, self.crop_size, replace=True)
        wanted = self._split.cases
        return {case: done[case] for case in wanted} if done.keys() >= {*wanted} else {}

    @property
    def _source(self) -> Path:
        """The root, or the folder of the generated raw data."""
        from datamodules.kits19.demo import NUM_CASES, VERSION

        return self.root or demo_folder("kits19", VERSION, {"cases": NUM_CASES})

    @property
    def _prepared(self) -> Path:
        """The folder of the preprocessed files; another crop size has another one."""
        source = self._source
        if self.root is not None and source.is_dir():
            for folder in (source, source / "data"):
                if is_preprocessed(folder):
                    return folder
        size = "" if self.crop_size == REFERENCE_CROP else "-" + "x".join(map(str, self.crop_size))
        return self.prepared_dir or source / f"finishline-unet3d{size}"

    @property
    def loader_options(self) -> dict[str, Any]:
        """Worker and memory settings of both loaders; volumes on the device need no copy."""
        options = super().loader_options
        return options | {"pin_memory": options["pin_memory"] and not self.device_cache}

    def _prepare(self, *, show_progress: bool, check_raw: bool = False) -> Cases:
        """Prepare the folder if need be, and return its cases."""
        if self.demo:
            from datamodules.kits19.demo import write_phantoms

            build_once(self._source, write_phantoms)
        folder = find_data(self._source)
        out, adopted = self._prepared, is_preprocessed(folder)
        work: dict[str, Any] = {"processes": self.prepare_processes, "show_progress": show_progress}
        redo = units_to_redo(out, folder, **work) if check_raw and not adopted else set()
        replace = check_raw or self.demo
        cases = read_cases(out, self.crop_size, replace=replace)
        if (
            not redo
            and all(case in cases for case in self._split.cases)
            and not (check_raw and adopted)
        ):
            return {case: cases[case] for case in self._split.cases}
        if not check_raw:
            for line in damaged_units(out).values():  # found by their sizes
                print(f"{line}; preparing it again", file=sys.stderr)
        options = {"checksums": self._checksums, **work}
        if adopted:
            return builder.adopt(folder, self._split, self.crop_size, **options)
        return builder.build(folder, out, self._split, self.crop_size, redo=redo, **options)

    def _cases(self, wanted: tuple[str, ...]) -> list[PreparedCase]:
        done = read_cases(self._prepared, self.crop_size)
        if lost := [case for case in wanted if case not in done]:
            lines = damage_lines(self._prepared) or [
                f"{self._prepared}: {len(lost)} cases are not preprocessed (case_{lost[0]}, ...); "
                "run the recipe's prepare command"
            ]
            raise ValueError("\n".join(lines))
        return [done[case] for case in wanted]


def _demo_split() -> CaseSplit:
    from datamodules.kits19.demo import EVALUATION, NUM_CASES

    every = tuple(f"{number:05d}" for number in range(NUM_CASES))
    return CaseSplit(tuple(case for case in every if case not in EVALUATION), EVALUATION)
