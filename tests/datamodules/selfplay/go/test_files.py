"""Records, SGF, the picture and the GTP player."""

import io
import struct
import subprocess
import zlib
from dataclasses import replace

import numpy as np
import pytest

from datamodules.selfplay.demo import first_games
from datamodules.selfplay.go import board as go
from datamodules.selfplay.go import records
from datamodules.selfplay.go.games import MatchGame
from datamodules.selfplay.go.gtp import Player
from datamodules.selfplay.go.picture import draw_board
from datamodules.selfplay.go.records import game_examples, masked_crc, read_game, write_game
from datamodules.selfplay.go.sgf import action_of, clearest_win, game_text, vertex


@pytest.fixture(scope="module")
def game():
    return first_games(5, 7.5, 2)[0]


def equal_priors(planes):
    actions = planes.shape[2] ** 2 + 1
    return np.full((len(planes), actions), 1 / actions, np.float32), np.zeros(
        len(planes), np.float32
    )


def test_checksum_is_the_published_one():
    # RFC 3720, B.4: CRC-32C of 32 zero bytes is 0x8a9136aa; TFRecord turns and shifts it.
    crc = 0x8A9136AA
    assert masked_crc(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_game_records_come_back_as_written(game, tmp_path):
    write_game(tmp_path / "a.tfrecord.zz", game)
    back = read_game(tmp_path / "a.tfrecord.zz", 5)
    assert (back.planes == game.planes).all()
    assert back.planes.shape == (len(game.moves), 13, 4)
    assert all((a == b).all() for a, b in zip(back, game_examples([game], 5), strict=True))
    assert (back.pi == game.pi).all()
    assert (back.outcome == game.outcome).all()
    assert len(back.outcome) == len(game.moves)


@pytest.mark.parametrize("damage", ["short", "cut", "bit", "text"])
def test_damaged_record_is_refused_in_one_line(game, tmp_path, damage):
    path = tmp_path / "a.tfrecord.zz"
    write_game(path, game)
    content = path.read_bytes()
    if damage == "short":
        path.write_bytes(content[:-20])
    elif damage == "cut":
        plain = zlib.decompress(content)
        path.write_bytes(zlib.compress(plain[:-3]))
    elif damage == "bit":
        plain = bytearray(zlib.decompress(content))
        plain[40] ^= 1
        path.write_bytes(zlib.compress(bytes(plain)))
    else:
        path.write_text("no record")
    with pytest.raises(ValueError, match=r"a\.tfrecord\.zz: not a readable record") as caught:
        read_game(path, 5)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("; unpack checkpoint.tar.gz again")


def test_a_record_whose_planes_are_no_bits_is_refused(game, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "unpack_planes", lambda bits, size: np.full((13, 25), 7, np.uint8))
    write_game(tmp_path / "a.tfrecord.zz", game)
    with pytest.raises(ValueError, match="a.tfrecord.zz: its planes contain 7; only 0 and 1"):
        read_game(tmp_path / "a.tfrecord.zz", 5)


def test_a_record_of_another_board_or_of_no_game_is_refused(game, tmp_path):
    path = tmp_path / "a.tfrecord.zz"
    write_game(path, game)
    with pytest.raises(ValueError, match="its board is 5 x 5 but data.size is 9"):
        read_game(path, 9)
    write_game(path, replace(game, pi=game.pi[:, 1:]))
    with pytest.raises(ValueError, match="its pi has 25 values but the board has 26 moves"):
        read_game(path, 5)
    message = records._example({"label": records._int(3)})
    length = struct.pack("<Q", len(message))
    checks = (struct.pack("<I", masked_crc(part)) for part in (length, message))
    path.write_bytes(zlib.compress(length + next(checks) + message + next(checks)))
    with pytest.raises(ValueError, match="not a record of a game: 'outcome' is missing"):
        read_game(path, 5)


@pytest.mark.parametrize(
    ("size", "action", "name"),
    [(5, 0, "A5"), (5, 24, "E1"), (9, 8, "J9"), (19, 19 * 18, "A1"), (5, 25, "PASS")],
)
def test_vertex_names(size, action, name):
    assert vertex(action, size) == name
    assert action_of(name.lower(), size) == action


@pytest.mark.parametrize("name", ["I5", "F1", "A6", "A0", "5A", ""])
def test_bad_vertex_is_refused(name):
    with pytest.raises(ValueError, match="not a point of a 5 x 5 board"):
        action_of(name, 5)


def test_sgf_names_players_result_and_moves():
    text = game_text([12, 13, 25, 25], 5, 7.5, players=("a", "b"), outcome=-1.0)
    assert text.startswith("(;FF[4]GM[1]")
    assert "SZ[5]KM[7.5]" in text
    assert "RE[W+7.5]" in text
    assert ";B[cc];W[dc];B[];W[])" in text


def test_clearest_win_looks_from_the_candidates_side():
    black_only = np.array([12, 25, 25])
    games = [MatchGame(0, black_only, 1.0), MatchGame(1, black_only, 1.0)]
    assert clearest_win(games, 5, 7.5).number == 0
    assert clearest_win([], 5, 7.5) is None


def test_picture_is_a_png_with_stones(game, tmp_path):
    draw_board(game.moves, 5, tmp_path / "board.png")
    assert (tmp_path / "board.png").read_bytes().startswith(b"\x89PNG")


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


def test_gtp_takes_back_the_pass_of_a_move_out_of_turn():
    player = Player(equal_priors, 5, readouts=12)
    for command, answer in (("play w c3", "="), ("undo", "="), ("play w z9", "? illegal move")):
        assert player.answer(command).strip() == answer
    player.answer("play b c3")
    assert player.answer("play b c3").strip() == "? illegal move"  # and White has not passed
    assert len(player.moves) == 1
    assert player.answer("genmove w") != "= PASS\n\n"
    player.answer("undo")
    assert player.moves == [action_of("C3", 5)]
    player.answer("undo")
    assert player.answer("undo").strip() == "? cannot undo"


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
            board = player._trees.board[player._trees.root[0], go.COLOUR]
            stones = {vertex(a, 9) for a in range(81) if board[go.cell_of(a, 9)] == number}
            assert set(ask(f"list_stones {colour}")[1:].split()) == stones
        ask("quit")
    assert moves > 20
    assert passes == 2 or move.lower() == "resign"
