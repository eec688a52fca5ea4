"""The GTP player: its answers, files, handicaps, dead stones, and a game against GNU Go."""

import io
import subprocess

import numpy as np
import pytest

from datamodules.selfplay.go import board as go
from datamodules.selfplay.go.gtp import Player
from datamodules.selfplay.go.sgf import (
    action_of,
    handicap_points,
    vertex,
)
from tests.datamodules.selfplay.go.slow_go import SlowGo


def equal_priors(planes):
    actions = planes.shape[2] ** 2 + 1
    return np.full((len(planes), actions), 1 / actions, np.float32), np.zeros(
        len(planes), np.float32
    )


def test_gtp_answers_as_the_protocol_says():
    player = Player(equal_priors, 5, readouts=20)
    assert player.answer("protocol_version") == "= 2\n\n"
    assert player.answer("7 name") == "=7 finishline\n\n"
    assert player.answer("") is None
    assert player.answer("# only a remark") is None
    assert player.answer("boardsize 9") == "? unacceptable size\n\n"
    assert player.answer("boardsize 5") == "=\n\n"
    assert player.answer("play b C3") == "=\n\n"
    assert player.answer("play w C3") == "? illegal move\n\n"
    assert player.answer("play w Z9") == "? illegal move\n\n"
    assert player.answer("12 dance") == "?12 unknown command\n\n"
    assert player.answer("play") == "? syntax error\n\n"
    assert player.answer("known_command genmove") == "= true\n\n"
    answer = player.answer("genmove w")
    assert answer.startswith("= ")
    assert len(player.moves) == 2
    assert player.answer("undo") == "=\n\n"
    assert player.moves == [12]
    assert "X" in player.answer("showboard")
    assert player.answer("final_score") == "= B+17.5\n\n"


def test_gtp_plays_a_whole_game_against_itself():
    player = Player(equal_priors, 5, readouts=12)
    out = io.StringIO()
    player.serve(["genmove b\n", "genmove w\n"] * 40 + ["quit\n", "name\n"], out)
    answers = out.getvalue().strip().split("\n\n")
    assert len(answers) == 81
    assert all(a.startswith("=") for a in answers)


def ask(player: Player, *commands: str) -> list[str]:
    """The answers without their empty line."""
    return [str(player.answer(command)).removesuffix("\n\n") for command in commands]


def test_gtp_lets_a_colour_move_twice_and_only_two_passes_in_a_row_end_the_game():
    player = Player(equal_priors, 5, readouts=12)
    assert ask(player, "play w c3", "play w c4", "play b pass") == ["="] * 3
    assert not player.game.is_over
    assert len(player.moves) == 3
    assert ask(player, "genmove b", "genmove b") != ["= PASS", "= PASS"]
    assert ask(player, "undo", "undo", "undo") == ["="] * 3
    assert player.moves == [action_of("C3", 5), action_of("C4", 5)]
    assert ask(player, "play w c3", "play w z9", "play w pass") == ["? illegal move"] * 2 + ["="]
    assert ask(player, "play w d4", "play w pass", "play b pass") == ["="] * 3
    assert player.game.is_over
    assert ask(player, "genmove b", "final_score") == ["= PASS", "= W+32.5"]
    assert ask(player, *["undo"] * 8)[-2:] == ["=", "? cannot undo"]


def test_gtp_searches_for_the_colour_that_it_is_asked_for():
    seen = []

    def watching(planes):
        seen.append(planes[0, 8].max())  # 1 where Black is to move
        return equal_priors(planes)

    player = Player(watching, 5, readouts=1)
    for colour, black in (("b", 1), ("b", 1), ("w", 0), ("w", 0), ("b", 1)):
        seen.clear()
        ask(player, f"genmove {colour}")
        assert seen == [black]


@pytest.mark.parametrize("word", ["55", "i5", "a0", "a26", "c", "3c", "c3c", "²", "Pas"])
def test_gtp_calls_what_is_no_vertex_a_syntax_error(word):
    player = Player(equal_priors, 5, readouts=1)
    assert ask(player, f"play b {word}", "play x c3", "play b z9") == [
        "? syntax error", "? syntax error", "? illegal move",
    ]  # fmt: skip


def test_gtp_answers_out_of_a_full_history_of_positions():
    player = Player(equal_priors, 5, readouts=2)
    short = np.zeros((1, 16), np.int64)
    go.add_to_history(short[0], player.game.info[go.HASH])
    player.game.trees = player.game.trees._replace(history=short)
    plain, rng = SlowGo(5), np.random.default_rng(0)
    for _ in range(60):
        action = int(rng.choice([a for a in range(25) if plain.legal(a)] or [25]))
        colour = "bw"[plain.to_play - 1]
        plain.play(action)
        assert ask(player, f"play {colour} {vertex(action, 5)}") == ["="]
        for other in range(25):
            legal = go.is_legal(
                player.game.board, player.game.info, player.game.trees.history[0], other
            )
            assert legal == plain.legal(other)
    assert ask(player, "reg_genmove b")[0].startswith("= ")
    assert player.game.trees.history.shape[1] >= 128


def test_a_full_table_of_positions_says_so():
    table = np.zeros(16, np.int64)
    slots = [go.add_to_history(table, key) for key in range(1, 16)]
    assert sorted(slots) == sorted(set(slots))
    assert min(slots) >= 0
    assert go.add_to_history(table, 99) == -1
    assert (table == 0).sum() == 1
    assert go.in_history(table, 5)
    assert not go.in_history(table, 99)


@pytest.mark.parametrize(
    ("size", "number", "places"),
    [
        (19, 3, "D4 Q16 D16"), (19, 7, "D4 Q16 D16 Q4 D10 Q10 K10"), (9, 5, "C3 G7 C7 G3 E5"),
        (9, 9, "C3 G7 C7 G3 C5 G5 E3 E7 E5"), (13, 2, "D4 K10"), (8, 4, "C3 F6 C6 F3"),
        (19, 10, ""), (19, 1, ""), (8, 5, ""), (7, 5, ""), (5, 2, ""),
    ],
)  # fmt: skip
def test_fixed_handicap_stands_where_the_protocol_says(size, number, places):
    assert " ".join(vertex(point, size) for point in handicap_points(number, size)) == places


def test_gtp_places_handicap_and_lets_white_move():
    player = Player(equal_priors, 7, readouts=2)
    assert ask(player, "fixed_handicap 2", "showboard")[0] == "= C3 E5"
    assert player.game.info[go.TO_PLAY] == go.WHITE
    assert ask(player, "undo", "fixed_handicap 2") == ["? cannot undo", "? board not empty"]
    assert ask(player, "clear_board", "place_free_handicap 9") == ["=", "= C3 E5 C5 E3"]
    assert ask(player, "clear_board", "set_free_handicap a1 A2 g7") == ["=", "="]
    stones = [a for a in range(49) if player.game.colour_at(a) == go.BLACK]
    assert stones == [action_of(word, 7) for word in ("G7", "A2", "A1")]
    assert ask(player, "play w c3", "undo", "play w a1") == ["=", "=", "? illegal move"]
    ask(player, "clear_board")
    assert ask(
        player, "set_free_handicap a1 a1", "set_free_handicap a1 pass", "set_free_handicap a1",
        "set_free_handicap a1 x9", "fixed_handicap 5", "fixed_handicap two",
    ) == ["? bad vertex list"] * 4 + ["? invalid number of stones", "? syntax error"]  # fmt: skip


SGF = r"""(;GM[1]FF[4]C[a \] ; (bracket\]]SZ[5]KM[3.5]HA[2]AB[aa][bb:bc]AW[ee]
;W[cc]C[x];B[dd](;W[];B[tt])(;W[aa]))"""


def test_gtp_loads_the_main_line_of_a_file(tmp_path):
    path, player = tmp_path / "a.sgf", Player(equal_priors, 5, readouts=2)
    path.write_bytes(SGF.replace("x", "\xe9").encode("latin-1"))
    assert ask(player, f"loadsgf {path}") == ["="]
    assert player.moves == [12, 18, 25, 25]
    assert player.game.komi == 3.5
    assert [player.game.colour_at(a) for a in (0, 6, 11, 24, 12, 18)] == [1, 1, 1, 2, 2, 1]
    assert ask(player, f"loadsgf {path} 2") == ["="]
    assert player.moves == [12]
    assert player.game.info[go.TO_PLAY] == go.BLACK
    for text, first in (
        (SGF, go.WHITE),
        ("(;SZ[5]AB[aa])", go.WHITE),
        ("(;SZ[5]AB[aa]PL[B])", go.BLACK),
    ):
        path.write_text(text)
        assert ask(player, f"loadsgf {path} 1") == ["="]
        assert player.game.info[go.TO_PLAY] == first


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("SZ[5]", "SZ[9]", ": has a board of 9, but the network is for 5 x 5"),
        ("SZ[5]", "SZ[x]", ": has a board of x, but the network is for 5 x 5"),
        ("KM[3.5]", "KM[nan]", ": has a komi 'nan' that is not a number"),
        ("W[cc]", "W[zz]", ": has a move 'zz' that is not on a board of 5 x 5"),
        ("W[cc]", "W[aa]", ": move 8 (A5) is illegal"), ("(;W[aa]))", "", ""),
        (";B[dd]", ";AB[dd]", ": changes the board in the middle of the game (AB, AW, AE)"),
        (SGF, "no game", ": is no SGF: it begins with (;"),
        (SGF, "(;C[" + "a" * 2**20 + "])", ": larger than 1 MiB"),
        ("AB[aa][bb:bc]", "AW[ab][ba]AB[aa]",
         ": a stone is set up where it has no liberty or another one is"),
    ],
)  # fmt: skip
def test_gtp_refuses_a_file_in_one_line_and_keeps_its_game(tmp_path, old, new, reason):
    path, player = tmp_path / "a.sgf", Player(equal_priors, 5, readouts=2)
    path.write_text(SGF.replace(old, new))
    ask(player, "play b b2")
    answer = ask(player, f"loadsgf {path}")
    assert answer == (["="] if not reason else [f"? cannot load file{reason}"])
    if reason:
        assert player.moves == [action_of("B2", 5)]
    assert ask(player, "loadsgf /nowhere.sgf", "loadsgf") == [
        "? cannot load file", "? syntax error",
    ]  # fmt: skip


def test_gtp_stops_a_search_when_its_time_is_over():
    asked = []

    def counting(planes):
        asked.append(len(planes))
        return equal_priors(planes)

    player = Player(counting, 5, readouts=200)
    for settings, limited in (
        (("time_settings 0 1 0",), False),  # no byo-yomi stones: no limit
        (("time_settings 0 0 0",), True),
        (("time_settings 3600 0 0", "time_left b 0 0"), True),
        (("time_settings 0 0 0", "time_left b 900 3"), False),
    ):
        asked.clear()
        assert ask(player, "clear_board", *settings) == ["="] * (1 + len(settings))
        ask(player, "genmove b")
        assert (sum(asked) < 20) == limited
    assert (
        ask(player, "time_settings 1 2", "time_settings 1 -2 3", "time_left b 3")
        == ["? syntax error"] * 3
    )
    ask(player, "time_settings 60 0 0", "genmove w")
    assert player._left[go.WHITE][0] < 60 == player._left[go.BLACK][0]


# White's stone C5 is dead in Black's territory.
DEAD = [f"play b {name}" for name in ("b5", "a4", "b4", "c4", "d4", "e4", "d5")] + ["play w c5"]


def test_gtp_lists_what_is_dead_by_the_score():
    player = Player(equal_priors, 5, readouts=4)
    ask(player, *DEAD[:5], "play b e4", "play w e1", "play w c5")
    assert ask(player, "final_status_list dead") == ["= C5"]
    assert ask(player, "final_status_list alive") == ["= B5 A4 B4 C4 D4 E4\nE1"]
    assert ask(player, "final_status_list seki", "final_status_list x") == ["=", "? syntax error"]


def test_gtp_clears_dead_stones_after_the_game_and_then_passes():
    player = Player(equal_priors, 5, readouts=8)
    ask(player, *DEAD[:5], "play b e4", "play w c5", "play b pass", "play w pass")
    assert player.game.is_over
    assert ask(player, "kgs-genmove_cleanup b")[0] in ("= D5", "= E5")
    for _ in range(3):
        if not player.game.colour_at(action_of("C5", 5)):
            break
        ask(player, "kgs-genmove_cleanup b")
    assert player.game.colour_at(action_of("C5", 5)) != go.WHITE
    assert ask(player, "final_status_list dead") == ["="]


def test_gtp_suggests_a_move_without_playing_it():
    player = Player(equal_priors, 5, readouts=8)
    ask(player, "play b c3")
    for colour in "bw":
        assert ask(player, f"reg_genmove {colour}")[0].startswith("= ")
        assert player.moves == [12]
        assert player.game.info[go.TO_PLAY] == go.WHITE


def test_gtp_goes_on_when_asked_about_quit_and_reads_lines_as_the_protocol_says():
    player, out = Player(equal_priors, 5, readouts=12), io.StringIO()
    lines = [
        "# quit",
        "known_command quit",
        "na\x01me\r",
        "komi x",
        "komi nan",
        "boardsize x",
        "quit",
        "name",
    ]
    player.serve([f"{line}\n" for line in lines], out)
    assert out.getvalue().split("\n\n") == [
        "= true", "= finishline", "? komi not a float", "? komi not a float",
        "? unacceptable size", "=", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"readouts": 0}, "at least 1, got 0"), ({"komi": float("nan")}, "finite, got nan")],
)
def test_gtp_refuses_no_search_and_no_komi(settings, message):
    with pytest.raises(ValueError, match=message):
        Player(equal_priors, 5, **settings)


@pytest.mark.slow
def test_gtp_plays_gnu_go_to_the_end():
    import shutil

    gnugo = shutil.which("gnugo") or shutil.which("gnugo", path="/usr/games")
    if gnugo is None:
        pytest.skip("gnugo is not installed (Debian: apt-get install gnugo)")
    player = Player(equal_priors, 9, readouts=30)
    args = [gnugo, "--mode", "gtp", "--level", "1", "--boardsize", "9",
            "--komi", "7.5", "--seed", "1"]  # fmt: skip
    with subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:

        def ask(line: str) -> str:
            other.stdin.write(line + "\n")
            other.stdin.flush()
            lines = iter(other.stdout.readline, "\n")
            return " ".join(text.strip() for text in lines)

        passes = moves = 0
        while passes < 2 and moves < 300:
            name, colour = ("finishline", "b") if moves % 2 == 0 else ("gnugo", "w")
            if name == "finishline":
                move = player.answer(f"genmove {colour}")[2:].strip()
                assert ask(f"play {colour} {move}").startswith("=")
            else:
                move = ask(f"genmove {colour}")[2:].strip()
                if move.lower() == "resign":
                    break
                assert player.answer(f"play {colour} {move}").startswith("=")
            passes = passes + 1 if move.upper() == "PASS" else 0
            moves += 1
        for colour, number in (("black", go.BLACK), ("white", go.WHITE)):
            board = player.game.board[go.COLOUR]
            stones = {vertex(a, 9) for a in range(81) if board[go.cell_of(a, 9)] == number}
            assert set(ask(f"list_stones {colour}")[1:].split()) == stones
        ask("quit")
    assert moves > 20
    assert passes == 2 or move.lower() == "resign"
