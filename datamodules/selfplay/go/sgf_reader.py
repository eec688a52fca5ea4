"""Reading a position from an SGF file (FF[3] or FF[4]): setup stones and the main line's moves."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from datamodules.selfplay.go.sgf import LETTERS, replay, vertex

Play = tuple[str, int]
"""Colour (``B`` or ``W``) and action; n*n is a pass."""

_TOKEN = re.compile(r"[();]|([A-Za-z]+)((?:\s*\[(?:\\.|[^\\\]])*\])+)", re.DOTALL)
_VALUE = re.compile(r"\[((?:\\.|[^\\\]])*)\]", re.DOTALL)
OTHER = {"B": "W", "W": "B"}


class Position(NamedTuple):
    """A position as the plays that lead to it."""

    size: int
    komi: float
    plays: list[Play]  # setup stones first
    setup: int  # how many of them are setup stones
    to_play: str  # ``B`` or ``W``

    def actions(self) -> list[int]:
        """Return the plays as actions of alternating colours, with passes where one is skipped."""
        actions: list[int] = []
        for colour, action in self.plays:
            if len(actions) % 2 != "BW".index(colour):
                actions.append(self.size * self.size)
            actions.append(action)
        return actions


def read_position(text: str, size: int, komi: float, *, whole: bool = False) -> Position:
    """Read the position at the end of a game's main line.

    Args:
        text: SGF of a game; of several the first.
        size: Points per side that the network knows.
        komi: Points that White gets where the file does not say so.
        whole: Keep the two passes that end a game, which are left out otherwise.

    Returns:
        The position.

    Raises:
        ValueError: If it is no SGF of Go, for another board, or a move is impossible.
    """
    nodes = list(_main_line(text))
    if not nodes:
        raise ValueError("is no SGF: it begins with (;")
    head = nodes[0]
    if head.get("GM", ["1"])[0].strip() != "1":
        raise ValueError(f"is a game of another kind (GM[{head['GM'][0]}]), Go is GM[1]")
    board = head.get("SZ", ["19"])[0].strip()
    if board not in (str(size), f"{size}:{size}"):
        raise ValueError(f"has a board of {board}, but the network is for {size} x {size}")
    setup, plays, to_play = _plays(nodes, size)
    while not whole and len(plays) - setup >= 2 and plays[-1][1] == plays[-2][1] == size * size:
        del plays[-2:]
    turn = OTHER[plays[-1][0]] if plays else "B"
    position = Position(size, _komi(head, komi), plays, setup, to_play or turn)
    replay(position.actions(), size)  # raises for an illegal move
    return position


def _plays(nodes: Sequence[dict[str, list[str]]], size: int) -> tuple[int, list[Play], str | None]:
    """Return the number of setup stones, all plays, and whose turn the file says it is."""
    setup: list[Play] = []
    moves: list[Play] = []
    to_play = None
    for node in nodes:
        for name, colour in (("AB", "B"), ("AW", "W")):
            points = [point for value in node.get(name, []) for point in _points(value, size)]
            setup += [(colour, point) for point in points]
        if "AE" in node or (moves and {"AB", "AW"} & node.keys()):
            raise ValueError("changes the board in the middle of the game (AB, AW, AE)")
        for colour in "BW":
            if colour in node:
                moves.append((colour, _action(node[colour][0], size)))
                to_play = None
        if "PL" in node:
            to_play = node["PL"][0].strip()[:1].upper()
    if to_play not in (None, "B", "W"):
        raise ValueError(f"names the player {to_play!r} (PL), allowed are B and W")
    if setup and not moves and to_play is None:
        # Handicap stones are Black's, so White moves first.
        to_play = "W" if all(colour == "B" for colour, _ in setup) else "B"
    return len(setup), setup + moves, to_play


def _main_line(text: str) -> Iterator[dict[str, list[str]]]:
    """Yield the nodes of the first game's first variations, as property -> values."""
    start = text.find("(")
    if start < 0 or not re.match(r"\(\s*;", text[start:]):
        return
    node: dict[str, list[str]] | None = None
    for token in _TOKEN.finditer(text, start):
        if token[0] == ")":
            break  # the end of the first branch that ends
        if token[0] == ";":
            if node is not None:
                yield node
            node = {}
        elif token[1] and node is not None:
            # Old files write Black[..] for B[..], PlayerBlack[..] for PB[..].
            name = re.sub("[a-z]", "", token[1])
            node.setdefault(name, []).extend(_VALUE.findall(token[2]))
    if node is not None:
        yield node


def _action(value: str, size: int) -> int:
    """Return the action of a move in SGF's letters; an empty one, or ``tt`` up to 19, is a pass."""
    point = value.strip()
    if not point or (point == "tt" and size <= 19):
        return size * size
    column, row = (LETTERS.find(letter) for letter in point[:2].ljust(2, "?"))
    if len(point) != 2 or not (0 <= column < size and 0 <= row < size):
        raise ValueError(f"has a move {value!r} that is not on a board of {size} x {size}")
    return row * size + column


def _points(value: str, size: int) -> list[int]:
    """Return the points of a setup value: one, or a rectangle such as ``aa:cc``."""
    corners = [_action(corner, size) for corner in value.split(":")]
    if size * size in corners or len(corners) > 2:
        raise ValueError(f"has a setup stone {value!r} that is not on the board")
    (top, left), (bottom, right) = (divmod(corner, size) for corner in (corners[0], corners[-1]))
    return [y * size + x for y in range(top, bottom + 1) for x in range(left, right + 1)]


def _komi(head: dict[str, list[str]], default: float) -> float:
    text = head.get("KM", [str(default)])[0]
    try:
        komi = float(text)
    except ValueError:
        komi = math.nan
    if not math.isfinite(komi):
        raise ValueError(f"has a komi {text!r} that is not a number")
    return komi


def position_text(position: Position, move: int, comment: str) -> str:
    """Return a position and the move proposed in it as SGF.

    Args:
        position: From ``read_position``.
        move: Action of the player whose turn it is.
        comment: Text at the move.

    Returns:
        Text of one game.
    """
    size = position.size
    parts = [f"(;FF[4]GM[1]CA[UTF-8]AP[finishline]SZ[{size}]KM[{position.komi:g}]"]
    for colour in "BW":
        stones = [a for c, a in position.plays[: position.setup] if c == colour]
        if stones:
            parts.append(f"A{colour}" + "".join(f"[{_letters(a, size)}]" for a in stones))
    for colour, action in position.plays[position.setup :]:
        parts.append(f"\n;{colour}[{_letters(action, size)}]")
    text = comment.replace("\\", "\\\\").replace("]", "\\]")
    parts.append(f"\n;{position.to_play}[{_letters(move, size)}]C[{text}])\n")
    return "".join(parts)


def _letters(action: int, size: int) -> str:
    return "" if action == size * size else LETTERS[action % size] + LETTERS[action // size]


def in_words(position: Position, move: int) -> str:
    """Return a proposed move in words, such as ``Black D4``."""
    colour = {"B": "Black", "W": "White"}[position.to_play]
    return f"{colour} {vertex(move, position.size)}"
