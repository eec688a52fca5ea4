"""Game records, SGF and the picture."""

import re
import struct
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest

from datamodules.selfplay.demo import first_games
from datamodules.selfplay.go import records
from datamodules.selfplay.go.games import MatchGame
from datamodules.selfplay.go.picture import draw_board
from datamodules.selfplay.go.records import game_examples, masked_crc, read_game, write_game
from datamodules.selfplay.go.sgf import (
    action_of,
    clearest_win,
    game_text,
    vertex,
)


@pytest.fixture(scope="module")
def game():
    return first_games(5, 7.5, 2)[0]


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


def test_a_point_with_two_stones_is_refused(game, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "unpack_planes", lambda bits, size: np.ones((13, 25), np.uint8))
    write_game(tmp_path / "a.tfrecord.zz", game)
    with pytest.raises(ValueError, match=r"a\.tfrecord\.zz: example 1 has stones of both colours"):
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
    ("pi", "outcome", "words"),
    [
        (np.nan, 1, "pi of example 3 is not a distribution over the moves: its least value is n"),
        (0, 1, "pi of example 3 is not a distribution over the moves: its least value is 0, its s"),
        (-1, 1, "least value is -1, its sum -26"), (5, 1, "least value is 5, its sum 130"),
        (np.inf, 1, "its sum inf"), (1 / 26, 0, "its outcome is 0; a game has 1"),
        (1 / 26, np.nan, "its outcome is nan"), (1 / 26, 37, "its outcome is 37"),
    ],
)  # fmt: skip
def test_values_that_no_game_has_are_refused_in_one_line(game, tmp_path, pi, outcome, words):
    values = game.pi.copy()
    values[2] = pi
    write_game(tmp_path / "a.tfrecord.zz", replace(game, pi=values, outcome=outcome))
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        read_game(tmp_path / "a.tfrecord.zz", 5)
    assert str(caught.value).startswith(f"{tmp_path}/a.tfrecord.zz: ")
    assert "\n" not in str(caught.value)


def test_a_game_has_one_outcome(game, tmp_path):
    for number, outcome in enumerate((1.0, -1.0)):
        write_game(tmp_path / f"{number}", replace(game, outcome=outcome))
    content = [zlib.decompress((tmp_path / name).read_bytes()) for name in "01"]
    (tmp_path / "a").write_bytes(zlib.compress(b"".join(content)))
    with pytest.raises(ValueError, match="its outcome is both 1 and -1"):
        read_game(tmp_path / "a", 5)


def test_a_record_that_unpacks_without_end_is_refused_before_it_fills_the_memory(tmp_path):
    path = tmp_path / "a.tfrecord.zz"
    path.write_bytes(zlib.compress(bytes(2**28)))
    tracemalloc.start()
    with pytest.raises(ValueError, match="unpacks to more than 16 MiB, which"):
        read_game(path, 5)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_bytes_behind_a_record_and_a_wrong_length_are_refused(game, tmp_path):
    path = tmp_path / "a.tfrecord.zz"
    write_game(path, game)
    content = path.read_bytes()
    path.write_bytes(content + b"more")
    with pytest.raises(ValueError, match="4 bytes after its end"):
        read_game(path, 5)
    plain = bytearray(zlib.decompress(content))
    plain[9] ^= 1  # the checksum of the length
    path.write_bytes(zlib.compress(bytes(plain)))
    with pytest.raises(ValueError, match="its checksum is wrong"):
        read_game(path, 5)


@pytest.mark.parametrize("message", [b"\xff" * 1000, b"\x0a\x7fabc"])
def test_a_record_of_absurd_numbers_is_refused(tmp_path, message):
    length = struct.pack("<Q", len(message))
    checks = [struct.pack("<I", masked_crc(part)) for part in (length, message)]
    path = tmp_path / "a.tfrecord.zz"
    path.write_bytes(zlib.compress(length + checks[0] + message + checks[1]))
    with pytest.raises(ValueError, match="not a readable record of a game"):
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
    assert "RU[Mini Go, area with the reference's pass-alive regions]" in text
    assert "RU[Mini Go, area with Benson's" in game_text([12], 5, 7.5, outcome=1.0, benson=True)
    assert ";B[cc];W[dc];B[];W[])" in text


def test_clearest_win_looks_from_the_candidates_side():
    black_only = np.array([12, 25, 25])
    games = [MatchGame(0, black_only, 1.0), MatchGame(1, black_only, 1.0)]
    assert clearest_win(games, 5, 7.5).number == 0
    assert clearest_win([], 5, 7.5) is None


def test_picture_is_a_png_with_stones(game, tmp_path):
    draw_board(game.moves, 5, tmp_path / "board.png")
    assert (tmp_path / "board.png").read_bytes().startswith(b"\x89PNG")
