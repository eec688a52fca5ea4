"""Opening shards: no server can hang a run or give it half a file."""

import os
import time
from collections.abc import Iterator

import pytest

from datamodules.common.stream import opening
from datamodules.common.stream.opening import ShardError, open_shard, read_small
from tests.datamodules.common.stream.shard_server import ShardServer, serving

CONTENT = os.urandom(300_000)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "STALL_SECONDS", 0.4)
    monkeypatch.setattr(opening, "FIRST_DELAY", 0.01)


@pytest.fixture
def server() -> Iterator[ShardServer]:
    with serving({"x.tar": CONTENT}) as server:
        yield server


def whole(address: str) -> bytes:
    parts = []
    with open_shard(address) as stream:
        while data := stream.read(10_000):
            parts.append(data)
    return b"".join(parts)


def line(address: str) -> str:
    with pytest.raises(ShardError) as caught:
        whole(address)
    text = str(caught.value)
    assert text.startswith(address)
    assert "\n" not in text
    return text


def test_the_limits_are_those_promised() -> None:
    assert opening.RECONNECT_SECONDS == 10
    assert opening.TRIES == 4


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("fault", ["status:503", "break:100000", "stall:100000", "header"])
def test_what_passes_is_read_again_from_where_it_broke(
    server: ShardServer, fault: str, ranges: bool
) -> None:
    server.faults["x.tar"], server.ranges = f"once {fault}", ranges
    assert whole(f"{server.url}/x.tar") == CONTENT
    assert len(server.requests) == 2
    assert bool(server.requests[1][1]) == ("100000" in fault)


@pytest.mark.parametrize(
    ("fault", "text", "requests"),
    [
        ("status:404", "the server answered 404 Not Found", 1),
        ("status:401", "the server answered 401 Unauthorized", 1),
        ("status:503", "the server answered 503 Service Unavailable (tried 4 times)", 4),
        ("break:50000", "the connection ended after 200,000 of 300,000 bytes (tried 4 times)", 4),
        ("break:0", "the connection ended after 0 of 300,000 bytes (tried 4 times)", 4),
        ("header", "no data for 0 s after 0 bytes (tried 2 times)", 2),
        ("stall:0", "no data for 0 s after 0 of 300,000 bytes (tried 2 times)", 2),
    ],
)
def test_what_does_not_pass_is_one_line_that_names_the_shard(
    server: ShardServer, fault: str, text: str, requests: int
) -> None:
    server.faults["x.tar"] = fault
    began = time.monotonic()
    assert line(f"{server.url}/x.tar").endswith(f": {text}")
    assert len(server.requests) == requests
    assert time.monotonic() - began < 3


def test_a_server_that_drips_is_one_that_stalls(server: ShardServer) -> None:
    server.faults["x.tar"] = "drip:100"
    assert "bytes in 0 s" in line(f"{server.url}/x.tar")


def test_time_in_which_nobody_reads_is_no_stall(server: ShardServer) -> None:
    with open_shard(f"{server.url}/x.tar") as stream:
        first = stream.read(1000)
        time.sleep(0.6)  # an evaluation
        assert first + stream.read(1000) == CONTENT[:2000]
    assert len(server.requests) == 1


def test_a_shard_that_changes_while_it_is_read_is_an_error(server: ShardServer) -> None:
    server.faults["x.tar"] = "once break:1000"
    with open_shard(f"{server.url}/x.tar") as stream:
        stream.read(1000)
        server.files["x.tar"] = CONTENT + b"more"
        with pytest.raises(ShardError, match="was changed while it was read"):
            list(iter(lambda: stream.read(1000), b""))


def test_a_server_that_is_not_there_is_one_line() -> None:
    with serving({}) as server:
        url = server.url
    assert "Connection refused" in line(f"{url}/x.tar")


def test_files_of_this_machine(tmp_path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(CONTENT)
    assert whole(str(path)) == CONTENT
    assert "No such file" in line(str(tmp_path / "y.tar"))
    assert "is not a file" in line(str(tmp_path))
    os.mkfifo(tmp_path / "fifo.tar")
    assert "is not a file" in line(str(tmp_path / "fifo.tar"))


def test_commands(tmp_path) -> None:
    path = tmp_path / "x y.tar"
    path.write_bytes(CONTENT)
    assert whole(f"pipe:cat '{path}' | cat") == CONTENT
    assert line("pipe:echo x; exit 3").endswith("ended with status 3")
    assert line("pipe:sleep 9").endswith("printed nothing for 0 s")
    with open_shard("pipe:yes") as stream:  # endless, and ended here
        assert stream.read(4) == b"y\ny\n"
        process = stream._process
    assert process.poll() is not None


def test_a_small_file_that_is_not_there_is_none(server: ShardServer, tmp_path) -> None:
    assert read_small(f"{server.url}/x.tar") == CONTENT
    assert read_small(f"{server.url}/sizes.json") is None
    server.faults["sizes.json"] = "status:403"  # as of a bucket that may not be listed
    assert read_small(f"{server.url}/sizes.json") is None
    assert read_small(str(tmp_path / "sizes.json")) is None
    server.faults["sizes.json"] = "status:500"
    with pytest.raises(ShardError, match="500"):
        read_small(f"{server.url}/sizes.json")
