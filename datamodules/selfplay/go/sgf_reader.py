"""Reads the main line of a game from SGF text (FF[4])."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.selfplay.go.board import BLACK, MAX_SIZE, WHITE
from datamodules.selfplay.go.sgf import LETTERS

MOST_BYTES = 2**20
COLOURS = {"B": BLACK, "W": WHITE}
TOKEN = re.compile(r"\s*(?:([(;)])|([A-Za-z]+)|\[((?:\\.|[^\\\]])*)\])", re.DOTALL)
Node = dict[str, list[str]]


class SgfGame(NamedTuple):
    """A game; moves and stones are (colour, action)."""

    size: int
    komi: float | None
    stones: list[tuple[int, int]]
    """On the board before the first move."""
    moves: list[tuple[int, int]]
    to_play: int
    """Who moves first."""


def read_sgf(path: Path) -> SgfGame:
    """Read a file's first game without its variations.

    Args:
        path: An SGF file of at most 1 MiB.

    Returns:
        The game; its moves may be illegal.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no such game; one line.
    """
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES >> 20} MiB")
    # Names and comments may have any encoding; all that is read here is ASCII.
    nodes = list(_main_line(content.decode(errors="replace")))
    size = _number(nodes[0].get("SZ", ["19"]), "SZ")
    if size not in range(1, MAX_SIZE + 1):
        raise ValueError(f"board of size {size:g}")
    komi = _number(nodes[0]["KM"], "KM") if "KM" in nodes[0] else None
    stones, moves = _stones_and_moves(nodes, int(size))
    first = moves[0][0] if moves else WHITE if stones and "HA" in nodes[0] else BLACK
    player = nodes[0].get("PL", [""])[0][:1].upper()
    return SgfGame(int(size), komi, stones, moves, COLOURS.get(player, first))


def _main_line(text: str) -> Iterator[Node]:
    """Yield the nodes up to the end of the first variation: the properties by name."""
    at, name, node = max(text.find("("), 0), "", None
    while token := TOKEN.match(text, at):
        at, (mark, word, value) = token.end(), token.groups()
        if mark and node is not None:
            yield node
        if mark == ")":
            return
        if mark:
            node = {} if mark == ";" else None
        elif node is None:
            break
        elif word:
            # Old files write long names, of which the capital letters count.
            name = "".join(letter for letter in word if letter.isupper())
        else:
            node.setdefault(name, []).append(value)
    raise ValueError("not a game in SGF")


def _stones_and_moves(
    nodes: list[Node], size: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    board: dict[int, int] = {}
    moves: list[tuple[int, int]] = []
    for node in nodes:
        setup = [name for name in ("AB", "AW", "AE") if name in node]
        if setup and moves:
            raise ValueError("stones are set up after the first move")
        for name in setup:
            for action in (a for value in node[name] for a in _points(value, size)):
                board[action] = COLOURS.get(name[1], 0)
        for name, colour in COLOURS.items():
            moves += [(colour, _action(value, size)) for value in node.get(name, ())]
    return [(colour, action) for action, colour in board.items() if colour], moves


def _points(value: str, size: int) -> Iterator[int]:
    """Yield the points of ``aa`` or of a rectangle ``aa:cc``."""
    first, _, last = value.partition(":")
    (top, left), (bottom, right) = (
        divmod(_action(point, size, may_pass=False), size) for point in (first, last or first)
    )
    for row in range(top, bottom + 1):
        yield from (row * size + column for column in range(left, right + 1))


def _action(point: str, size: int, *, may_pass: bool = True) -> int:
    """Return the action of a point in SGF's letters; empty or ``tt`` is a pass."""
    word = "".join(point.split())
    if may_pass and (not word or word == "tt"):
        return size * size
    if len(word) != 2 or any(letter not in LETTERS[:size] for letter in word):
        raise ValueError(f"{point!r} is not a point of a {size} x {size} board")
    return LETTERS.index(word[1]) * size + LETTERS.index(word[0])


def _number(values: list[str], name: str) -> float:
    try:
        number = float(values[0])
    except ValueError:
        number = float("nan")
    if not abs(number) < 1e6:
        raise ValueError(f"{name} is {values[0]!r}")
    return number
