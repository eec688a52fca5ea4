"""Samples of one shard: those that webdataset gives, or one line that names the shard."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from datamodules.common.stream.opening import ShardError
from datamodules.common.stream.samples import Raw, shard_samples
from tests.datamodules.common.stream.shard_server import numbered, serving, tar_bytes

SAMPLES = numbered(0, 5)
WHOLE = tar_bytes(SAMPLES)


def written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_samples_are_those_of_webdataset(tmp_path: Path) -> None:
    import webdataset

    path = written(tmp_path / "0.tar", WHOLE)
    theirs = list(webdataset.WebDataset(path, shardshuffle=False))
    ours = list(shard_samples(path))
    assert ours == [(s["__key__"], {"cls": s["cls"], "jpg": s["jpg"]}) for s in theirs]
    assert ours == [(key, dict(fields)) for key, fields in SAMPLES]


def test_a_packed_shard_is_read_too(tmp_path: Path) -> None:
    assert len(list(shard_samples(written(tmp_path / "0.tgz", gzip.compress(WHOLE))))) == 5


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "is damaged or not a tar file (empty file)"),
        (b"<html>login</html>" * 100, "is damaged or not a tar file"),
        (WHOLE[:1000], "is cut short"),  # in the first file
        (WHOLE[: 512 * 5], "is cut short, after s0000"),  # between two files of a sample
        (WHOLE[: 512 * 5 + 100], "is cut short, after s0000"),  # in a header
        (WHOLE[: 512 * 10], "is cut short, after s0001"),  # between two samples
        (gzip.compress(WHOLE)[:-40], "is cut short"),
        (tar_bytes([("__meta__/x", {"json": b"{}"})]), "holds no samples"),
        (b"\0" * 10240, "holds no samples"),
        (tar_bytes([SAMPLES[0], *SAMPLES[:1]]), "s0000.cls is in it twice"),
    ],
)
def test_what_is_no_whole_shard_is_one_line(tmp_path: Path, content: bytes, line: str) -> None:
    path = written(tmp_path / "0.tar", content)
    taken: list[Any] = []
    with pytest.raises(ShardError) as caught:
        taken.extend(shard_samples(path))
    assert taken == [(key, dict(fields)) for key, fields in SAMPLES[: len(taken)]]  # no half
    assert str(caught.value).startswith(f"{path}: {line}")
    assert "\n" not in str(caught.value)
    assert "object at" not in str(caught.value)


def test_a_shard_that_breaks_off_names_itself_as_the_server_knows_it() -> None:
    with serving({"0.tar": WHOLE}) as server:
        server.faults["0.tar"] = "status:404"
        with pytest.raises(ShardError, match=f"^{server.url}/0.tar: the server answered 404"):
            list(shard_samples(f"{server.url}/0.tar"))


def test_the_stream_is_closed_when_nobody_reads_on() -> None:
    with serving({"0.tar": WHOLE}) as server:
        samples = shard_samples(f"{server.url}/0.tar")
        assert next(samples)[0] == "s0000"
        samples.close()


def test_a_missing_field_names_those_that_are_there() -> None:
    raw = Raw(0, 0, "0.tar: s0", {"json": b"", "cls": b"1"})
    assert raw.field(("jpg", "cls")) == b"1"
    with pytest.raises(ValueError, match="has no jpg or png, only cls, json"):
        raw.field(("jpg", "png"))


def test_a_key_with_dots_is_explained() -> None:
    fields = {f"v1.{n}.{end}": b"" for n in range(20) for end in ("jpg", "cls")}
    words = r"only v1.0.cls, .*, v1.11.jpg, ... \(a sample's key ends at the first dot"
    with pytest.raises(ValueError, match=words):
        Raw(0, 0, "0.tar: img", fields).field(("jpg",))
