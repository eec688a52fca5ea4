"""COCO's annotation files as JSON, with the annotations decoded one by one as they are looked at.

COCO's own file has 450 MB and 860,001 annotations, which as Python objects take 3 GB. Parsed by
msgspec in an eighth of the time of Python's ``json``, which reads what msgspec does not: NaN, other
encodings.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, overload

import msgspec

SOURCE = (
    "http://images.cocodataset.org/annotations/annotations_trainval2017.zip (253 MB, CC BY 4.0)"
)
_PARTS = ("annotations", "categories", "images")
_UNUSED = ("coco_url", "date_captured", "flickr_url", "license")  # of images: half their memory
_decode = msgspec.json.Decoder().decode
_decode_lists = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_parts = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Records(Sequence[Any]):
    """The entries of a list in a file; each is decoded anew whenever it is asked for."""

    def __init__(self, path: Path, entries: Sequence[msgspec.Raw]) -> None:
        self._path, self._entries = path, entries

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Records(self._path, self._entries[index])
        return self._decoded(self._entries[index])

    def __iter__(self) -> Iterator[Any]:
        return map(self._decoded, self._entries)

    def _decoded(self, entry: msgspec.Raw) -> Any:
        try:
            return _decode(entry)
        except (msgspec.MsgspecError, UnicodeDecodeError):  # a number beyond the largest float
            with _named(self._path):
                return json.loads(bytes(entry))


def read_json(path: Path) -> dict[str, Any]:
    """Read an annotation file; an error if it is missing, truncated or lacks a part.

    Returns its parts: ``annotations`` a sequence that decodes each as it is asked for, the others
    lists; of images without what nobody reads, such as addresses.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; unpack {SOURCE} here")
    text = path.read_bytes()
    try:
        parts: Any = _decode_parts(text)
        annotations = Records(path, _decode_lists(parts.pop("annotations")))
        content = {name: _decode(part) for name, part in parts.items()}
        content["annotations"] = annotations
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, RecursionError):
        with _named(path):
            content = json.loads(text)
    _check_parts(path, content)
    for image in content["images"]:
        for name in _UNUSED if isinstance(image, dict) else ():
            image.pop(name, None)
    return content


def _check_parts(path: Path, content: Any) -> None:
    parts = content if isinstance(content, dict) else {}
    lacking = [name for name in _PARTS if not isinstance(parts.get(name), list | Records)]
    if lacking:
        raise ValueError(f"{path} has no {', '.join(lacking)}; it is not a COCO instances file")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn an error of Python's parser into one line that names the file."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is truncated or damaged ({error}); unpack {SOURCE} again"
        ) from None
