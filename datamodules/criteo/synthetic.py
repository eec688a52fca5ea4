"""Criteo without its logs, for ``speed --synthetic``: rows, and tables that fit into memory."""

import math

from datamodules.criteo.store import REFERENCE_ROWS, AnySettings, Manifest

# Distinct categories per column of the 24 days; the network's default has the same.
TABLE_SIZES = (
    39_884_406, 39_043, 17_289, 7_420, 20_263, 3, 7_120, 1_543, 63, 38_532_951, 2_953_546, 403_346,
    10, 2_208, 11_938, 155, 4, 976, 14, 39_979_771, 25_641_295, 39_664_984, 585_935, 12_972, 108,
    36,
)  # fmt: skip
ROW_BYTES = 4 * 128  # of the closed tables: fp32, width 128


def manifest(settings: AnySettings, memory: float) -> Manifest:
    """Return the manifest of the whole data, its tables cut to ``memory`` bytes where needed."""
    share = min(1.0, memory / (ROW_BYTES * sum(TABLE_SIZES)))
    return Manifest(
        settings, dict(REFERENCE_ROWS), tuple(math.ceil(share * rows) for rows in TABLE_SIZES)
    )


def scaled_line(sizes: tuple[int, ...]) -> list[str]:
    """Say by how much the tables were cut; empty if they were not."""
    closed, used = (ROW_BYTES * sum(rows) / 2**30 for rows in (TABLE_SIZES, sizes))
    if sizes == TABLE_SIZES:
        return []
    return [f"tables {closed:.1f} -> {used:.1f} GiB (1/{closed / used:.3g} of the rows)"]
