"""CRC-32C (Castagnoli), the checksum in TensorFlow's files; no installed library computes it.

Eight table look-ups per eight bytes: 0.55 GB/s on one busy core, 3 s for BERT's weights.
"""

import numpy as np
from numba import njit

_POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41 with its bits reversed


def crc32c(content: bytes | memoryview, crc: int = 0) -> int:
    """Compute the checksum of some bytes.

    Args:
        content: The bytes.
        crc: Checksum of the bytes before them.

    Returns:
        An unsigned number of 32 bits.

    Source:
        RFC 3720, appendix B.4, whose examples are among the tests.
    """
    return int(_crc(np.frombuffer(content, np.uint8), _TABLES, np.uint32(crc)))


def masked(crc: int) -> int:
    """Rotate a checksum by 15 bits and add a constant, as TensorFlow stores it."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _tables() -> np.ndarray:
    """Checksums of each byte with 0 to 7 zero bytes behind it: (8, 256) uint32."""
    table: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = table >> 1 ^ np.where(table & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    tables = [table]
    for _ in range(7):
        last = tables[-1]
        tables.append(last >> 8 ^ table[last & 0xFF])
    return np.stack(tables)


@njit(cache=True)
def _crc(content, tables, crc):  # type: ignore[no-untyped-def]
    crc ^= np.uint32(0xFFFFFFFF)
    whole = content.size // 8 * 8
    for at in range(0, whole, 8):
        crc ^= (
            np.uint32(content[at])
            | np.uint32(content[at + 1]) << np.uint32(8)
            | np.uint32(content[at + 2]) << np.uint32(16)
            | np.uint32(content[at + 3]) << np.uint32(24)
        )
        crc = np.uint32(
            tables[7, crc & np.uint32(0xFF)]
            ^ tables[6, (crc >> np.uint32(8)) & np.uint32(0xFF)]
            ^ tables[5, (crc >> np.uint32(16)) & np.uint32(0xFF)]
            ^ tables[4, crc >> np.uint32(24)]
            ^ tables[3, content[at + 4]]
            ^ tables[2, content[at + 5]]
            ^ tables[1, content[at + 6]]
            ^ tables[0, content[at + 7]]
        )
    for at in range(whole, content.size):
        crc = np.uint32(tables[0, (crc ^ content[at]) & np.uint32(0xFF)] ^ (crc >> np.uint32(8)))
    return crc ^ np.uint32(0xFFFFFFFF)


_TABLES = _tables()
