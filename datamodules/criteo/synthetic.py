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


def cut_manifest(
    settings: AnySettings, memory: float, closed: tuple[int, ...], row_bytes: int
) -> tuple[Manifest, list[str]]:
    """Return the manifest of the whole data, its tables cut to fit, and a line if they were.

    Args:
        settings: Of either preparation.
        memory: Bytes that the tables may take.
        closed: Rows of the closed tables.
        row_bytes: Bytes that the network and its optimizer keep per row.

    Returns:
        The manifest, and how much was cut in one line, or none.
    """
    share = min(1.0, memory / (row_bytes * sum(closed)))
    sizes = tuple(math.ceil(share * rows) for rows in closed)
    whole, used = (row_bytes * sum(rows) / 2**30 for rows in (closed, sizes))
    line = f"tables {whole:.1f} -> {used:.1f} GiB (1/{whole / used:.3g} of the rows)"
    return Manifest(settings, dict(REFERENCE_ROWS), sizes), [line] if sizes != closed else []
