"""Multi-hot Criteo without its logs, for ``speed --synthetic``: tables that fit into memory."""

import math

from datamodules.criteo.store import REFERENCE_ROWS, Manifest, MultiHotSettings

# Distinct categories of each column over all 24 days. Source: mlcommons/training @ aa344c7,
# recommendation_v2/torchrec_dlrm, README (num_embeddings_per_feature), which caps five of them.
TABLE_SIZES = (
    40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 40_000_000, 3_067_956, 405_282,
    10, 2_209, 11_938, 155, 4, 976, 14, 40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108,
    36,
)  # fmt: skip
ROW_BYTES = 2 * 4 * 128  # weight and Adagrad's sum: fp32, width 128


def manifest(settings: MultiHotSettings, memory: float) -> Manifest:
    """Return the manifest of the whole data, its tables cut to ``memory`` bytes where needed."""
    share = min(1.0, memory / (ROW_BYTES * sum(TABLE_SIZES)))
    sizes = tuple(math.ceil(share * rows) for rows in TABLE_SIZES)
    return Manifest(settings, dict(REFERENCE_ROWS), sizes)


def scaled_line(sizes: tuple[int, ...]) -> list[str]:
    """Say by how much the tables were cut; empty if they were not."""
    closed, used = (ROW_BYTES * sum(rows) / 2**30 for rows in (TABLE_SIZES, sizes))
    if sizes == TABLE_SIZES:
        return []
    return [f"tables and sums {closed:.1f} -> {used:.1f} GiB (1/{closed / used:.3g} of the rows)"]
