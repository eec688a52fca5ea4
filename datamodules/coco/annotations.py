"""COCO's instance annotation files: read, checked, and stored in a compact form for training.

Letters: I images, A annotations of all images.
"""

from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from datamodules.coco.faults import entry_problems, geometry_problems, record_problems
from datamodules.coco.misfit import drawable
from datamodules.coco.published import are_published
from datamodules.common.array_file import map_arrays, save_arrays

Polygons = list[np.ndarray]


@dataclass(frozen=True)
class Annotations:
    """All annotations of one split as flat arrays; image i owns ``offset[i]:offset[i + 1]``."""

    image_id: np.ndarray
    """(I,) int64, ascending."""
    file_name: list[str]
    size: np.ndarray
    """(I, 2) int64: height, width in pixels."""
    offset: np.ndarray
    """(I + 1,) int64."""
    box: np.ndarray
    """(A, 4) float64: x, y, width, height in pixels."""
    label: np.ndarray
    """(A,) int64: 1 + position of the category in the file."""
    crowd: np.ndarray
    """(A,) bool."""
    ring_count: np.ndarray
    """(A,) int64: polygons of an annotation; 0 for a crowd's run lengths."""
    ring_length: np.ndarray
    """(rings,) int64: coordinates of a polygon, two per corner."""
    corner: np.ndarray
    """Flat float32: all polygons concatenated, x and y alternating."""
    has_mask: np.ndarray
    """(A,) bool: whether there are polygons or run lengths."""
    category_id: np.ndarray
    """(K,) int64: the file's category ids by label - 1."""

    def __len__(self) -> int:
        return len(self.image_id)

    def count(self) -> np.ndarray:
        """Return the number of annotations per image, (I,) int64."""
        return np.diff(self.offset)

    def of_image(self, index: int) -> slice:
        """Return an image's slice of ``box``, ``label``, ``crowd`` and ``ring_count``."""
        return slice(int(self.offset[index]), int(self.offset[index + 1]))

    def polygons(self, index: int) -> list[Polygons]:
        """Return per annotation of an image a list of (corners, 2) float32 arrays, in pixels."""
        # Computed on first use: only Mask R-CNN needs it. The dataclass is frozen.
        if not hasattr(self, "_ring_offset"):
            ring = np.concatenate([[0], np.cumsum(self.ring_count)])
            corner = np.concatenate([[0], np.cumsum(self.ring_length)])
            object.__setattr__(self, "_ring_offset", (ring, corner))
        ring, corner = self._ring_offset  # type: ignore[attr-defined]
        return [
            [
                self.corner[corner[r] : corner[r + 1]].reshape(-1, 2)
                for r in range(ring[a], ring[a + 1])
            ]
            for a in range(*self.of_image(index).indices(len(self.label)))
        ]

    def save(self, file: IO[bytes] | Path) -> None:
        """Write everything to one ``.npz`` file."""
        arrays = {name: getattr(self, name) for name in self.__dataclass_fields__}
        save_arrays(file, arrays | {"file_name": np.array(self.file_name)})

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the file itself: these are 700 MB for COCO.
        path = self.__dict__.get("_path")
        return {"_path": path} if path else self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        path = state.get("_path")
        self.__dict__.update(vars(load_annotations(path, verify=False)) if path else state)


def load_annotations(path: Path, *, verify: bool = True) -> Annotations:
    """Map a file of ``Annotations.save``.

    Args:
        path: The file.
        verify: Compare all bytes with their checksums.

    Returns:
        The annotations, whose arrays stay in the file; a ValueError names it if it is damaged.
    """
    with _damage_named(path):
        arrays: dict[str, Any] = map_arrays(path, verify=verify)
        loaded = Annotations(**arrays | {"file_name": arrays["file_name"].tolist()})
    object.__setattr__(loaded, "_path", path)
    return loaded


def load_names(path: Path) -> list[str]:
    """Read only the images' names of a file of ``Annotations.save``."""
    with _damage_named(path), np.load(path) as arrays:
        names: list[str] = arrays["file_name"].tolist()
        return names


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged archives fail in many ways
        raise ValueError(
            f"{path} is damaged ({' '.join(str(error).split())}); delete it and run the recipe's "
            "prepare command"
        ) from None


def parse(content: Mapping[str, Any], path: Path) -> Annotations:
    """Convert an annotation file's content to flat arrays by image id; one line per problem.

    Looks at one annotation at a time, which ``content`` may decode from the file then.
    """
    if lines := entry_problems(content["images"], content["categories"]):
        raise ValueError("\n".join(f"{path}: {line}" for line in lines))
    images = sorted(content["images"], key=lambda image: image["id"])
    position = {image["id"]: i for i, image in enumerate(images)}
    label_of = {category["id"]: 1 + k for k, category in enumerate(content["categories"])}
    records: Sequence[Any] = content["annotations"]
    owners = array("q")
    if lines := record_problems(_noting_images(records, position, owners), position, label_of):
        raise ValueError("\n".join(f"{path}: {line}" for line in lines))
    owner = np.frombuffer(owners, np.int64)
    counts = np.bincount(owner, minlength=len(images)) if len(owner) else np.zeros(len(images), int)
    return Annotations(
        image_id=np.array([image["id"] for image in images], dtype=np.int64),
        file_name=[image["file_name"] for image in images],
        size=np.array([(i["height"], i["width"]) for i in images], dtype=np.int64).reshape(-1, 2),
        offset=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        category_id=np.array([c["id"] for c in content["categories"]], dtype=np.int64),
        **_columns(records, np.argsort(owner, kind="stable"), label_of),
    )


def _noting_images(
    records: Sequence[Any], position: Mapping[int, int], owners: "array[int]"
) -> Iterator[Any]:
    """Yield the annotations, and note the number of each one's image on the way."""
    for record in records:
        with suppress(AttributeError, TypeError):  # no record or id: reported elsewhere
            owners.append(position.get(record.get("image_id"), -1))
        yield record


def _columns(
    records: Sequence[Any], order: np.ndarray, label_of: Mapping[int, int]
) -> dict[str, np.ndarray]:
    """Return the arrays of annotations, in another order than the file's."""
    box, corner = array("d"), array("f")
    label, ring_count, ring_length = array("q"), array("q"), array("q")
    crowd, has_mask = bytearray(), bytearray()
    for number in order:
        record = records[number]
        rings = drawable(record)
        box.extend(record["bbox"])
        label.append(label_of[record["category_id"]])
        crowd.append(bool(record.get("iscrowd", 0)))
        has_mask.append(bool(record.get("segmentation")))
        ring_count.append(len(rings))
        for ring in rings:
            ring_length.append(len(ring))
            corner.extend(ring)
    return {
        "box": np.frombuffer(box, np.float64).reshape(-1, 4),
        "label": np.frombuffer(label, np.int64),
        "crowd": np.frombuffer(crowd, bool),
        "ring_count": np.frombuffer(ring_count, np.int64),
        "ring_length": np.frombuffer(ring_length, np.int64),
        "corner": np.frombuffer(corner, np.float32),
        "has_mask": np.frombuffer(has_mask, bool),
    }


def misfits(content: Mapping[str, Any], path: Path, *, but_for: Collection[str]) -> list[str]:
    """Return one line per annotation of parsed content that does not fit its image or its mask.

    Images named in ``but_for`` are left out, as their sizes may be wrong. COCO's own boxes reach
    over the border here and there, and the reference clips them.
    """
    images, records = content["images"], content["annotations"]
    sizes = {
        image["id"]: (int(image["height"]), int(image["width"]))
        for image in images
        if image["file_name"] not in but_for
    }
    own = are_published(len(images), len(records), len(content["categories"]))
    return [f"{path}: {line}" for line in geometry_problems(records, sizes, strict=not own)]
