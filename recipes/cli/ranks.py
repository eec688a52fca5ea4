"""Agreement of a run's processes before their process group exists: on the run, the data."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from torch.distributed import DistError, Store, TCPStore

from callbacks.live_line import LIVE
from recipes.cli.usage import UsageError

# Lightning's own launcher starts the other ranks with rank 0's variables.
VARIABLE = "FINISHLINE_DECIDED"
CONNECT_SECONDS = 300.0
WAIT_SECONDS = 1800.0  # as long as torch itself waits for a rank
PREPARE_SECONDS = 24 * 3600.0
LINGER_SECONDS = 10.0


class Ranks:
    """The processes of one run that a launcher started, connected by a store.

    Args:
        store: Shared by all of them.
        rank: This process's number.
        size: How many they are.

    Attributes:
        ended: Whether an error has been agreed on.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._store, self.rank, self.size = store, rank, size
        self._round = self._answers = 0
        self.ended = False

    def decided(self, decide: Callable[[], Any]) -> Any:
        """Return what ``decide`` returns on rank 0, a plain value; end all ranks if it raises."""
        value, error = None, None
        if self.rank == 0:
            try:
                value = decide()
            except Exception as problem:
                error = problem
        self.check(error)
        return self._from_rank_zero(value)

    def check(
        self, error: Exception | None, advice: str = "", seconds: float = WAIT_SECONDS
    ) -> None:
        """Wait for every rank; if any has an error, end all.

        Args:
            error: This rank's.
            advice: What to do where only some nodes have one.
            seconds: How long to wait.

        Raises:
            ValueError: On rank 0, where only other ranks have one: a line per node.
            SystemExit: On the others, with its status and without a line.
            Exception: On rank 0: its own.
        """
        status = None if error is None else 2 if isinstance(error, UsageError) else 1
        name = f"{self._next()}/rank"
        report = {"node": node(), "text": str(error), "status": status}
        self._store.set(f"{name}{self.rank}", json.dumps(report))
        verdict = ""
        if self.rank == 0:
            reports = self._gather([f"{name}{rank}" for rank in range(self.size)], seconds)
            status = max((each["status"] or 0 for each in reports), default=0)
            verdict = "\n".join(_per_node(reports, advice)) if status else ""
        status, verdict = self._from_rank_zero([status, verdict])
        if not verdict:
            return
        self.ended = True
        if self.rank == 0:
            self._linger()
            raise error if error is not None and "\n" not in verdict else ValueError(verdict)
        raise SystemExit(status)

    def _gather(self, names: list[str], seconds: float) -> list[dict[str, Any]]:
        try:
            self._store.wait(names, timedelta(seconds=seconds))
        except DistError as error:
            self.ended = True
            text = f"not all ranks have answered within {seconds / 60:.0f} min"
            raise ValueError(f"{text}; their own lines say why") from error
        return [json.loads(each) for each in self._store.multi_get(names)]

    def _from_rank_zero(self, value: Any) -> Any:
        name = self._next()
        if self.rank == 0:
            self._store.set(name, json.dumps(value))
            self._answers += 1
            return value
        try:
            value = json.loads(self._store.get(name))
            self._store.add("read", 1)
        except DistError as error:
            self.ended = True
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{node()} lost rank 0, whose lines say why ({reason})") from error
        return value

    def _linger(self) -> None:
        """Keep the store, which ends with this process, until the others have read from it."""
        wanted, end = self._answers * (self.size - 1), time.monotonic() + LINGER_SECONDS
        while self._store.add("read", 0) < wanted and time.monotonic() < end:
            time.sleep(0.05)

    def _next(self) -> str:
        self._round += 1
        return f"finishline/{self._round}"


def launched_ranks() -> Ranks | None:
    """Connect to the other ranks that ``srun`` or ``torchrun`` started; ``None`` without any."""
    kinds = (TorchElasticEnvironment, SLURMEnvironment)  # in Lightning's order
    environment = next((kind() for kind in kinds if kind.detect()), None)
    if environment is None or environment.world_size() == 1:
        return None
    rank, size = environment.global_rank(), environment.world_size()
    address, port = environment.main_address, environment.main_port
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    LIVE.show("waiting for the other ranks")
    try:
        store = TCPStore(
            address, port, size, is_master=rank == 0 and not agents, wait_for_workers=False,
            timeout=timedelta(seconds=CONNECT_SECONDS),
            multi_tenant=True,  # torch opens the same address again for the process group
        )  # fmt: skip
    except DistError as error:
        raise ValueError(f"{node()} cannot reach rank 0 at {address}:{port}: {error}") from error
    store.set_timeout(timedelta(seconds=PREPARE_SECONDS))
    return Ranks(store, rank, size)


def decided_once(ranks: Ranks | None, decide: Callable[[], Any]) -> Any:
    """Return what ``decide``, called on rank 0 only, returns: a plain value."""
    if ranks is not None:
        return ranks.decided(decide)
    if os.environ.get("LOCAL_RANK", "0") != "0" and VARIABLE in os.environ:
        return json.loads(os.environ[VARIABLE])
    value = decide()
    os.environ[VARIABLE] = json.dumps(value)
    return value


@contextmanager
def ending_together(
    ranks: Ranks | None, advice: str = "", seconds: float = WAIT_SECONDS
) -> Iterator[None]:
    """End all ranks if one of them raises in here, with its line and its node.

    Args:
        ranks: All of them; ``None`` for a process alone.
        advice: What to do where only some nodes fail.
        seconds: How long to wait for the last one.

    Yields:
        Once, for what may raise.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as problem:
        if ranks is None or ranks.ended:
            raise
        error = problem
    if ranks is not None:
        ranks.check(error, advice, seconds)


def node() -> str:
    """Return the name by which a user finds this machine: the batch system's, or its own."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def _per_node(reports: list[dict[str, Any]], advice: str) -> Iterator[str]:
    nodes: dict[str, dict[str, None]] = {}
    for each in reports:
        if each["status"]:
            nodes.setdefault(each["text"], {})[each["node"]] = None
    for text, names in nodes.items():
        yield f"on {', '.join(names)}: {text}{advice}"
