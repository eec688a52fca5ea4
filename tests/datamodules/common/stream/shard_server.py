"""A local HTTP server whose files can be cut short, stall, drip, break off or answer errors."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Sample = tuple[str, Mapping[str, bytes]]


def tar_bytes(samples: list[Sample]) -> bytes:
    """A shard as webdataset's writers make them, built with the standard library."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for key, fields in samples:
            for ending, content in fields.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def numbered(first: int, count: int, size: int = 700) -> list[Sample]:
    """Samples whose field says their number."""
    return [
        (f"s{n:04d}", {"cls": b"%d" % n, "jpg": bytes([n % 251 + 1]) * size})
        for n in range(first, first + count)
    ]


class ShardServer(ThreadingHTTPServer):
    """Serves ``files``; ``faults`` say by name what to do instead, once or every time.

    A fault is ``status:CODE``, ``stall:BYTES``, ``drip:BYTES``, ``break:BYTES`` (the connection
    ends early) or ``header`` (nothing is answered). With ``once`` in front it is used up, with
    ``later`` it begins with the second request.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.faults, self.ranges = files, dict[str, str](), True
        self.requests: list[tuple[str, str]] = []
        self.ending = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: ShardServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        name, wanted = self.path.lstrip("/").partition("?")[0], self.headers.get("Range", "")
        self.server.requests.append((name, wanted))
        fault = self.server.faults.get(name, "")
        if fault.startswith("once "):
            del self.server.faults[name]
            fault = fault.removeprefix("once ")
        elif fault.startswith("later "):
            self.server.faults[name], fault = fault.removeprefix("later "), ""
        kind, _, number = fault.partition(":")
        if kind == "header":
            self.server.ending.wait()
            return
        content = self.server.files.get(name)
        if kind == "status" or content is None:
            self.send_error(int(number or 404))
            return
        size, first, stop = len(content), 0, len(content)
        if ranged := bool(wanted) and self.server.ranges:
            begin, _, last = wanted.removeprefix("bytes=").partition("-")
            first, stop = int(begin), int(last) + 1 if last else size
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(min(stop, size) - first))
        self.send_header("ETag", f'"{size}"')
        self.end_headers()
        self._send(content[first:stop], kind, int(number or 0))

    def _send(self, body: bytes, kind: str, number: int) -> None:
        if not kind:
            self.wfile.write(body)
            return
        self.wfile.write(body[:number])
        self.wfile.flush()
        if kind == "stall":
            self.server.ending.wait()
        elif kind == "drip":
            for byte in body[number:]:
                if self.server.ending.wait(0.01):
                    break
                self.wfile.write(bytes([byte]))
        self.close_connection = True


@contextmanager
def serving(files: Mapping[str, bytes] | Path) -> Iterator[ShardServer]:
    """Serve some bytes by name, or the files of a directory, at a free port."""
    if isinstance(files, Path):
        files = {path.name: path.read_bytes() for path in files.iterdir() if path.is_file()}
    with ShardServer(dict(files)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.ending.set()
            server.shutdown()
            thread.join()
