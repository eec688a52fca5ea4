"""Positions from SGF: main line, handicap, passes, and what is no position."""

import numpy as np
import pytest

from datamodules.selfplay.go import board as go
from datamodules.selfplay.go.picture import point_owners
from datamodules.selfplay.go.score import area_score
from datamodules.selfplay.go.sgf import action_of, replay
from datamodules.selfplay.go.sgf_reader import position_text, read_position


def random_moves(seed, size, count):
    """Random legal moves, no pass before there is no other."""
    rng = np.random.default_rng(seed)
    board, info, history = go.new_position(size)
    moves = []
    for _ in range(count):
        legal = [a for a in range(size * size) if go.is_legal(board, info, history, a)]
        moves.append(int(rng.choice(legal)) if legal else size * size)
        go.play(board, info, moves[-1])
        go.add_to_history(history, info[go.HASH])
    return moves


def at(*names):
    return [action_of(name, 5) for name in names]


def test_the_main_line_is_read_and_variations_are_not():
    text = "(;GM[1]SZ[5]KM[0.5]C[a (;B\\] comment];B[cc](;W[dc];B[bb])(;W[aa];B[ee]))"
    position = read_position(text, 5, 7.5)
    assert position.plays == list(zip("BWB", at("C3", "D3", "B4"), strict=True))
    assert (position.komi, position.to_play, position.setup) == (0.5, "W", 0)


def test_handicap_stones_and_rectangles_come_before_the_moves():
    position = read_position("(;SZ[5]AB[aa:ba][ee];W[cc])", 5, 7.5)
    assert position.setup == 3
    assert position.to_play == "B"
    board, _ = replay(position.actions(), 5)
    stones = [board[go.COLOUR, go.cell_of(action, 5)] for action in (0, 1, 24, 12)]
    assert stones == [go.BLACK] * 3 + [go.WHITE]
    black = read_position("(;SZ[5]AB[aa])", 5, 7.5)
    assert black.to_play == "W", "White moves after handicap stones"
    assert read_position("(;SZ[5]AB[aa]PL[B])", 5, 7.5).to_play == "B"


def test_final_passes_are_left_out():
    position = read_position("(;SZ[5];B[cc];W[];B[tt])", 5, 7.5)
    assert position.plays == [("B", 12)]
    assert position.to_play == "W"
    assert len(read_position("(;SZ[5];B[cc];W[])", 5, 7.5).plays) == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hello", "is no SGF"),
        ("(;GM[2]SZ[5])", "another kind"),
        ("(;SZ[9];B[aa])", "has a board of 9"),
        ("(;B[aa])", "has a board of 19"),
        ("(;SZ[5];B[zz])", "not on a board of 5 x 5"),
        ("(;SZ[5];B[aaa])", "not on a board of 5 x 5"),
        ("(;SZ[5];B[cc];W[cc])", r"move 2 \(C3\) is illegal"),
        ("(;SZ[5]KM[x];B[cc])", "not a number"),
        ("(;SZ[5];B[cc];AW[aa])", "in the middle of the game"),
    ],
)
def test_what_is_no_position_says_why(text, reason):
    with pytest.raises(ValueError, match=reason):
        read_position(text, 5, 7.5)


def test_a_written_position_is_read_back():
    position = read_position("(;SZ[5]KM[6.5]AB[aa]AW[ee];B[cc];W[])", 5, 7.5)
    again = read_position(position_text(position, at("D4")[0], "a ] and a \\"), 5, 0.0)
    assert again.plays == [*position.plays, ("B", at("D4")[0])]
    assert (again.komi, again.setup) == (6.5, 2)


def test_points_on_the_picture_are_those_of_the_score():
    """The sum over the points is the score that the engine counts, in 60 random positions."""
    for seed in range(60):
        board, info = replay(random_moves(seed, 5, 10 + seed), 5)
        owner = point_owners(board, info)
        assert (owner == 1).sum() - (owner == 2).sum() == area_score(board, info, 0.0)
        assert np.isin(owner, (0, 1, 2)).all()
