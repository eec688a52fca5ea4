"""Decompresses Snappy data, the format of compressed TensorFlow checkpoint indices.

Source: google/snappy, format_description.txt (a raw stream, without frames).
"""


def decompress(data: bytes) -> bytes:
    """Decompress one raw Snappy stream; a damaged one raises a ValueError."""
    size, at = _size(data)
    out = bytearray()
    while at < len(data):
        tag, at = data[at], at + 1
        kind = tag & 3
        if kind == 0:
            length, at = _literal_length(data, tag >> 2, at)
            out += data[at : at + length]
            at += length
            continue
        if kind == 1:
            length, width, high = (tag >> 2 & 7) + 4, 1, tag >> 5 << 8
        else:
            length, width, high = (tag >> 2) + 1, 2 * (kind - 1), 0
        offset = high + int.from_bytes(data[at : at + width], "little")
        at += width
        if not 0 < offset <= len(out):
            raise ValueError("damaged compressed block")
        for _ in range(length):  # a copy may reach into what it has just written
            out.append(out[-offset])
    if len(out) != size:
        raise ValueError("damaged compressed block")
    return bytes(out)


def _size(data: bytes) -> tuple[int, int]:
    """Read the decompressed size and the offset of the stream's first element."""
    value = 0
    for at, byte in enumerate(data[:5]):
        value |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            return value, at + 1
    raise ValueError("damaged compressed block")


def _literal_length(data: bytes, code: int, at: int) -> tuple[int, int]:
    """Read the number of literal bytes and their offset."""
    if code < 60:
        return code + 1, at
    width = code - 59
    return int.from_bytes(data[at : at + width], "little") + 1, at + width
