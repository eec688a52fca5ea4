"""One game that is set up, played move by move, searched and taken back: the board behind GTP."""

import math
import time
from collections.abc import Sequence

import numpy as np

from datamodules.selfplay.go import board as go
from datamodules.selfplay.go import moves as mv
from datamodules.selfplay.go import search
from datamodules.selfplay.go import tree as mcts
from datamodules.selfplay.go.games import Network
from datamodules.selfplay.go.score import area_score

Move = tuple[int, int]
"""Colour and action."""


class Session:
    """A game on one board. A colour may move twice in a row; this implies no pass.

    Args:
        network: Evaluates positions of this board size.
        size: Points per side.
        komi: Points that White gets.
        readouts: Searches per move, at least 1.
        virtual_losses: Leaves in one batch of the network.
        benson: Benson's pass-alive rule instead of the reference's.

    Attributes:
        stones: What was set up before the first move.
        moves: What was played since.
        komi: Points that White gets; may be set.
    """

    def __init__(
        self, network: Network, size: int, *, komi: float, readouts: int, virtual_losses: int,
        benson: bool,
    ) -> None:  # fmt: skip
        self.network, self.size, self.readouts = network, size, readouts
        self._virtual_losses, self._tries = virtual_losses, 2 * virtual_losses
        self.trees = mcts.make_trees(size, 1, readouts + 4 * self._tries, komi)
        self.trees.benson[0] = benson
        self._leaves = mcts.make_leaves(size, virtual_losses)
        self.stones: list[Move] = []
        self.moves: list[Move] = []
        self._first = go.BLACK

    @property
    def board(self) -> np.ndarray:
        """(4, C) int16 of the current position."""
        return self.trees.board[self.trees.root[0]]

    @property
    def info(self) -> np.ndarray:
        """(INFO,) int64 of the current position."""
        return self.trees.info[self.trees.root[0]]

    @property
    def komi(self) -> float:
        return float(self.trees.komi[0])

    @komi.setter
    def komi(self, komi: float) -> None:
        self.trees.komi[0] = komi

    @property
    def is_over(self) -> bool:
        """Whether the last two moves were passes."""
        return bool(self.info[go.PASSES] >= 2)

    def colour_at(self, action: int) -> int:
        """Return the colour of a point."""
        return int(self.board[go.COLOUR, go.cell_of(action, self.size)])

    def owners(self) -> np.ndarray:
        """Return the owners (C,) of pass-alive regions."""
        owner = np.zeros(self.board.shape[1], np.int8)
        mv.find_pass_alive(self.trees, 0, owner)
        return owner

    def score(self) -> float:
        """Return Black's points minus White's."""
        return float(area_score(self.board, self.info, self.komi, bool(self.trees.benson[0])))

    # The position.

    def set_up(
        self, stones: Sequence[Move] = (), moves: Sequence[Move] = (), to_play: int = go.BLACK
    ) -> None:
        """Start a game: stones, then moves.

        Args:
            stones: Stones before the first move.
            moves: Moves to play.
            to_play: Who plays after the stones.

        Raises:
            ValueError: If a stone has no liberty or a move is illegal; the game stays as it was.
        """
        before = self.stones, self.moves, self._first
        try:
            self._set_up(stones, moves, to_play)
        except ValueError:
            self._set_up(*before)
            raise

    def _set_up(self, stones: Sequence[Move], moves: Sequence[Move], to_play: int) -> None:
        mcts.new_game(self.trees, 0, self.size, 1)
        history = self.trees.history[0]
        for colour, action in stones:
            self.info[go.TO_PLAY] = colour
            legal = go.is_legal(self.board, self.info, history, action)
            if not legal or go.play(self.board, self.info, action):
                raise ValueError("a stone is set up where it has no liberty or another one is")
        self.info[go.PLIES] = 0
        history[:] = 0
        go.add_to_history(history, self.info[go.HASH])
        self._turn_to(to_play, always=True)
        self.stones, self.moves, self._first = list(stones), [], to_play
        for colour, action in moves:
            self.play(colour, action)

    def play(self, colour: int, action: int) -> None:
        """Play a move of either colour; a ValueError if it is illegal."""
        before = int(self.info[go.TO_PLAY])
        self._turn_to(colour)
        if not go.is_legal(self.board, self.info, self.trees.history[0], action):
            self._turn_to(before)
            raise ValueError("illegal move")
        self._make_room(0)
        if self.trees.state[self.trees.root[0]] == mcts.OVER:
            # The protocol continues after two passes; for the search the game is over.
            self.trees.state[self.trees.root[0]] = mcts.UNEXPANDED
        mcts.advance(self.trees, 0, action)
        self.moves.append((colour, action))

    def undo(self) -> None:
        """Take the last move back; stones that were set up stay."""
        self._set_up(self.stones, self.moves[:-1], self._first)

    def _turn_to(self, colour: int, *, always: bool = False) -> None:
        """Let a colour move next; nothing of a search for the other one remains."""
        if self.info[go.TO_PLAY] == colour and not always:
            return
        mcts.clear_search(self.trees, 0)
        self.info[go.TO_PLAY] = colour
        self._find_legal()

    def _find_legal(self) -> None:
        legal = self.trees.legal[self.trees.root[0]]
        go.legal_moves(self.board, self.info, self.trees.history[0], legal)

    # The search.

    def choose(self, colour: int, *, seconds: float = math.inf, cleanup: bool = False) -> int:
        """Search for a colour's move; the game stays as it is.

        Args:
            colour: Who moves.
            seconds: Time after which the search stops early.
            cleanup: Also after the game's end; passes only if no dead stone can be captured.

        Returns:
            The action; a pass after two passes, but for ``cleanup``.
        """
        last, before = self.size * self.size, int(self.info[go.TO_PLAY])
        self._turn_to(colour)
        if self.is_over:
            if not cleanup:
                return last
            self.info[go.PASSES] = 0
            self.trees.state[self.trees.root[0]] = mcts.UNEXPANDED
            self._find_legal()
        self._search(seconds)
        owner = self.owners()
        if cleanup and (targets := self._liberties_of_dead(3 - colour, owner)):
            owner[:] = go.BLACK  # bars every other point
            owner[targets] = 0
        action = int(mv.most_visited(self.trees, 0, owner))
        self._turn_to(before)
        return action

    def _search(self, seconds: float) -> None:
        end, goal = time.monotonic() + seconds, int(self.trees.root_n[0]) + self.readouts
        self._make_room(goal)
        while True:
            self._make_room(0)
            leaves = self._leaves
            count = search.select(self.trees, 0, goal, self._virtual_losses, self._tries, leaves, 0)
            if count:
                planes = leaves.planes[:count].reshape(count, -1, self.size, self.size)
                search.expand(self.trees, leaves, 0, count, *self.network(planes))
            if self.trees.root_n[0] >= goal or time.monotonic() >= end:
                return

    def _liberties_of_dead(self, colour: int, owner: np.ndarray) -> list[int]:
        """Return the cells where a colour's dead stones can be attacked."""
        step, targets = self.size + 1, []
        for action in range(self.size * self.size):
            cell = int(go.cell_of(action, self.size))
            near = np.array([cell + 1, cell - 1, cell + step, cell - step])
            dead = (self.board[go.COLOUR, near] == colour) & (owner[near] == 3 - colour)
            if self.trees.legal[self.trees.root[0], action] and dead.any():
                targets.append(cell)
        return targets

    def _make_room(self, visits: int) -> None:
        """Grow the pool of nodes, and the history for a path of so many visits."""
        while self.trees.top[0] < 2 * self._tries + 2:
            self.trees = mcts.grow(self.trees)
        while self.trees.history.shape[1] < 2 * (len(self.moves) + visits + 2):
            self.trees = mcts.grow_history(self.trees)
