"""A board as a picture: stones with their move numbers, dead stones and territory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.selfplay.go import board as go
from datamodules.selfplay.go.score import pass_alive
from datamodules.selfplay.go.sgf import COLUMNS, replay

STAR_LINES = {5: (2,), 7: (3,), 9: (2, 4, 6), 13: (3, 6, 9), 19: (3, 9, 15)}
BOARD_INCHES = 6.5
FACE = {go.BLACK: "black", go.WHITE: "white"}
INK = {go.BLACK: "white", go.WHITE: "black"}
DEAD, MARK = "#d01c1c", "#0072b2"


def draw_board(
    moves: Sequence[int] | np.ndarray,
    size: int,
    path: Path,
    *,
    title: str = "",
    counted: bool = True,
    marked: int | None = None,
    benson: bool = False,
) -> None:
    """Draw the position after some moves.

    Args:
        moves: Actions from the empty board on.
        size: Points per side.
        path: PNG file to write.
        title: Text above the board.
        counted: Mark whose point each is, and dead stones, as the score counts them.
        marked: A point to draw a ring at, such as the move that is proposed.
        benson: Count with Benson's pass-alive regions instead of the reference's.
    """
    from matplotlib.figure import Figure

    board, info = replay(moves, size)
    figure = Figure(figsize=(BOARD_INCHES + 1, BOARD_INCHES + 1.8), dpi=100)
    axes = figure.add_axes((0.07, 0.1, 0.9, 0.81))
    _draw_grid(axes, size)
    points = BOARD_INCHES * 72 / (size + 1)  # between two lines, in the unit of fonts
    owner = point_owners(board, info, benson) if counted else np.zeros(size * size, int)
    dead = _draw_stones(axes, board, owner, moves, size, points)
    _draw_territory(axes, board, owner, size)
    if marked is not None and marked < size * size:
        y, x = divmod(marked, size)
        axes.plot(x, y, "o", markersize=0.5 * points, markeredgewidth=0.07 * points,
                  markerfacecolor="none", markeredgecolor=MARK, zorder=5)  # fmt: skip
    axes.set_title(f"{title}\n{len(moves)} moves" if title else f"{len(moves)} moves", fontsize=12)
    figure.text(0.5, 0.025, _legend(owner, dead, marked), ha="center", fontsize=10)
    figure.savefig(path)


def point_owners(board: np.ndarray, info: np.ndarray, benson: bool = False) -> np.ndarray:
    """Return whose point each is by the area score: BLACK, WHITE or 0 for nobody's.

    Args:
        board: (4, C) int16.
        info: (INFO,) int64.
        benson: Benson's pass-alive rule instead of the reference's.

    Returns:
        (n*n,) int64. A stone within the other colour's pass-alive region is that colour's point.
    """
    size = int(info[go.SIZE])
    alive = np.zeros(board.shape[1], np.int8)
    pass_alive(board, info, alive, benson)
    cells = [go.cell_of(action, size) for action in range(size * size)]
    owner = np.where(alive[cells], alive[cells], board[go.COLOUR, cells]).astype(int)
    for region, borders in _empty_regions(owner.reshape(size, size)):
        owner[region] = borders.pop() if len(borders) == 1 else 0
    return owner


def _empty_regions(owner_nn: np.ndarray) -> list[tuple[list[int], set[int]]]:
    """Return connected points without an owner, each set with the colours around it."""
    size, regions = len(owner_nn), []
    open_points = set(np.flatnonzero(owner_nn == 0).tolist())
    while open_points:
        region, borders, stack = [], set(), [open_points.pop()]
        while stack:
            point = stack.pop()
            region.append(point)
            y, x = divmod(point, size)
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if not (0 <= v < size and 0 <= u < size):
                    continue
                if owner_nn[v, u]:
                    borders.add(int(owner_nn[v, u]))
                elif v * size + u in open_points:
                    open_points.remove(v * size + u)
                    stack.append(v * size + u)
        regions.append((region, borders))
    return regions


def _draw_grid(axes: Any, size: int) -> None:
    axes.set_facecolor("#e3bd74")
    for line in range(size):
        axes.plot([0, size - 1], [line, line], color="black", linewidth=0.7, zorder=1)
        axes.plot([line, line], [0, size - 1], color="black", linewidth=0.7, zorder=1)
    stars = STAR_LINES.get(size, ())
    axes.scatter(
        [x for x in stars for _ in stars], [y for _ in stars for y in stars], s=14, c="black",
        zorder=2,
    )  # fmt: skip
    axes.set_xticks(range(size), COLUMNS[:size])
    axes.set_yticks(range(size), [str(size - row) for row in range(size)])
    axes.tick_params(length=0)
    axes.set_xlim(-0.6, size - 0.4)
    axes.set_ylim(size - 0.4, -0.6)
    axes.set_aspect("equal")


def _draw_stones(
    axes: Any,
    board: np.ndarray,
    owner: np.ndarray,
    moves: Sequence[int] | np.ndarray,
    size: int,
    points: float,
) -> int:
    """Draw all stones, and a cross on dead ones; return how many are dead."""
    from matplotlib.patches import Circle

    number = {int(action): i + 1 for i, action in enumerate(moves)}
    dead = 0
    for action in range(size * size):
        y, x = divmod(action, size)
        colour = int(board[go.COLOUR, go.cell_of(action, size)])
        if colour == go.EMPTY:
            continue
        face, ink = FACE[colour], INK[colour]
        axes.add_patch(
            Circle((x, y), 0.46, facecolor=face, edgecolor="black", linewidth=0.6, zorder=3)
        )
        axes.text(x, y, str(number[action]), color=ink, fontsize=0.27 * points, ha="center",
                  va="center_baseline", zorder=4)  # fmt: skip
        if owner[action] not in (0, colour):
            dead += 1
            # In the upper right of the stone, clear of its number.
            axes.plot(x + 0.2, y - 0.2, "x", color=DEAD, markersize=0.3 * points, zorder=5,
                      markeredgewidth=0.06 * points)  # fmt: skip
    return dead


def _draw_territory(axes: Any, board: np.ndarray, owner: np.ndarray, size: int) -> None:
    """Draw a small square in the owner's colour on every point without a stone of that colour."""
    from matplotlib.patches import Rectangle

    for action in np.flatnonzero(owner):
        y, x = divmod(int(action), size)
        if board[go.COLOUR, go.cell_of(int(action), size)] == go.EMPTY:
            face = FACE[int(owner[action])]
            axes.add_patch(
                Rectangle((x - 0.13, y - 0.13), 0.26, 0.26, facecolor=face, edgecolor="black",
                          linewidth=0.6, zorder=3)
            )  # fmt: skip


def _legend(owner: np.ndarray, dead: int, marked: int | None) -> str:
    parts = []
    if owner.any():
        black, white = (int((owner == colour).sum()) for colour in (go.BLACK, go.WHITE))
        parts.append(f"squares: territory; points on the board: Black {black}, White {white}")
    if dead:
        parts.append(f"crosses: {dead} dead stones, points of the other colour")
    if marked is not None:
        parts.append("blue ring: the proposed move")
    return "\n".join(parts)
