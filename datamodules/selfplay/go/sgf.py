"""Games as SGF text (FF[4]), and names of moves."""

from collections.abc import Sequence

import numpy as np

from datamodules.selfplay.go import board as go
from datamodules.selfplay.go.games import MatchGame
from datamodules.selfplay.go.score import area_score

COLUMNS = "ABCDEFGHJKLMNOPQRST"  # GTP leaves out I
LETTERS = "abcdefghijklmnopqrs"
# Not Tromp-Taylor's: suicide is illegal, and pass-alive regions are their owners' points.
RULES = "Mini Go, area with the reference's pass-alive regions"
BENSON = "Mini Go, area with Benson's pass-alive regions"


def vertex(action: int, size: int) -> str:
    """Return a move as people and GTP write it: ``D4`` from the lower left corner, or ``PASS``."""
    if action == size * size:
        return "PASS"
    return f"{COLUMNS[action % size]}{size - action // size}"


def action_of(name: str, size: int) -> int:
    """Parse a move such as ``d4`` or ``pass``; a ValueError if it is not on the board."""
    word = name.upper()
    if word == "PASS":
        return size * size
    column, row = COLUMNS.find(word[:1] or "?"), word[1:]
    if not 0 <= column < size or not row.isdigit() or not 1 <= int(row) <= size:
        raise ValueError(f"{name!r} is not a point of a {size} x {size} board")
    return (size - int(row)) * size + column


def handicap_points(number: int, size: int) -> list[int]:
    """Return the places of fixed handicap stones in GTP's order; none where they have no rule."""
    # From 13 x 13 on they are on the fourth line, before on the third.
    low, middle = (2 if size < 13 else 3), size // 2
    high = size - 1 - low
    most = 0 if size < 7 else 4 if size == 7 or size % 2 == 0 else 9
    if not 2 <= number <= most:
        return []
    # Columns, and rows from the bottom.
    places = [(low, low), (high, high), (low, high), (high, low)]
    places += [(low, middle), (high, middle), (middle, low), (middle, high)]
    odd = number % 2 == 1 and number > 4
    chosen = places[: number - odd] + [(middle, middle)] * odd
    return [(size - 1 - row) * size + column for column, row in chosen]


def replay(moves: Sequence[int] | np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return board (4, C) and info (INFO,) after some moves; ValueError if one is illegal."""
    board, info, history = go.new_position(size)
    for number, action in enumerate(moves):
        if not go.is_legal(board, info, history, int(action)):
            raise ValueError(f"move {number + 1} ({vertex(int(action), size)}) is illegal")
        go.play(board, info, int(action))
        go.add_to_history(history, info[go.HASH])
    return board, info


def result_text(
    moves: Sequence[int] | np.ndarray, size: int, komi: float, *, outcome: float,
    resigned: bool = False, benson: bool = False,
) -> str:  # fmt: skip
    """Return a finished game's result as SGF writes it.

    Args:
        moves: Actions from the empty board on.
        size: Points per side.
        komi: Points that White gets.
        outcome: 1.0 if Black won, -1.0 if White did.
        resigned: Whether the loser resigned; else the score is counted.
        benson: Whether it is counted with Benson's pass-alive regions.

    Returns:
        For example ``W+7.5`` or ``B+R``.
    """
    margin = "R" if resigned else f"{abs(area_score(*replay(moves, size), komi, benson)):g}"
    return f"{'B' if outcome > 0 else 'W'}+{margin}"


def game_text(
    moves: Sequence[int] | np.ndarray,
    size: int,
    komi: float,
    *,
    players: tuple[str, str] = ("Black", "White"),
    outcome: float,
    resigned: bool = False,
    benson: bool = False,
) -> str:
    """Return a game as SGF; its ``RU`` names the rules by which ``RE`` was counted.

    Args:
        moves: Actions, Black's first.
        size: Points per side.
        komi: Points that White gets.
        players: Names of Black and White.
        outcome: 1.0 if Black won, -1.0 if White did.
        resigned: Whether the loser resigned; else the score is counted.
        benson: Whether it is counted with Benson's pass-alive regions.

    Returns:
        Text of one game.
    """
    result = result_text(moves, size, komi, outcome=outcome, resigned=resigned, benson=benson)
    rules = BENSON if benson else RULES
    head = (
        f"(;FF[4]GM[1]CA[UTF-8]AP[finishline]SZ[{size}]KM[{komi:g}]RU[{rules}]"
        f"PB[{players[0]}]PW[{players[1]}]RE[{result}]"
    )
    body = [f";{'BW'[i % 2]}[{_point(int(action), size)}]" for i, action in enumerate(moves)]
    lines = ["".join(body[i : i + 10]) for i in range(0, len(body), 10)]
    return "\n".join([head, *lines]) + ")\n"


def clearest_win(
    games: Sequence[MatchGame], size: int, komi: float, *, benson: bool = False
) -> MatchGame | None:
    """Return the game that the candidate won by the most points.

    Args:
        games: Games of a match.
        size: Points per side.
        komi: Points that White gets.
        benson: Whether to count with Benson's pass-alive regions.

    Returns:
        The game; the narrowest loss if none was won; None without games.
    """

    def lead(game: MatchGame) -> float:
        score = area_score(*replay(game.moves, size), komi, benson)
        return float(score if game.number % 2 == 0 else -score)

    return max(games, key=lead, default=None)


def _point(action: int, size: int) -> str:
    """Return a move in SGF's letters; empty for a pass."""
    if action == size * size:
        return ""
    return LETTERS[action % size] + LETTERS[action // size]
