"""A network as a player that speaks the Go Text Protocol, version 2.

Source: G. Farneback, "Specification of the Go Text Protocol, version 2, draft 2" (2002);
``kgs-genmove_cleanup``: KGS's kgsGtp.
"""

import math
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

import numpy as np

from datamodules.selfplay.go import board as go
from datamodules.selfplay.go.games import Network
from datamodules.selfplay.go.session import Session
from datamodules.selfplay.go.sgf import COLUMNS, action_of, handicap_points, vertex
from datamodules.selfplay.go.sgf_reader import read_position

COLOURS = {"b": go.BLACK, "black": go.BLACK, "w": go.WHITE, "white": go.WHITE}
VERTEX = re.compile(r"pass|[a-hj-z](?:[1-9]|1\d|2[0-5])", re.IGNORECASE)
MOST_SGF_BYTES = 2**20
# Main time is spent as if so many moves were left.
MOVES_LEFT = 30


class GtpSyntaxError(ValueError):
    """A command that does not have the protocol's form."""

    def __init__(self) -> None:
        super().__init__("syntax error")


class Player:
    """One game on one board, played by a search with a network.

    Args:
        network: Evaluates positions of this board size.
        size: Points per side; no other size is accepted.
        komi: Points that White gets, until the controller sets them.
        readouts: Searches per move, at least 1.
        virtual_losses: Leaves in one batch of the network.
        benson: Score by Benson's pass-alive rule instead of the reference's.

    Raises:
        ValueError: If ``readouts`` is below 1 or ``komi`` is not finite.
    """

    def __init__(
        self, network: Network, size: int, *, komi: float = 7.5, readouts: int = 100,
        virtual_losses: int = 4, benson: bool = False,
    ) -> None:  # fmt: skip
        if readouts < 1:
            raise ValueError(f"readouts must be at least 1, got {readouts}")
        if not math.isfinite(komi):
            raise ValueError(f"komi must be finite, got {komi}")
        self.size = size
        self.game = Session(
            network, size, komi=komi, readouts=readouts, virtual_losses=virtual_losses,
            benson=benson,
        )  # fmt: skip
        self._byo_yomi = 0.0  # seconds per move after the main time
        self._left: dict[int, tuple[float, int]] = {}
        """Seconds left by colour, and the moves to make in them; 0 is main time."""
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
            "fixed_handicap": self._fixed_handicap,
            "place_free_handicap": self._place_free_handicap,
            "set_free_handicap": self._set_free_handicap,
            "play": self._play,
            "genmove": self._genmove,
            "reg_genmove": self._reg_genmove,
            "kgs-genmove_cleanup": self._genmove_cleanup,
            "undo": self._undo,
            "loadsgf": self._loadsgf,
            "time_settings": self._time_settings,
            "time_left": self._time_left,
            "final_score": self._final_score,
            "final_status_list": self._final_status_list,
            "showboard": self._show,
        }

    @property
    def moves(self) -> list[int]:
        """The actions played so far, without stones that were set up."""
        return [action for _, action in self.game.moves]

    def answer(self, line: str) -> str | None:
        """Answer one line of a controller, or return None if it needs no answer."""
        number, words = _split(line)
        if not number and not words:
            return None
        name = words.pop(0) if words else ""
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

    # The position.

    def _boardsize(self, words: list[str]) -> str:
        if words[0] != str(self.size):
            raise ValueError("unacceptable size")
        return self._clear(words)

    def _clear(self, words: list[str]) -> str:
        self.game.set_up()
        return ""

    def _komi(self, words: list[str]) -> str:
        try:
            komi = float(words[0])
        except ValueError:
            komi = math.nan
        if not math.isfinite(komi):
            raise ValueError("komi not a float")
        self.game.komi = komi
        return ""

    def _play(self, words: list[str]) -> str:
        colour = COLOURS[words[0].lower()]
        self.game.play(colour, self._action(words[1]))
        return ""

    def _action(self, word: str) -> int:
        """Parse a vertex; one that is not on this board is an illegal move."""
        if not VERTEX.fullmatch(word):
            raise GtpSyntaxError
        try:
            return action_of(word, self.size)
        except ValueError as error:
            raise ValueError("illegal move") from error

    def _undo(self, words: list[str]) -> str:
        if not self.game.moves:
            raise ValueError("cannot undo")
        self.game.undo()
        return ""

    def _loadsgf(self, words: list[str]) -> str:
        """Load a file's main line, up to before a move's number."""
        path, number = Path(words[0]), _count(words[1]) if words[1:] else None
        try:
            with path.open("rb") as file:
                content = file.read(MOST_SGF_BYTES + 1)
            if len(content) > MOST_SGF_BYTES:
                raise ValueError(f"larger than {MOST_SGF_BYTES >> 20} MiB")
            # Names and comments may have any encoding; all that is read here is ASCII.
            text = content.decode(errors="replace")
            position = read_position(text, self.size, self.game.komi, whole=True)
            plays = [(COLOURS[colour.lower()], action) for colour, action in position.plays]
            moves = plays[position.setup :]
            first = moves[0][0] if moves else COLOURS[position.to_play.lower()]
            last = len(moves) if number is None else max(0, number - 1)
            self.game.set_up(plays[: position.setup], moves[:last], first)
        except OSError as error:
            raise ValueError("cannot load file") from error
        except ValueError as error:
            raise ValueError(f"cannot load file: {error}") from error
        self.game.komi = position.komi
        return ""

    # Handicap; its stones are not in the history of moves.

    def _fixed_handicap(self, words: list[str]) -> str:
        points = handicap_points(_count(words[0]), self.size)
        if not points:
            raise ValueError("invalid number of stones")
        return self._place(points)

    def _place_free_handicap(self, words: list[str]) -> str:
        """Place so many stones, or as many as the fixed places allow."""
        number = _count(words[0])
        allowed = [n for n in range(2, number + 1) if handicap_points(n, self.size)]
        if not allowed or number >= self.size**2:
            raise ValueError("invalid number of stones")
        return self._place(handicap_points(allowed[-1], self.size))

    def _set_free_handicap(self, words: list[str]) -> str:
        try:
            points = [action_of(word, self.size) for word in words]
        except ValueError as error:
            raise ValueError("bad vertex list") from error
        unique = {*points} - {self.size**2}
        if len(unique) < len(points) or not 2 <= len(points) < self.size**2:
            raise ValueError("bad vertex list")
        self._place(points)
        return ""

    def _place(self, points: list[int]) -> str:
        if self.game.moves or self.game.stones:
            raise ValueError("board not empty")
        self.game.set_up([(go.BLACK, point) for point in points], to_play=go.WHITE)
        return " ".join(vertex(point, self.size) for point in points)

    # Moves.

    def _genmove(self, words: list[str], *, cleanup: bool = False) -> str:
        colour, start = COLOURS[words[0].lower()], time.monotonic()
        action = self.game.choose(colour, seconds=self._seconds(colour), cleanup=cleanup)
        self.game.play(colour, action)
        if colour in self._left:  # until the controller says what is left
            seconds, stones = self._left[colour]
            self._left[colour] = seconds - (time.monotonic() - start), stones
        return vertex(action, self.size)

    def _genmove_cleanup(self, words: list[str]) -> str:
        return self._genmove(words, cleanup=True)

    def _reg_genmove(self, words: list[str]) -> str:
        return vertex(self.game.choose(COLOURS[words[0].lower()]), self.size)

    def _time_settings(self, words: list[str]) -> str:
        main, byo_yomi, stones = (_count(words[i]) for i in range(3))
        limited = stones > 0 or byo_yomi == 0
        self._byo_yomi = byo_yomi / stones if stones else 0.0
        self._left = dict.fromkeys((go.BLACK, go.WHITE), (float(main), 0)) if limited else {}
        return ""

    def _time_left(self, words: list[str]) -> str:
        self._left[COLOURS[words[0].lower()]] = float(_count(words[1])), _count(words[2])
        return ""

    def _seconds(self, colour: int) -> float:
        """Return the time for a move; a search makes one batch even without any."""
        if colour not in self._left:
            return math.inf
        left, stones = self._left[colour]
        return max(0.0, left / (stones or MOVES_LEFT), 0.0 if stones else self._byo_yomi) * 0.9

    # The result.

    def _final_score(self, words: list[str]) -> str:
        score = self.game.score()
        return "0" if score == 0 else f"{'B' if score > 0 else 'W'}+{abs(score):g}"

    def _final_status_list(self, words: list[str]) -> str:
        """List chains, one a line; those in the other colour's pass-alive regions are dead."""
        if words[0] not in ("alive", "dead", "seki"):
            raise GtpSyntaxError
        chains: dict[int, list[int]] = {}
        for action in range(self.size**2):
            if self.game.colour_at(action):
                head = int(self.game.board[go.HEAD, go.cell_of(action, self.size)])
                chains.setdefault(head, []).append(action)
        owner, colours = self.game.owners(), self.game.board[go.COLOUR]
        status = {head: "dead" if owner[head] == 3 - colours[head] else "alive" for head in chains}
        return "\n".join(
            " ".join(vertex(action, self.size) for action in chain)
            for head, chain in chains.items()
            if status[head] == words[0]
        )

    def _show(self, words: list[str]) -> str:
        colours = np.reshape([self.game.colour_at(a) for a in range(self.size**2)], (-1, self.size))
        rows = [
            f"{self.size - row:2} " + " ".join(".XO"[colour] for colour in line)
            for row, line in enumerate(colours)
        ]
        return "\n" + "\n".join([*rows, "   " + " ".join(COLUMNS[: self.size])])


def _count(word: str) -> int:
    """Parse a number that is not negative."""
    if not (word.isascii() and word.isdecimal()):
        raise GtpSyntaxError
    return int(word[:9])


def _split(line: str) -> tuple[str, list[str]]:
    """Split a line into its number (or "") and words, without comment and control characters."""
    text = "".join(c for c in line.partition("#")[0] if c >= " " or c == "\t")
    words = text.split()
    number = words.pop(0) if words and words[0].isascii() and words[0].isdecimal() else ""
    return number, words
