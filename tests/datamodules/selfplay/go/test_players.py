"""Worker processes that play: the same games as each alone, surplus, new weights, errors."""

from concurrent.futures import CancelledError
from contextlib import contextmanager

import numpy as np
import pytest

from datamodules.selfplay.go.games import SelfPlay
from datamodules.selfplay.go.players import Players, playing_speed
from datamodules.selfplay.go.records import game_examples
from tests.datamodules.selfplay.go.test_search import KOMI, RULES, SIZE, fast_network


def test_playing_speed_is_what_the_workers_did_by_the_clock():
    crew, asked = workers(), []

    def counting(planes):
        asked.append(len(planes))
        return fast_network(planes)

    readouts = playing_speed(crew, counting, 0.2)
    total = sum(worker.readouts for worker in crew)
    assert total == sum(asked)
    assert 0 < readouts <= total / 0.2


def workers() -> list[SelfPlay]:
    return [SelfPlay(SIZE, KOMI, 4, RULES, seed=seed) for seed in (1, 2)]


@contextmanager
def players(**settings):
    crew = Players(workers(), **settings)
    try:
        yield crew
    finally:
        crew.stop()


def same(ours, theirs) -> bool:
    """Whether two lists of games hold equal examples."""
    return len(ours) == len(theirs) and all(
        all(np.array_equal(a, b) for a, b in zip(x, y, strict=True))
        for x, y in zip(ours, theirs, strict=True)
    )


def test_two_workers_play_the_same_games_as_each_alone():
    with players() as crew:
        crew.begin(fast_network, 6)
        surplus, together = crew.collect()
    assert surplus == []
    apart = [game_examples([g], SIZE) for worker in workers() for g in worker.play(fast_network, 3)]
    assert same(together, apart)


def test_surplus_games_come_with_the_next_round():
    with players(ahead=1.0) as crew:
        crew.begin(fast_network, 6)
        _, first = crew.collect()
        crew.begin(fast_network, 6)
        surplus, second = crew.collect()
    assert len(first) >= 6
    assert len(second) >= 6
    assert len(surplus) >= 3
    with players(ahead=1.0) as crew:
        for _ in range(2):
            crew.begin(fast_network, 6)
            again = crew.collect()
    assert same(again[0], surplus)
    assert same(again[1], second)


@pytest.mark.parametrize("collected", [True, False])
def test_players_go_on_from_their_state_as_if_never_stopped(collected):
    with players(ahead=0.5) as crew:
        crew.begin(fast_network, 6)
        crew.collect()
        if not collected:
            crew.begin(fast_network, 6)
        state = crew.state()
        if collected:
            crew.begin(fast_network, 6)
        expected = crew.collect()
    with players(ahead=0.5) as crew:
        crew.restore(state)
        crew.begin(fast_network, 6)
        assert all(same(*pair) for pair in zip(crew.collect(), expected, strict=True))


def test_new_weights_begin_searches_again_but_not_games():
    player = workers()[0]
    for _ in range(40):
        player.step(fast_network)
    plies = player.state()["plies"]
    assert plies.sum() > 8
    player.restart_searches()
    assert (player._trees.root_n == 0).all()
    assert (player.state()["plies"] == plies).all()
    assert (player._games.noise == player._games.slow).all()


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (MemoryError(), ValueError, "out of memory in self-play; reduce --data.games_at_once or"),
        (RuntimeError("CUDA out of memory. Tried"), ValueError, "out of memory in self-play; red"),
        (RuntimeError("no such kernel"), RuntimeError, "no such kernel"),
    ],
)
def test_a_failing_network_ends_the_round_with_its_error(error, raised, words):
    def fails(planes):
        raise error

    with players() as crew:
        crew.begin(fails, 6)
        with pytest.raises(raised, match=words):
            crew.collect()


def test_players_stop_at_once():
    with players() as crew:
        crew.begin(fast_network, 10**6)
        crew.stop()
        with pytest.raises(CancelledError):
            crew.collect()
