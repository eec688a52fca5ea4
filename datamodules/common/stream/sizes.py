"""How many samples each shard holds, from an index that is next to the shards or was counted."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from datamodules.common.atomic import write_json
from datamodules.common.cache import cache_dir
from datamodules.common.progress import stage
from datamodules.common.stream.opening import ShardError, read_small
from datamodules.common.stream.pattern import base_name, is_local, show, sibling
from datamodules.common.stream.samples import shard_samples

# open_clip's, webdataset's own (wids) and timm's; prepared shards have <split>.json.
INDEXES = ("sizes.json", "index.json", "_info.json")
PIECE = 16  # samples that are read together; 1.8 MB of ImageNet
_UNKNOWN_SIZE_BITS = 32  # positions in a shard whose size is not known


class UnknownSizesError(ValueError):
    """How many samples shards hold is not known."""


@dataclass(frozen=True)
class ShardList:
    """The shards of a split.

    Attributes:
        addresses: Of the shards.
        samples: Samples in each; None where only the total is known.
        total: Samples in all of them.
        source: Where the numbers are from, for messages.
        starts: By shard, the byte at which every ``PIECE``-th sample begins, so that pieces can be
            read in any order; None where that is not known, or the server reads no parts.
    """

    addresses: tuple[str, ...]
    samples: tuple[int, ...] | None
    total: int
    source: str
    starts: tuple[tuple[int, ...], ...] | None = None

    def number(self, shard: int, position: int) -> int:
        """Return a sample's number: its place in the whole list, if that is known."""
        if self.samples is None:
            return shard << _UNKNOWN_SIZE_BITS | position
        return self._first[shard] + position

    def name(self, number: int) -> str:
        """Return shard and position of a sample, for tables."""
        if self.samples is None:
            shard, position = divmod(number, 1 << _UNKNOWN_SIZE_BITS)
        else:
            shard = bisect_right(self._first, number) - 1
            position = number - self._first[shard]
        return f"{base_name(self.addresses[shard]) or shard}:{position}"

    @cached_property
    def _first(self) -> list[int]:
        assert self.samples is not None
        return [0, *accumulate(self.samples)]

    def digest(self) -> str:
        """Return a hash of what the order depends on, which stays when shards are moved."""
        names = [base_name(a) or a for a in self.addresses]
        facts = [names, self.samples, self.total, self.starts is not None]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def sized(
    addresses: tuple[str, ...], given: int | None, *, flag: str, prepared_dir: Path | None
) -> ShardList:
    """Find out how many samples the shards hold, without reading a sample.

    Args:
        addresses: The shards.
        given: The total as a flag gives it.
        flag: Name of that flag.
        prepared_dir: Directory of counts; None is one in the cache.

    Returns:
        The shards with what is known of their sizes.

    Raises:
        UnknownSizesError: If it is not known.
        ValueError: If the flag gives another total; one line.
    """
    known, source = _known(addresses, prepared_dir)
    if known is None and given is None:
        first = show(addresses[0])
        raise UnknownSizesError(
            f"{first}: how many samples it holds is not known: put a sizes.json next to the shards "
            f'({{"NAME.tar": SAMPLES, ...}}), give --{flag} N, or run the prepare command with the '
            "same flags, which reads all shards once and counts"
        )
    if known is None:
        assert given is not None
        return ShardList(addresses, None, given, f"--{flag}")
    total = sum(known)
    if given not in (None, total):
        raise ValueError(f"--{flag} is {given}, but {source} counts {total} samples")
    return ShardList(addresses, known, total, source)


def count(addresses: tuple[str, ...], prepared_dir: Path | None) -> Path:
    """Read all shards once and keep their numbers of samples, for ``sized``.

    Args:
        addresses: The shards.
        prepared_dir: Directory to keep them in; None is one in the cache.

    Returns:
        The file that was written.

    Raises:
        ShardError: If one cannot be read.
    """
    numbers = {}
    with stage("counting the samples of shards", len(addresses)) as progress:
        for address in addresses:
            numbers[address] = sum(1 for _ in shard_samples(address))
            progress.done += 1
    path = _counted_path(addresses, prepared_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, numbers)
    return path


def _known(
    addresses: tuple[str, ...], prepared_dir: Path | None
) -> tuple[tuple[int, ...] | None, str]:
    """Return the sizes of all shards and where they are from, or None."""
    directories: dict[str, list[str]] = {}
    for address in addresses:
        directories.setdefault(sibling(address, ""), []).append(address)
    sizes: dict[str, int] = {}
    source = ""
    for members in directories.values():
        for place in _index_addresses(members[0]):
            numbers = _read_index(place)
            if numbers.keys() >= {base_name(a) for a in members}:
                sizes |= {a: numbers[base_name(a)] for a in members}
                source = source or show(place)
                break
    if len(sizes) < len(addresses):
        path = _counted_path(addresses, prepared_dir)
        content = read_small(str(path))
        sizes, source = (json.loads(content) if content else {}), str(path)
    return (tuple(sizes[a] for a in addresses), source) if sizes else (None, "")


def _read_index(place: str) -> dict[str, int]:
    """Return file name -> samples; empty if there is no index, or another program's file."""
    content = read_small(place)
    try:
        return {} if content is None else numbers_in(json.loads(content))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if base_name(place) in INDEXES[1:]:
            return {}
        raise ShardError(f"{show(place)}: is not a list of sizes ({error})") from error


def numbers_in(content: Any) -> dict[str, int]:
    """Return file name -> samples, of any of the known kinds of index."""
    if "shards" in content:  # this project's
        pairs = [(shard["name"], shard["samples"]) for shard in content["shards"]]
    elif "shardlist" in content:  # webdataset's wids
        pairs = [(shard["url"], shard["nsamples"]) for shard in content["shardlist"]]
    elif "splits" in content:  # timm's
        splits = content["splits"].values()
        pairs = [pair for split in splits for pair in _timm_pairs(split)]
    else:
        pairs = [(name, n) for name, n in content.items() if isinstance(n, int)]
    return {base_name(str(name)): _checked(name, n) for name, n in pairs}


def _timm_pairs(split: Mapping[str, Any]) -> Sequence[tuple[str, Any]]:
    import braceexpand

    names = [name for text in split["filenames"] for name in braceexpand.braceexpand(text)]
    return list(zip(names, split["shard_lengths"], strict=True))


def _checked(name: str, number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"{name} has {number!r} samples")
    return number


def _index_addresses(shard: str) -> list[str]:
    """Return where an index of a shard's directory may be."""
    if not sibling(shard, ""):
        return []
    split = base_name(shard).partition(".")[0].rstrip("0123456789").rstrip("-_")
    return [sibling(shard, name) for name in ([f"{split}.json"] if split else []) + [*INDEXES]]


def _counted_path(addresses: tuple[str, ...], prepared_dir: Path | None) -> Path:
    listed = [str(Path(a).absolute()) if is_local(a) else a for a in addresses]
    digest = hashlib.sha256("\n".join(listed).encode()).hexdigest()[:16]
    return (prepared_dir or cache_dir() / "shards") / f"sizes-{digest}.json"
