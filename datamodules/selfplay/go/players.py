"""Workers that play in threads of their own while the network is evaluated and trained.

A round is a generation: with new weights every worker plays its share of the games, then a little
more with the same weights while the next ones are trained. Both are counted in batches, never
in seconds, so the games do not depend on thread speed.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from datamodules.selfplay.go.games import Game, Network, SelfPlay
from datamodules.selfplay.go.records import Examples, game_examples

WorkerState = dict[str, np.ndarray]


class PlayersState(NamedTuple):
    """Running games, and finished ones that were not collected yet."""

    workers: list[WorkerState]
    surplus: list[Examples]
    """Examples of each game."""


class _Part(NamedTuple):
    """One worker's tasks in a round, in this order."""

    state: "Future[WorkerState]"
    games: "Future[list[Examples]]"
    surplus: "Future[list[Examples]]"


class Players:
    """The workers of one process, one thread each.

    Args:
        workers: The workers; only this object may use them until ``stop``.
        ahead: Batches that a worker plays after its share, as a multiple of those the share took.

    Attributes:
        playing: Whether a round has begun and was not collected yet.

    Source:
        mlcommons/training @ 9947bdf2, reinforcement/tensorflow/minigo/ml_perf/train_loop.py and
        cc/concurrent_selfplay.cc: games run on through training and change weights midway.
        Differs: how long they run on is counted, not timed, and new weights restart the searches in
        progress, so that a resumed run plays the same games.
    """

    def __init__(self, workers: Sequence[SelfPlay], *, ahead: float = 0.0) -> None:
        self.workers, self.ahead, self.playing = workers, ahead, False
        self._pools = [ThreadPoolExecutor(1, "self-play") for _ in workers]
        self._round: list[_Part] = []
        self._before: list[Future[list[Examples]]] = []
        self._after: list[Future[list[Examples]]] = []

    def begin(self, network: Network, num_games: int) -> None:
        """Start a round in the background, after the last round's surplus games.

        Args:
            network: Evaluates positions; called from all threads.
            num_games: Games to finish in all; a few more may come.
        """
        share = -(-num_games // len(self.workers))
        self._round = [
            _Part(
                pool.submit(_restart_searches, worker),
                pool.submit(_play, worker, network, share),
                pool.submit(_play_ahead, worker, network, self.ahead),
            )
            for worker, pool in zip(self.workers, self._pools, strict=True)
        ]
        self._before, self._after = self._after, [part.surplus for part in self._round]
        self.playing = True

    def collect(self) -> tuple[list[Examples], list[Examples]]:
        """Wait for the round's games; an exception of a worker is raised here.

        Returns:
            Examples per game: the surplus games of the previous round, and the games of this one.

        Raises:
            ValueError: If there was too little memory; one line with the flags that need less.
        """
        try:
            games = _concatenate_results([part.games for part in self._round])
            surplus = _concatenate_results(self._before)
        except (MemoryError, RuntimeError) as error:  # torch's is a RuntimeError
            if not isinstance(error, MemoryError) and "out of memory" not in str(error):
                raise
            raise ValueError(
                "out of memory in self-play; reduce --data.games_at_once or --data.workers"
            ) from error
        self.playing = False
        return surplus, games

    def state(self) -> PlayersState:
        """Copy the games to resume with; during a round, their state at its beginning.

        Returns:
            Running and surplus games; waits for surplus games that are still being played.
        """
        surplus = _concatenate_results(self._before if self.playing else self._after)
        if self.playing:
            return PlayersState([part.state.result() for part in self._round], surplus)
        return PlayersState([worker.state() for worker in self.workers], surplus)

    def restore(self, state: PlayersState) -> None:
        """Resume the games of an earlier run; call before the first round.

        Args:
            state: A ``state`` of as many workers.
        """
        for worker, kept in zip(self.workers, state.workers, strict=True):
            worker.restore(kept)
        # As if they had just been played: the next round collects them.
        surplus: Future[list[Examples]] = Future()
        surplus.set_result(state.surplus)
        self._after = [surplus]

    def stop(self) -> None:
        """Stop all threads; the running games are lost."""
        for worker in self.workers:
            worker.stopped = True
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)


def playing_speed(workers: Sequence[SelfPlay], network: Network, seconds: float) -> float:
    """Measure how fast workers play at the same time, after an untimed start (memory is cold).

    Args:
        workers: The workers, one thread each.
        network: Evaluates positions.
        seconds: Duration of the untimed and of the timed part.

    Returns:
        Readouts per second, all workers together.
    """

    def play(worker: SelfPlay) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            worker.step(network)

    with ThreadPoolExecutor(len(workers), "self-play") as pool:
        list(pool.map(play, workers))
        before = sum(worker.readouts for worker in workers)
        start = time.perf_counter()
        list(pool.map(play, workers))
        passed = time.perf_counter() - start
    return (sum(worker.readouts for worker in workers) - before) / passed


def _restart_searches(worker: SelfPlay) -> WorkerState:
    """Restart the searches and return the state from which the round starts."""
    worker.restart_searches()
    return worker.state()


def _play(worker: SelfPlay, network: Network, num_games: int) -> list[Examples]:
    return _examples(worker, worker.play(network, num_games))


def _play_ahead(worker: SelfPlay, network: Network, share: float) -> list[Examples]:
    return _examples(worker, worker.play_ahead(network, share))


def _examples(worker: SelfPlay, games: list[Game]) -> list[Examples]:
    return [game_examples([game], worker.size) for game in games]


def _concatenate_results(parts: "list[Future[list[Examples]]]") -> list[Examples]:
    return [game for part in parts for game in part.result()]
