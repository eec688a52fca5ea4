"""The engine and the search next to open_spiel's, wherever its rules are the same.

open_spiel 2.0: a repeated position is legal there and ends the game as a draw, except for simple
ko, which is illegal; there are no pass-alive regions; games end after 2 x n x n moves.
"""

import time

import numpy as np
import pytest

from datamodules.selfplay.go import board as go
from datamodules.selfplay.go.games import SelfPlay
from datamodules.selfplay.go.moves import Rules
from datamodules.selfplay.go.score import area_score, pass_alive
from tests.datamodules.selfplay.go.random_games import random_games

pyspiel = pytest.importorskip("pyspiel")


def theirs(size: int):
    return pyspiel.load_game(f"go(board_size={size},komi=7.5)").new_initial_state()


def strangers_at_home(board: np.ndarray, info: np.ndarray) -> bool:
    """Whether a stone stands in the other colour's pass-alive region: there the scores differ."""
    owner = np.zeros(board.shape[1], np.int8)
    pass_alive(board, info, owner)
    return bool(((owner == go.BLACK) & (board[go.COLOUR] == go.WHITE)).any()) or bool(
        ((owner == go.WHITE) & (board[go.COLOUR] == go.BLACK)).any()
    )


@pytest.mark.parametrize(("size", "games", "least_scored"), [(9, 60, 20), (19, 6, 0)])
def test_random_games_are_the_same_games(size, games, least_scored):
    rng = np.random.default_rng(size)
    scored = repeats = captured = 0
    for _ in range(games):
        board, info, history = go.new_position(size)
        legal = np.zeros(size * size + 1, np.uint8)
        state = theirs(size)
        while not state.is_terminal():
            go.legal_moves(board, info, history, legal)
            ours, other = set(np.flatnonzero(legal).tolist()), set(state.legal_actions())
            assert ours <= other
            for action in other - ours:  # only what comes back to an earlier position
                again, place = board.copy(), info.copy()
                go.play(again, place, action)
                assert go.in_history(history, place[go.HASH])
                repeats += 1
            moves = sorted(ours - {size * size})
            action = int(rng.choice(moves)) if moves else size * size
            captured += go.play(board, info, action)
            go.add_to_history(history, info[go.HASH])
            state.apply_action(action)
        if not strangers_at_home(board, info):
            scored += 1
            assert state.returns()[0] == (1 if area_score(board, info, 7.5) > 0 else -1)
    assert scored >= least_scored
    assert captured > 20 * games


@pytest.mark.speed
def test_engine_is_not_slower_than_open_spiels_played_from_python():
    state, moves = theirs(19), 0
    rng = np.random.default_rng(0)
    start = time.thread_time()
    while moves < 20_000:
        legal = state.legal_actions()
        state.apply_action(legal[int(rng.random() * (len(legal) - 1))])
        moves += 1
        if state.is_terminal():
            state = theirs(19)
    other = moves / (time.thread_time() - start)
    random_games(19, 1000, 1)
    start = time.thread_time()
    random_games(19, 100_000, 2)
    ours = 100_000 / (time.thread_time() - start)
    print(f"moves/s: ours {ours:.0f} with superko, open_spiel {other:.0f}: {ours / other:.1f} x")
    assert ours > other


@pytest.mark.speed
def test_search_is_faster_than_open_spiels_with_an_equal_evaluator():
    from open_spiel.python.algorithms import mcts

    table = np.random.default_rng(0).dirichlet(np.full(362, 0.3), size=64).astype(np.float32)

    class Knows(mcts.Evaluator):
        def evaluate(self, state):
            return np.zeros(2)

        def prior(self, state):
            row = table[state.move_number() % 64]
            return [(action, row[action]) for action in state.legal_actions()]

    game = pyspiel.load_game("go(board_size=19,komi=7.5)")
    bot = mcts.MCTSBot(game, 2.0, 800, Knows(), child_selection_fn=mcts.SearchNode.puct_value)
    start = time.thread_time()
    bot.mcts_search(game.new_initial_state())
    other = 800 / (time.thread_time() - start)
    player = SelfPlay(19, 7.5, 16, Rules(), seed=1)
    for measured in (False, True):  # the first round touches fresh memory
        before, start = player.readouts, time.thread_time()
        for _ in range(400):
            player.step(lambda planes: (table[: len(planes)], table[: len(planes), 0]))
        if measured:
            ours = (player.readouts - before) / (time.thread_time() - start)
    print(f"readouts/s: ours {ours:.0f}, open_spiel's in Python {other:.0f}: {ours / other:.0f} x")
    assert ours > 5 * other
