"""The prepared Criteo data: memory-mapped columns, and a manifest of how they were made.

A split is three ``.npy`` files, ``<split>_label`` (N,) uint8, ``<split>_dense`` (N, 13) int32 and
``<split>_sparse`` (N, 26) int32: a step's column groups are contiguous, and offsets have 64 bits.
"""

import io
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from datamodules.common import records
from datamodules.common.records import MANIFEST
from datamodules.criteo.multi_hot import bags
from datamodules.criteo.text import NUM_DENSE, NUM_TABLES

COLUMNS = {
    "label": (np.uint8, ()),
    "dense": (np.int32, (NUM_DENSE,)),
    "sparse": (np.int32, (NUM_TABLES,)),
}
ROW_BYTES = 1 + 4 * NUM_DENSE + 4 * NUM_TABLES
# Rows of each split of all 24 days.
REFERENCE_ROWS = {"train": 4_195_197_692, "test": 89_137_319, "validation": 89_137_318}
# Rows of each day. Source: pytorch/torchrec, datasets/scripts (ROWS_PER_DAY); the sums are those of
# the reference.
DAY_ROWS = (
    195_841_983, 199_563_535, 196_792_019, 181_115_208, 152_115_810, 172_548_507, 204_846_845,
    200_801_003, 193_772_492, 198_424_372, 185_778_055, 153_588_700, 169_003_364, 194_216_520,
    194_081_279, 187_154_596, 177_984_934, 163_382_602, 142_061_091, 156_534_237, 193_627_464,
    192_215_183, 189_747_893, 178_274_637,
)  # fmt: skip
HEADER_BYTES = 128  # of each .npy file


@dataclass(frozen=True)
class Settings:
    """Settings that DLRM's prepared bytes depend on, besides the logs."""

    dataset: ClassVar[str] = "criteo"
    version: ClassVar[int] = 2
    num_days: int
    """Days used; the last one is the evaluation day."""
    max_ind_range: int
    """Categories are taken modulo this before they are numbered."""


@dataclass(frozen=True)
class MultiHotSettings:
    """Settings that DLRM-DCNv2's prepared bytes depend on, besides the logs."""

    dataset: ClassVar[str] = "criteo-multi-hot"
    version: ClassVar[int] = 1
    num_days: int
    """Days used; the last one is the evaluation day."""
    max_rows: int
    """Categories' numbers are taken modulo this, which limits the rows per table."""


AnySettings = Settings | MultiHotSettings


@dataclass(frozen=True)
class Manifest:
    """Sizes of a finished prepared directory."""

    settings: AnySettings
    rows: dict[str, int]
    """Split (train, test, validation) -> rows."""
    table_sizes: tuple[int, ...]
    """Rows of each of the 26 embedding tables: its column's distinct categories, or the most."""


def read_manifest(folder: Path, settings: AnySettings, *, replace: bool = False) -> Manifest | None:
    """Return a finished directory's manifest, else None; ValueError for other settings or sizes."""
    path = folder / MANIFEST
    content = records.read_manifest(
        folder, settings.dataset, version=settings.version, upgrade=upgrade, replace=replace
    )
    if content is None and (replace or not path.is_file()):
        return None
    if content is None:
        raise ValueError(
            f"{path} is not of prepared Criteo data, or damaged; pass another directory with "
            "--data.prepared_dir, or run the recipe's prepare command, which replaces it"
        )
    if "rows" not in content:
        raise ValueError(
            f"{path} is not of prepared Criteo data; pass another directory with "
            "--data.prepared_dir"
        )
    records.check_settings(folder, content["settings"], asdict(settings))
    manifest = Manifest(settings, content["rows"], tuple(content["table_sizes"]))
    lines = [
        f"{file} should have {size:,} bytes, but {_size(file)}; delete {path} and run prepare"
        for file, size in file_sizes(folder, manifest).items()
        if not file.is_file() or file.stat().st_size != size
    ]
    if lines:
        raise ValueError("\n".join(lines))
    return manifest


def upgrade(content: dict[str, Any]) -> dict[str, Any] | None:
    """Read a manifest of version 1, which has the same files."""
    if "dataset" in content:
        return None
    settings = dict(content.get("settings", {}))
    settings.pop("format", None)
    return content | {
        "dataset": Settings.dataset,
        "format": Settings.version,
        "settings": settings,
    }


def file_sizes(folder: Path, manifest: Manifest) -> dict[Path, int]:
    """Return the size in bytes that each data file must have."""
    sizes = {
        folder / f"{split}_{name}.npy": _file_size(name, rows)
        for split, rows in manifest.rows.items()
        for name in COLUMNS
    }
    if isinstance(manifest.settings, MultiHotSettings):
        sizes[folder / bags.FILE] = bags.file_bytes(manifest.table_sizes)
    return sizes


def _file_size(column: str, num_rows: int) -> int:
    dtype, shape = COLUMNS[column]
    return HEADER_BYTES + num_rows * np.dtype(dtype).itemsize * math.prod(shape)


def create_split(folder: Path, split: str, num_rows: int) -> None:
    """Create a split's files at full size, except those that already have it."""
    for name, (dtype, shape) in COLUMNS.items():
        path = folder / f"{split}_{name}.npy"
        if not path.is_file() or path.stat().st_size != _file_size(name, num_rows):
            fresh = path.with_name(path.name + ".new")
            np.lib.format.open_memmap(fresh, "w+", dtype, (num_rows, *shape)).flush()
            os.replace(fresh, path)


def open_split(folder: Path, split: str, *, writable: bool = False) -> dict[str, np.ndarray]:
    """Map a split's ``label``, ``dense`` and ``sparse`` into memory, if whole."""
    for name in COLUMNS:
        _check_header(folder / f"{split}_{name}.npy", name)
    mode: Literal["r+", "r"] = "r+" if writable else "r"
    return {name: np.load(folder / f"{split}_{name}.npy", mmap_mode=mode) for name in COLUMNS}


def _check_header(path: Path, column: str) -> None:
    """Raise if a header is not the one that was written: damaged, it would give other rows."""
    dtype, shape = COLUMNS[column]
    row_bytes = np.dtype(dtype).itemsize * math.prod(shape)
    rows = (path.stat().st_size - HEADER_BYTES) // row_bytes
    wanted, description = io.BytesIO(), np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": description, "fortran_order": False, "shape": (rows, *shape)}
    np.lib.format.write_array_header_1_0(wanted, header)
    with path.open("rb") as file:
        if file.read(HEADER_BYTES) != wanted.getvalue():
            raise ValueError(
                f"{path}: its header is damaged; delete {path.parent / MANIFEST} and run prepare"
            )


def _size(path: Path) -> str:
    return f"has {path.stat().st_size:,}" if path.is_file() else "is missing"
