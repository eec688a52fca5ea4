"""Open a shard: a local file, an http(s) address or a command's output, none of which can hang.

webdataset opens http(s) with ``curl`` without a stall limit; these are read here instead.
"""

import http.client
import os
import select
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

from datamodules.common.stream.pattern import PIPE, is_local, is_web, show

STALL_SECONDS = 30.0  # without data, or with less than LEAST_BYTES
RECONNECT_SECONDS = 10.0  # for the first data of a connection after one that stalled
LEAST_BYTES = 4096  # in STALL_SECONDS; a server that drips is one that stalls
TRIES, FIRST_DELAY = 4, 1.0  # per shard; each wait is twice as long as the one before
PASSING = {408, 429, 500, 502, 503, 504}  # states of a server that may pass
MOST_SMALL_BYTES = 2**28
CHUNK = 2**18


class ShardError(ValueError):
    """A shard that cannot be read; ``line`` is the message, also where others added arguments."""

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.line = line


class MissingShardError(ShardError):
    """There is no such file or page."""


def open_shard(address: str, start: int = 0, stop: int | None = None) -> Any:
    """Open a shard, or a part of one that is no command, for reading from beginning to end.

    Args:
        address: Local path, http(s) address, or ``pipe:`` with a shell command.
        start: Byte to begin with.
        stop: Byte to end before; None is the end of the file.

    Returns:
        A context manager with ``read(size)``.

    Raises:
        ShardError: Here or from ``read``; one line that names the shard.
    """
    if address.startswith(PIPE):
        return CommandStream(address)
    return (LocalStream if is_local(address) else WebStream)(address, start, stop)


def serves_parts(address: str) -> bool:
    """Return whether a part of a shard can be read without what is in front of it."""
    if not is_web(address):
        return is_local(address)
    request = urllib.request.Request(address, headers={"Range": "bytes=0-0"})
    try:
        with urllib.request.urlopen(request, timeout=STALL_SECONDS) as response:
            return response.status == 206
    except (OSError, ValueError, http.client.HTTPException):
        return False  # reported when it is opened


def read_small(address: str) -> bytes | None:
    """Read a small file, such as an index; None if there is none.

    Args:
        address: Local path or http(s) address.

    Returns:
        Its bytes.

    Raises:
        ShardError: If it cannot be read or is larger than any index.
    """
    content = bytearray()
    try:
        with open_shard(address) as stream:
            while data := stream.read(CHUNK):
                content += data
                if len(content) > MOST_SMALL_BYTES:
                    raise ShardError(f"{show(address)}: is too large for an index")
    except MissingShardError:
        return None
    return bytes(content)


class _Stream:
    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class LocalStream(_Stream):
    """A file of this machine."""

    def __init__(self, path: str, start: int = 0, stop: int | None = None) -> None:
        self._path, self._offset, self._stop = path, start, stop
        if os.path.lexists(path) and not os.path.isfile(path):
            raise ShardError(f"{path}: is not a file")
        try:
            self._file: IO[bytes] = open(path, "rb")  # noqa: SIM115
        except FileNotFoundError as error:
            raise MissingShardError(f"{path}: {error.strerror}") from error
        except OSError as error:
            raise ShardError(f"{path}: cannot be read ({error.strerror})") from error
        self._file.seek(start)

    def read(self, size: int) -> bytes:
        if self._stop is not None:
            size = min(size, self._stop - self._offset)
        try:
            data = self._file.read(size)
            self._offset += len(data)
            return data
        except OSError as error:
            raise ShardError(f"{self._path}: cannot be read ({error.strerror})") from error

    def close(self) -> None:
        self._file.close()


class CommandStream(_Stream):
    """The output of a shell command, which is killed once nobody reads on."""

    def __init__(self, address: str) -> None:
        self._address = address
        # A session of its own: Ctrl-C ends the run after a step, for which it is still needed.
        self._process = subprocess.Popen(
            address.removeprefix(PIPE),
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout.fileno()

    def read(self, size: int) -> bytes:
        if not select.select([self._out], [], [], STALL_SECONDS)[0]:
            raise ShardError(f"{show(self._address)}: printed nothing for {STALL_SECONDS:.0f} s")
        data = os.read(self._out, size)
        if not data and (status := self._process.wait()):
            raise ShardError(f"{show(self._address)}: ended with status {status}")
        return data

    def close(self) -> None:
        assert self._process.stdout is not None
        self._process.stdout.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class WebStream(_Stream):
    """An http(s) address; a connection that breaks is made again from where it broke."""

    def __init__(self, address: str, start: int = 0, stop: int | None = None) -> None:
        self._address, self._failures = address, 0
        self._start = self._offset = start
        self._stop = stop
        self._size: int | None = None
        self._tag: str | None = None
        self._response: Any = None
        self._patience = STALL_SECONDS
        self._waited, self._received = 0.0, 0  # since the pace was last judged

    def read(self, size: int) -> bytes:
        """Return at most ``size`` bytes; none at the end."""
        if self._stop is not None:
            size = min(size, self._stop - self._offset)
        while size:
            try:
                if self._response is None:
                    self._connect()
                data = self._receive(size)
            except TimeoutError:
                self._after_stall()
                continue
            except (OSError, http.client.HTTPException) as error:
                self._after_failure(_reason(error))
                continue
            if data:
                self._offset += len(data)
                self._be_patient()
                return data
            if self._size is None or self._offset >= self._size:
                return b""
            self._after_failure(f"the connection ended after {self._so_far()}")
        return b""

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def _connect(self) -> None:
        headers = {"User-Agent": "finishline", "Accept-Encoding": "identity"}
        if self._offset or self._stop is not None:
            last = "" if self._stop is None else self._stop - 1
            headers["Range"] = f"bytes={self._offset}-{last}"
        request = urllib.request.Request(self._address, headers=headers)
        try:
            self._response = urllib.request.urlopen(request, timeout=self._patience)
        except urllib.error.HTTPError as error:
            error.close()
            self._judge_status(error)
            raise
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise error.reason from error
            if isinstance(error.reason, ssl.SSLCertVerificationError) or error.reason is None:
                raise ShardError(f"{show(self._address)}: {_reason(error)}") from error
            raise
        except (ValueError, http.client.InvalidURL) as error:
            raise ShardError(f"{show(self._address)}: {error}") from error
        self._check_is_same()
        self._waited, self._received = 0.0, 0
        if self._response.status != 206:
            self._skip()

    def _judge_status(self, error: urllib.error.HTTPError) -> None:
        """Raise at once unless a later try may succeed."""
        if error.code in PASSING:
            return
        # A bucket that may not be listed answers 403 for a file that is not there.
        kind = MissingShardError if error.code in (403, 404, 410) else ShardError
        raise kind(f"{show(self._address)}: the server answered {error.code} {error.reason}")

    def _check_is_same(self) -> None:
        """Note size and tag; on a further connection they must be those of the first."""
        headers = self._response.headers
        text = headers.get("Content-Length")
        size = int(text) if text is not None and text.isdigit() else None
        if self._response.status == 206 and size is not None:
            size += self._offset
        tag = headers.get("ETag")
        if self._offset > self._start and (size, tag) != (self._size, self._tag):
            raise ShardError(f"{show(self._address)}: was changed while it was read")
        self._size, self._tag = size, tag

    def _skip(self) -> None:
        """Read again what is known, from a server that cannot begin in the middle."""
        left = self._offset
        while left:
            data = self._receive(min(left, CHUNK))
            if not data:
                raise http.client.IncompleteRead(b"", left)
            left -= len(data)

    def _receive(self, size: int) -> bytes:
        began = time.monotonic()
        data = self._response.read1(size)
        # Only the time that is spent waiting counts: training may pause for an evaluation.
        self._waited += time.monotonic() - began
        self._received += len(data)
        if self._waited >= STALL_SECONDS:
            if data and self._received < LEAST_BYTES:
                raise self._error(f"{self._received} bytes in {STALL_SECONDS:.0f} s")
            self._waited, self._received = 0.0, 0
        return data

    def _be_patient(self) -> None:
        """Wait as long as usual again, once a connection made after a stall has given data."""
        if self._patience < STALL_SECONDS:
            self._patience = STALL_SECONDS
            own_socket = getattr(getattr(self._response.fp, "raw", None), "_sock", None)
            if own_socket is not None:  # otherwise this connection may stall for less long
                own_socket.settimeout(STALL_SECONDS)

    def _after_stall(self) -> None:
        """Connect once more: a connection that a router forgot stalls, and a new one does not."""
        if self._patience < STALL_SECONDS:
            self._failures += 1
            raise self._error(f"no data for {STALL_SECONDS:.0f} s after {self._so_far()}")
        self._after_failure(f"no data for {STALL_SECONDS:.0f} s after {self._so_far()}")
        self._patience = min(RECONNECT_SECONDS, STALL_SECONDS / 2)

    def _after_failure(self, reason: str) -> None:
        self.close()
        self._failures += 1
        if self._failures >= TRIES:
            raise self._error(reason)
        time.sleep(FIRST_DELAY * 2 ** (self._failures - 1))

    def _error(self, reason: str) -> ShardError:
        self.close()
        tries = "once" if self._failures < 2 else f"{self._failures} times"
        return ShardError(f"{show(self._address)}: {reason} (tried {tries})")

    def _so_far(self) -> str:
        whole = "" if self._size is None else f" of {self._size:,}"
        return f"{self._offset:,}{whole} bytes"


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended too early"
    inner = getattr(error, "reason", None) or error
    return str(getattr(inner, "strerror", None) or inner or type(inner).__name__)
