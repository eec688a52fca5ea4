"""The rules: golden positions, and random games against a plain implementation."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from datamodules.selfplay.go import board as go
from datamodules.selfplay.go.features import symmetries, write_planes
from datamodules.selfplay.go.games import SelfPlay, uniform_network
from datamodules.selfplay.go.moves import Rules
from datamodules.selfplay.go.score import area_score, pass_alive
from datamodules.selfplay.go.sgf import action_of, replay
from tests.datamodules.selfplay.go.fuzz import RIGHT, WORDS, fuzz
from tests.datamodules.selfplay.go.random_games import random_games
from tests.datamodules.selfplay.go.slow_go import SlowGo


def set_up(picture: str, to_play: int = go.BLACK) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A position from rows of ``.XO``, built by moves and passes."""
    rows = picture.split()
    size = len(rows)
    board, info, history = go.new_position(size)
    for colour, letter in ((go.BLACK, "X"), (go.WHITE, "O")):
        for action, char in enumerate("".join(rows)):
            if char == letter:
                info[go.TO_PLAY] = colour
                assert go.is_legal(board, info, history, action)
                go.play(board, info, action)
                go.add_to_history(history, info[go.HASH])
    info[go.TO_PLAY] = to_play
    return board, info, history


def try_move(position: tuple[np.ndarray, np.ndarray, np.ndarray], name: str) -> int:
    """Play a move if it is legal and give the captured stones; -1 if it is illegal."""
    board, info, history = position
    action = action_of(name, int(info[go.SIZE]))
    if not go.is_legal(board, info, history, action):
        return -1
    captured = go.play(board, info, action)
    go.add_to_history(history, info[go.HASH])
    return captured


def owners(picture: str, benson: bool = False) -> str:
    """Pass-alive owners of a position as rows of ``.XO``."""
    board, info, _ = set_up(picture)
    owner = np.zeros(board.shape[1], np.int8)
    pass_alive(board, info, owner, benson)
    size = int(info[go.SIZE])
    return "".join(".XO"[owner[go.cell_of(a, size)]] for a in range(size * size))


def test_single_stone_suicide_is_illegal_for_one_side_only():
    picture = ".X... X.... ..... ..... ....."
    assert try_move(set_up(picture, go.WHITE), "A5") == -1
    assert try_move(set_up(picture, go.BLACK), "A5") == 0


def test_multi_stone_suicide_is_illegal_and_the_capture_there_legal():
    picture = ".OX.. XX... ..... ..... ....."
    assert try_move(set_up(picture, go.WHITE), "A5") == -1
    assert try_move(set_up(picture, go.BLACK), "A5") == 1


def test_simple_ko_may_not_be_retaken_at_once_but_after_another_move():
    position = set_up(".XO.. X.XO. .XO.. ..... .....", go.WHITE)
    assert try_move(position, "B4") == 1
    assert try_move(position, "C4") == -1
    assert try_move(position, "E1") == 0
    assert try_move(position, "E2") == 0
    assert try_move(position, "C4") == 1


def test_snapback_takes_the_takers():
    position = set_up("..OX. OOOX. XXXX. ..... .....")
    assert try_move(position, "B5") == 0
    assert try_move(position, "A5") == 1
    assert try_move(position, "B5") == 5


def test_sending_two_returning_one_is_barred_by_superko():
    position = set_up(".X.X. OOX.. ..... ..... .....")
    assert try_move(position, "A5") == 0
    assert try_move(position, "C5") == 2
    assert try_move(position, "B5") == -1  # it would take one and bring the first position back
    assert try_move(position, "E1") == 0
    assert try_move(position, "E2") == 0
    assert try_move(position, "B5") == 1


def test_in_a_seki_whoever_moves_first_is_captured_and_the_shared_points_are_nobodys():
    picture = "XX.OO XXXOO XXXOO XXXOO XX.OO"
    assert owners(picture) == "." * 25
    board, info, _ = set_up(picture)
    assert area_score(board, info, 0.5) == 13 - 10 - 0.5
    for first, second, stones in ((go.BLACK, go.WHITE, 14), (go.WHITE, go.BLACK, 11)):
        position = set_up(picture, first)
        assert try_move(position, "C5") == 0
        assert position[1][go.TO_PLAY] == second
        assert try_move(position, "C1") == stones


def test_no_position_comes_twice_in_a_long_game():
    board, info, history = go.new_position(5)
    seen = set()
    rng = np.random.default_rng(3)
    legal = np.zeros(26, np.uint8)
    for _ in range(400):
        go.legal_moves(board, info, history, legal)
        moves = np.flatnonzero(legal[:25])
        action = int(rng.choice(moves)) if len(moves) else 25
        go.play(board, info, action)
        stones = board[go.COLOUR].tobytes()
        if action < 25:
            assert stones not in seen
            seen.add(stones)
            go.add_to_history(history, info[go.HASH])


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (".X.X. XXXX. ..... ..... .....", "X.X......................"),  # two eyes
        (".X... XX... ..... ..... .....", "........................."),  # one eye
        (".X.X. XX.X. ..... ..... .....", "........................."),  # two chains, one eye each
        ("O.X.. XXXXX ..... ..... .....", "XX.XX...................."),  # a dead stone in an eye
    ],
)
@pytest.mark.parametrize("benson", [False, True])
def test_what_two_eyes_make_alive(picture, expected, benson):
    game = SlowGo(5)
    for action, char in enumerate("".join(picture.split())):
        if char != ".":
            game.stones[action] = ".XO".index(char)
    alive = game.pass_alive(1, benson)
    assert "".join("X" if p in alive else "." for p in range(25)) == expected
    assert owners(picture, benson) == expected


# Black's chain B5 has one vital region at most and is dropped. It borders C5 D5 only at White's
# stone C5, so by the reference's rule that region stays vital to the two chains around E4.
BORDERED_AT_A_STONE = ".XO.X ..XX. ...XX .O... .OO.."


def test_a_region_goes_with_a_dropped_chain_that_has_a_liberty_in_it_as_in_the_reference():
    assert owners(BORDERED_AT_A_STONE) == ".........X..............."
    assert owners(BORDERED_AT_A_STONE, benson=True) == "." * 25
    with_a_liberty = BORDERED_AT_A_STONE.replace(".XO.X", ".X..X")
    assert owners(with_a_liberty) == owners(with_a_liberty, benson=True) == "." * 25


def plain(board: np.ndarray, info: np.ndarray) -> SlowGo:
    """The same stones in plain sets."""
    size = int(info[go.SIZE])
    game = SlowGo(size)
    for action in range(size * size):
        if colour := int(board[go.COLOUR, go.cell_of(action, size)]):
            game.stones[action] = colour
    return game


def check_both_rules(board: np.ndarray, info: np.ndarray) -> tuple[bool, bool]:
    """Compare owners and score with the plain ones; give whether they differ between the rules."""
    game, size, seen = plain(board, info), int(info[go.SIZE]), []
    for benson in (False, True):
        owner = np.zeros(board.shape[1], np.int8)
        pass_alive(board, info, owner, benson)
        score = area_score(board, info, 7.5, benson)
        points = {a: int(owner[go.cell_of(a, size)]) for a in range(size * size)}
        for colour in (go.BLACK, go.WHITE):
            expected = game.pass_alive(colour, benson)
            assert {a for a, who in points.items() if who == colour} == expected
        assert score == game.score(7.5, benson)
        seen.append((points, score))
    return seen[0][0] != seen[1][0], seen[0][1] != seen[1][1]


def check_games(size: int, games: Iterable[Iterable[int]]) -> tuple[int, int]:
    """Check the positions in which the two rules may differ; count those where they do."""
    owners_differ = scores_differ = 0
    for moves in games:
        board, info, history = go.new_position(size)
        one, other = (np.zeros(board.shape[1], np.int8) for _ in range(2))
        for number, action in enumerate(moves):
            go.play(board, info, action)
            pass_alive(board, info, one, False)
            pass_alive(board, info, other, True)
            if (one != other).any() or number % 50 == 0:
                differ = check_both_rules(board, info)
                owners_differ, scores_differ = owners_differ + differ[0], scores_differ + differ[1]
    return owners_differ, scores_differ


def random_moves(size: int, rng: np.random.Generator) -> Iterator[int]:
    """Random legal moves, passes only now and then."""
    board, info, history = go.new_position(size)
    legal = np.zeros(size * size + 1, np.uint8)
    while info[go.PASSES] < 2 and info[go.PLIES] < 4 * size * size:
        go.legal_moves(board, info, history, legal)
        points = np.flatnonzero(legal[:-1])
        action = int(rng.choice(points)) if len(points) and rng.random() > 0.01 else size * size
        go.play(board, info, action)
        go.add_to_history(history, info[go.HASH])
        yield action


@pytest.mark.parametrize(("size", "games"), [(5, 30), (7, 6), (9, 4)])
def test_both_pass_alive_rules_agree_with_plain_sets_where_they_differ(size, games):
    rng = np.random.default_rng(size)
    owners_differ, scores_differ = check_games(
        size, (random_moves(size, rng) for _ in range(games))
    )
    assert owners_differ > 10
    assert scores_differ > 2


def test_both_rules_agree_with_plain_sets_in_games_of_the_search():
    rules = Rules(slow_readouts=8, fast_share=0.0, resign_low=-2.0, resign_high=-2.0, max_plies=150)
    player = SelfPlay(7, 7.5, 8, rules, seed=2, virtual_losses=2, allow_pass=False)
    games = player.play(uniform_network, 12)
    owners_differ, _ = check_games(7, ([int(a) for a in game.moves] for game in games))
    assert owners_differ > 0


def test_points_between_the_colours_are_nobodys():
    board, info, _ = set_up("XX.OO XX.OO XX.OO XX.OO XX.OO")
    assert area_score(board, info, 0.5) == -0.5


def test_dead_stones_in_a_pass_alive_region_are_their_owners():
    # White's stone in the right region cannot live; without Benson it would count for White.
    board, info, _ = set_up(".X..O XXXXX ..... ..... .....")
    game = SlowGo(5)
    for action, char in enumerate(".X..OXXXXX..............."):
        if char != ".":
            game.stones[action] = ".XO".index(char)
    assert area_score(board, info, 0.0) == game.score(0.0) == 25.0


@pytest.mark.parametrize(("size", "games"), [(5, 12), (6, 5), (9, 3)])
def test_random_games_agree_with_plain_sets(size, games):
    rng = np.random.default_rng(size)
    identity = symmetries(size)[0]
    planes = np.zeros((13, size * size), np.uint8)
    for _ in range(games):
        board, info, history = go.new_position(size)
        slow, past = SlowGo(size), []
        legal = np.zeros(size * size + 1, np.uint8)
        while slow.passes < 2 and slow.plies < 3 * size * size:
            go.legal_moves(board, info, history, legal)
            expected = [slow.legal(a) for a in range(size * size + 1)]
            assert legal.tolist() == expected
            old = np.zeros((3, board.shape[1]), np.int16)
            for i, colours in enumerate(past[:3]):
                old[i] = colours
            write_planes(planes, board, info, old, min(3, len(past)), legal, identity)
            assert (planes == slow.planes()).all()
            if slow.plies % 7 == 0:
                assert area_score(board, info, 7.5) == slow.score(7.5)
            past.insert(0, board[go.COLOUR].copy())
            # Passes only now and then, so that games get long and full of captures.
            moves = np.flatnonzero(legal[:-1])
            action = int(rng.choice(moves)) if len(moves) and rng.random() > 0.01 else size * size
            go.play(board, info, action)
            go.add_to_history(history, info[go.HASH])
            slow.play(action)
        assert area_score(board, info, 7.5) == slow.score(7.5)


def test_counts_of_move_sequences_equal_plain_ones():
    def fast(board, info, history, depth):
        legal = np.zeros(26, np.uint8)
        count = go.legal_moves(board, info, history, legal)
        if depth == 1:
            return count
        total = 0
        for action in np.flatnonzero(legal):
            b, i, h = board.copy(), info.copy(), history.copy()
            go.play(b, i, int(action))
            go.add_to_history(h, i[go.HASH])
            total += fast(b, i, h, depth - 1)
        return total

    def slow(game, depth):
        moves = [a for a in range(26) if game.legal(a)]
        if depth == 1:
            return len(moves)
        total = 0
        for action in moves:
            child = game.copy()
            child.play(action)
            total += slow(child, depth - 1)
        return total

    assert fast(*go.new_position(5), 2) == 25 * 25 + 26  # 25 replies to a stone, 26 to a pass
    board, info, history = go.new_position(5)
    game, rng = SlowGo(5), np.random.default_rng(11)
    for _ in range(40):
        action = int(rng.choice([a for a in range(25) if game.legal(a)] or [25]))
        game.play(action)
        go.play(board, info, action)
        go.add_to_history(history, info[go.HASH])
    assert info[go.CAPTURES] > 5
    assert fast(board, info, history, 3) == slow(game, 3)


def check_recomputed(board: np.ndarray, info: np.ndarray) -> None:
    """Assert hash, chains and liberties from nothing but the colours."""
    size = int(info[go.SIZE])
    game = SlowGo(size)
    key = go.EMPTY_BOARD
    cells = [go.cell_of(a, size) for a in range(size * size)]
    for action, cell in enumerate(cells):
        if colour := int(board[go.COLOUR, cell]):
            game.stones[action] = colour
            key ^= int(go.ZOBRIST[colour, cell])
    assert key == info[go.HASH]
    for action in game.stones:
        chain, free = game.chain(game.stones, action)
        head = board[go.HEAD, cells[action]]
        assert {board[go.HEAD, cells[p]] for p in chain} == {head}
        assert board[go.LIBS, head] == len(free) > 0


@pytest.mark.parametrize("size", [5, 9, 13, 19])
def test_chains_and_hash_stay_true_in_long_random_games(size):
    rng = np.random.default_rng(7)
    board, info, history = go.new_position(size)
    legal = np.zeros(size * size + 1, np.uint8)
    for ply in range(8 * size * size):
        go.legal_moves(board, info, history, legal)
        moves = np.flatnonzero(legal[:-1])
        action = int(rng.choice(moves)) if len(moves) else size * size
        go.play(board, info, action)
        go.add_to_history(history, info[go.HASH])
        if ply % (size * 4) == 0:
            check_recomputed(board, info)


@pytest.mark.parametrize(("size", "moves"), [(5, 400_000), (9, 400_000), (19, 200_000)])
def test_a_million_random_moves_agree_with_a_plain_board(size, moves):
    board, info, history = go.new_position(size)
    wrong, captures = fuzz(board, info, history, np.zeros(size * size + 1, np.uint8), moves, size)
    assert wrong == RIGHT, WORDS[wrong]
    assert captures > moves / 4


def test_the_plain_board_notices_a_wrong_engine():
    board, info, history = go.new_position(9)
    board[go.LIBS, :] += 1  # liberties start off by one
    wrong, _ = fuzz(board, info, history, np.zeros(82, np.uint8), 200, 1)
    assert wrong != RIGHT


@pytest.mark.speed
@pytest.mark.slow
def test_engine_plays_100000_moves_a_second_on_19x19():
    import time

    random_games(19, 100, 1)
    best = 0.0
    for seed in range(3):
        start = time.thread_time()
        games, captured = random_games(19, 100_000, seed + 2)
        best = max(best, 100_000 / (time.thread_time() - start))
    assert games > 50
    assert captured > 10_000
    assert best >= 100_000, f"{best:.0f} moves/s"


def test_replay_refuses_an_illegal_move():
    with pytest.raises(ValueError, match="move 2 .C3. is illegal"):
        replay([12, 12], 5)


@pytest.mark.parametrize("size", [4, 20])
def test_board_size_outside_5_to_19_is_refused(size):
    with pytest.raises(ValueError, match=f"got {size}"):
        go.new_position(size)
