"""A board as a picture: stones with their move numbers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.selfplay.go import board as go
from datamodules.selfplay.go.score import pass_alive
from datamodules.selfplay.go.sgf import COLUMNS, replay

STAR_LINES = {5: (2,), 7: (3,), 9: (2, 4, 6), 13: (3, 6, 9), 19: (3, 9, 15)}


def draw_board(
    moves: Sequence[int] | np.ndarray, size: int, path: Path, *, title: str = "",
    benson: bool = False,
) -> None:  # fmt: skip
    """Draw the position after some moves; pass-alive regions are shaded in their owner's colour.

    Args:
        moves: Actions from the empty board on.
        size: Points per side.
        path: PNG file to write.
        title: Text above the board.
        benson: Shade Benson's pass-alive regions instead of the reference's.
    """
    from matplotlib.figure import Figure

    board, info = replay(moves, size)
    owner = np.zeros(board.shape[1], np.int8)
    pass_alive(board, info, owner, benson)
    figure = Figure(figsize=(0.45 * size + 1.4, 0.45 * size + 1.4), dpi=120)
    axes = figure.add_axes((0.08, 0.05, 0.88, 0.86))
    axes.set_facecolor("#e3bd74")
    for line in range(size):
        axes.plot([0, size - 1], [line, line], color="black", linewidth=0.7, zorder=1)
        axes.plot([line, line], [0, size - 1], color="black", linewidth=0.7, zorder=1)
    stars = STAR_LINES.get(size, ())
    axes.scatter(
        [x for x in stars for _ in stars], [y for _ in stars for y in stars], s=14, c="black",
        zorder=2,
    )  # fmt: skip
    _draw_stones(axes, board, owner, moves, size)
    axes.set_xticks(range(size), COLUMNS[:size])
    axes.set_yticks(range(size), [str(size - row) for row in range(size)])
    axes.tick_params(length=0)
    axes.set_xlim(-0.6, size - 0.4)
    axes.set_ylim(size - 0.4, -0.6)
    axes.set_aspect("equal")
    axes.set_title(f"{title} ({len(moves)} moves)" if title else f"{len(moves)} moves", fontsize=9)
    figure.savefig(path)


def _draw_stones(
    axes: object, board: np.ndarray, owner: np.ndarray, moves: Sequence[int] | np.ndarray, size: int
) -> None:
    from matplotlib.patches import Circle, Rectangle

    number = {int(action): i + 1 for i, action in enumerate(moves)}
    add = axes.add_patch  # type: ignore[attr-defined]
    for action in range(size * size):
        y, x = divmod(action, size)
        cell = go.cell_of(action, size)
        colour = board[go.COLOUR, cell]
        if owner[cell]:
            face = "black" if owner[cell] == go.BLACK else "white"
            add(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=face, alpha=0.25, linewidth=0))
        if colour == go.EMPTY:
            continue
        face, ink = ("black", "white") if colour == go.BLACK else ("white", "black")
        add(Circle((x, y), 0.46, facecolor=face, edgecolor="black", linewidth=0.6, zorder=3))
        axes.text(x, y, str(number[action]), color=ink, fontsize=7, ha="center", va="center",  # type: ignore[attr-defined]
                  zorder=4)  # fmt: skip
