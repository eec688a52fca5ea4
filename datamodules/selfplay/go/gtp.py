"""A network as a player that speaks the Go Text Protocol, version 2.

Source: G. Farneback, "Specification of the Go Text Protocol, version 2, draft 2" (2002).
"""

import math
from collections.abc import Callable, Iterable
from typing import TextIO

import numpy as np

from datamodules.selfplay.go import board as go
from datamodules.selfplay.go import moves as mv
from datamodules.selfplay.go import search
from datamodules.selfplay.go import tree as mcts
from datamodules.selfplay.go.games import MATCH_TRIES, Network
from datamodules.selfplay.go.score import area_score, pass_alive
from datamodules.selfplay.go.sgf import COLUMNS, action_of, vertex

COLOURS = {"b": go.BLACK, "black": go.BLACK, "w": go.WHITE, "white": go.WHITE}


class Player:
    """One game on one board, played by a search with a network.

    Args:
        network: Evaluates positions of this board size.
        size: Points per side; no other size is accepted.
        komi: Points that White gets, until the controller sets them.
        readouts: Searches per move, at least 1.
        virtual_losses: Leaves in one batch of the network.

    Raises:
        ValueError: If ``readouts`` is below 1 or ``komi`` is not finite.
    """

    def __init__(
        self, network: Network, size: int, *, komi: float = 7.5, readouts: int = 100,
        virtual_losses: int = 4,
    ) -> None:  # fmt: skip
        if readouts < 1:
            raise ValueError(f"readouts must be at least 1, got {readouts}")
        if not math.isfinite(komi):
            raise ValueError(f"komi must be finite, got {komi}")
        self.network, self.size, self.readouts = network, size, readouts
        self._trees = mcts.make_trees(size, 1, readouts + 4 * MATCH_TRIES, komi)
        self._leaves = mcts.make_leaves(size, virtual_losses)
        self._virtual_losses = virtual_losses
        self.moves: list[int] = []
        self._marks: list[int] = []  # moves before each ``play`` and ``genmove``, for ``undo``
        self.commands: dict[str, Callable[[list[str]], str]] = {
            "protocol_version": lambda _: "2",
            "name": lambda _: "finishline",
            "version": lambda _: "Mini Go",
            "known_command": lambda words: str(words[0] in self.commands).lower(),
            "list_commands": lambda _: "\n".join(sorted(self.commands)),
            "quit": lambda _: "",
            "boardsize": self._boardsize,
            "clear_board": self._clear,
            "komi": self._komi,
            "play": self._play,
            "genmove": self._genmove,
            "undo": self._undo,
            "showboard": self._show,
            "final_score": self._final_score,
        }

    def answer(self, line: str) -> str | None:
        """Answer one line of a controller, or return None if it needs no answer."""
        number, words = _split(line)
        if not number and not words:
            return None
        if not words:
            return f"?{number} unknown command\n\n"
        name = words.pop(0)
        if name not in self.commands:
            return f"?{number} unknown command\n\n"
        try:
            text = self.commands[name](words)
        except (IndexError, KeyError):
            return f"?{number} syntax error\n\n"
        except ValueError as error:
            return f"?{number} {error}\n\n"
        return f"={number}{' ' if text else ''}{text}\n\n"

    def serve(self, lines: Iterable[str], out: TextIO) -> None:
        """Answer until the controller quits or closes its stream.

        Args:
            lines: Lines from the controller.
            out: Stream for the answers.
        """
        for line in lines:
            if (text := self.answer(line)) is not None:
                out.write(text)
                out.flush()
            if _split(line)[1][:1] == ["quit"]:
                return

    # Commands.

    def _boardsize(self, words: list[str]) -> str:
        if words[0] != str(self.size):
            raise ValueError("unacceptable size")
        return self._clear(words)

    def _clear(self, words: list[str]) -> str:
        self._marks = []
        self._back_to(0)
        return ""

    def _komi(self, words: list[str]) -> str:
        try:
            komi = float(words[0])
        except ValueError:
            komi = math.nan
        if not math.isfinite(komi):
            raise ValueError("komi not a float")
        self._trees.komi[0] = komi
        return ""

    def _play(self, words: list[str]) -> str:
        colour = COLOURS[words[0].lower()]
        try:
            action = action_of(words[1], self.size)
        except ValueError as error:
            raise ValueError("illegal move") from error
        mark = len(self.moves)
        self._turn_to(colour)
        root = self._trees.root[0]
        if not go.is_legal(
            self._trees.board[root], self._trees.info[root], self._trees.history[0], action
        ):
            self._back_to(mark)
            raise ValueError("illegal move")
        self._marks.append(mark)
        self._advance(action)
        return ""

    def _genmove(self, words: list[str]) -> str:
        colour = COLOURS[words[0].lower()]
        self._marks.append(len(self.moves))
        self._turn_to(colour)
        trees, root = self._trees, self._trees.root[0]
        if trees.info[root, go.PASSES] >= 2:
            self._advance(self.size * self.size)
            return "PASS"
        goal = int(trees.root_n[0]) + self.readouts
        while self._trees.root_n[0] < goal:
            self._search(goal)
        trees, root = self._trees, self._trees.root[0]
        owner = np.zeros(trees.board.shape[2], np.int8)
        pass_alive(trees.board[root], trees.info[root], owner)
        action = mv.most_visited(trees, 0, owner)
        self._advance(action)
        return vertex(action, self.size)

    def _undo(self, words: list[str]) -> str:
        if not self._marks:
            raise ValueError("cannot undo")
        self._back_to(self._marks.pop())
        return ""

    def _show(self, words: list[str]) -> str:
        colours = self._trees.board[self._trees.root[0], go.COLOUR]
        rows = [
            f"{self.size - row:2} "
            + " ".join(
                ".XO"[colours[go.cell_of(row * self.size + column, self.size)]]
                for column in range(self.size)
            )
            for row in range(self.size)
        ]
        return "\n" + "\n".join([*rows, "   " + " ".join(COLUMNS[: self.size])])

    def _final_score(self, words: list[str]) -> str:
        trees, root = self._trees, self._trees.root[0]
        score = area_score(trees.board[root], trees.info[root], trees.komi[0])
        return "0" if score == 0 else f"{'B' if score > 0 else 'W'}+{abs(score):g}"

    # The tree.

    def _back_to(self, num_moves: int) -> None:
        """Undo everything after the first moves; a pass inserted for the other colour counts."""
        moves = self.moves[:num_moves]
        if moves and moves == self.moves:
            return
        mcts.new_game(self._trees, 0, self.size, 1)
        self.moves = []
        for action in moves:
            self._advance(action)

    def _turn_to(self, colour: int) -> None:
        """Let a colour move out of turn, as GTP allows, by passing for the other one."""
        if self._trees.info[self._trees.root[0], go.TO_PLAY] != colour:
            self._advance(self.size * self.size)

    def _advance(self, action: int) -> None:
        self._make_room()
        root = self._trees.root[0]
        if self._trees.state[root] == mcts.OVER:
            # The protocol continues after two passes; for the search the game is over.
            self._trees.state[root] = mcts.UNEXPANDED
        mcts.advance(self._trees, 0, action)
        self.moves.append(action)

    def _make_room(self) -> None:
        while self._trees.top[0] < 4 * MATCH_TRIES:
            self._trees = mcts.grow(self._trees)

    def _search(self, goal: int) -> None:
        self._make_room()
        trees, leaves = self._trees, self._leaves
        count = search.select(trees, 0, goal, self._virtual_losses, MATCH_TRIES, leaves, 0)
        if count:
            planes = leaves.planes[:count].reshape(count, -1, self.size, self.size)
            search.expand(trees, leaves, 0, count, *self.network(planes))


def _split(line: str) -> tuple[str, list[str]]:
    """Split a line into its number (or "") and words, without comment and control characters."""
    text = "".join(c for c in line.partition("#")[0] if c >= " " or c == "\t")
    words = text.split()
    number = words.pop(0) if words and words[0].isdigit() else ""
    return number, words
