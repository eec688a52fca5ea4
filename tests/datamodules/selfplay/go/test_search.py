"""The search against the plain implementation of the same formulas, and its own rules."""

import ctypes
import math
import signal
import sys
import time
from contextlib import suppress

import numpy as np
import pytest

from datamodules.selfplay.go import board as go
from datamodules.selfplay.go import games as many_games
from datamodules.selfplay.go import moves as mv
from datamodules.selfplay.go import search
from datamodules.selfplay.go import tree as mcts
from datamodules.selfplay.go.features import symmetries
from datamodules.selfplay.go.games import MatchRules, SelfPlay, _interruptible, play_match
from tests.datamodules.selfplay.go.slow_go import SlowGo, SlowNode
from tests.datamodules.selfplay.go.test_rules import BORDERED_AT_A_STONE, set_up

SIZE, KOMI = 5, 7.5
RULES = mv.Rules(32, 8, 0.75, 0.43, 0.3, 2, 0.98, 10, -1.0, -0.9, 1, 100)


def noise_of(planes: np.ndarray) -> tuple[np.ndarray, float]:
    """Priors and value that depend on the position alone and are random to the eye."""
    seed = int.from_bytes(planes.astype(np.uint8).tobytes()[:325], "little") % (2**63)
    rng = np.random.default_rng(seed)
    priors = rng.dirichlet(np.full(26, 0.5)).astype(np.float32)
    return priors, np.float32(rng.uniform(-1, 1))


def fast_network(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    parts = [noise_of(p.reshape(13, 25)) for p in planes]
    return np.array([p for p, _ in parts]), np.array([v for _, v in parts], np.float32)


def slow_network(game: SlowGo) -> tuple[np.ndarray, float]:
    priors, value = noise_of(game.planes())
    return priors.astype(np.float64), float(value)


def position(moves: list[int]) -> tuple[mcts.Trees, SlowGo]:
    """The same game in a tree and in plain sets; every symmetry is the identity."""
    trees, game = mcts.make_trees(SIZE, 1, 4000, KOMI), SlowGo(SIZE)
    trees.sym[:] = trees.sym[0]
    for action in moves:
        mcts.advance(trees, 0, action)
        game.play(action)
    return trees, game


def run(trees: mcts.Trees, readouts: int, virtual_losses: int, tries: int) -> None:
    leaves = mcts.make_leaves(SIZE, virtual_losses)
    while trees.root_n[0] < readouts:
        count = search.select(trees, 0, readouts, virtual_losses, tries, leaves, 0)
        if count:
            planes = leaves.planes[:count].reshape(count, 13, SIZE, SIZE)
            search.expand(trees, leaves, 0, count, *fast_network(planes))


def random_opening(seed: int, plies: int) -> list[int]:
    game, rng = SlowGo(SIZE), np.random.default_rng(seed)
    moves = []
    for _ in range(plies):
        action = int(rng.choice([a for a in range(25) if game.legal(a)] or [25]))
        game.play(action)
        moves.append(action)
    return moves


@pytest.mark.parametrize(
    ("seed", "plies", "losses"), [(1, 0, 1), (2, 7, 4), (3, 30, 4), (4, 61, 2)]
)
def test_search_equals_the_plain_one(seed, plies, losses):
    moves = random_opening(seed, plies)
    trees, game = position(moves)
    root = SlowNode(game, None, 1.0, 0.0)
    run(trees, 150, losses, 16)
    root.search(slow_network, 150, losses, 16, KOMI)
    node = trees.root[0]
    assert trees.root_n[0] == root.n
    assert trees.n[node].tolist() == [root.children[a].n for a in range(26)]
    assert trees.w[node] == pytest.approx([root.children[a].w for a in range(26)], abs=1e-5)
    assert trees.root_w[0] == pytest.approx(root.w, abs=1e-5)


@pytest.mark.parametrize("n", [0, 1, 800])
def test_exploration_weight_follows_its_formula(n):
    assert search.exploration(n) == pytest.approx(2 * (math.log((1 + n + 19652) / 19652) + 1.25))


def test_pending_leaves_change_w_only_and_leave_no_trace():
    trees, _ = position([12])
    run(trees, 20, 1, 8)
    before_n, before_w = trees.n.copy(), trees.w.copy()
    leaves = mcts.make_leaves(SIZE, 4)
    count = search.select(trees, 0, 1000, 4, 8, leaves, 0)
    assert (trees.n == before_n).all()
    assert (trees.w != before_w).any()
    for place in range(count):
        search._virtual_loss(trees, 0, leaves.node[place], -1.0)
    assert trees.w == pytest.approx(before_w, abs=1e-12)


def test_a_leaf_twice_in_a_batch_is_backed_up_once():
    trees, _ = position([])
    run(trees, 1, 1, 8)
    leaves = mcts.make_leaves(SIZE, 2)
    search.select(trees, 0, 10, 1, 8, leaves, 0)
    leaves.node[1], leaves.tree[1], leaves.turn[1] = leaves.node[0], 0, leaves.turn[0]
    search._virtual_loss(trees, 0, leaves.node[0], 1.0)
    planes = np.stack([leaves.planes[0]] * 2).reshape(2, 13, SIZE, SIZE)
    priors, values = fast_network(planes)
    search.expand(trees, leaves, 0, 2, priors, values)
    assert trees.root_n[0] == 2


def always_pass(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Priors on the pass alone and a win of Black's, which any other move is worse than."""
    priors = np.zeros((len(planes), 26), np.float32)
    priors[:, 25] = 1.0
    return priors, np.ones(len(planes), np.float32)


def test_finished_games_fill_a_search_of_self_play_up_to_its_target_in_one_batch():
    rules = RULES._replace(slow_readouts=200, noise_mix=0.0, resign_low=-2.0, resign_high=-2.0)
    player = SelfPlay(SIZE, -KOMI, 1, rules, seed=1, virtual_losses=1)
    for _ in range(2):  # the root, then White's answer to a pass
        player.step(always_pass)
    assert player._trees.root_n[0] == 2
    player.step(always_pass)  # from here on both pass: no leaf waits for the network
    assert player.readouts == 2
    assert player._trees.info[player._trees.root[0], go.PLIES] == 1


def test_nodes_run_out_in_the_midst_of_a_batch_without_a_trace(monkeypatch):
    settings = {"seed": 3, "virtual_losses": 2}
    plenty = SelfPlay(SIZE, KOMI, 8, RULES, **settings).play(fast_network, 6)
    monkeypatch.setattr(many_games, "initial_nodes", lambda games_at_once, rules: 1)
    grown = []
    monkeypatch.setattr(mcts, "grow", lambda trees, grow=mcts.grow: grown.append(1) or grow(trees))
    few = SelfPlay(SIZE, KOMI, 8, RULES, **settings).play(fast_network, 6)
    assert len(grown) > 3
    assert [g.moves.tolist() for g in few] == [g.moves.tolist() for g in plenty]


def test_a_match_descends_twice_per_virtual_loss_as_the_reference_does():
    assert MatchRules().tries == 8
    assert MatchRules(virtual_losses=2).tries == 4
    trees, _ = position([25])
    trees.komi[0] = -KOMI
    run_with(trees, always_pass, 1)
    leaves = mcts.make_leaves(SIZE, 2)
    before = int(trees.root_n[0])
    search.select(trees, 0, 1000, 2, MatchRules(virtual_losses=2).tries, leaves, 0)
    assert trees.root_n[0] - before == 4


def run_with(trees: mcts.Trees, network, readouts: int) -> None:
    leaves = mcts.make_leaves(SIZE, 1)
    count = search.select(trees, 0, int(trees.root_n[0]) + readouts, 1, 8, leaves, 0)
    planes = leaves.planes[:count].reshape(count, 13, SIZE, SIZE)
    search.expand(trees, leaves, 0, count, *network(planes))


def test_a_barred_pass_keeps_its_prior_and_is_chosen_only_where_nothing_else_is_legal():
    trees, _ = position([])
    trees.allow_pass[0] = 0
    run_with(trees, always_pass, 1)
    root = trees.root[0]
    assert trees.legal[root, 25] == 1
    assert trees.p[root, 25] == 1.0
    assert search.best_edge(trees, 0, root) < 25
    trees.allow_pass[0] = 1
    assert search.best_edge(trees, 0, root) == 25
    trees.allow_pass[0], trees.legal[root, :25] = 0, 0
    assert search.best_edge(trees, 0, root) == 25


def test_bensons_rule_is_used_by_trees_that_ask_for_it():
    for benson in (False, True):
        trees, _ = position([])
        trees.benson[0] = benson
        board, info, _ = set_up(BORDERED_AT_A_STONE)
        trees.board[trees.root[0]], trees.info[trees.root[0]] = board, info
        owner = np.zeros(board.shape[1], np.int8)
        mv.find_pass_alive(trees, 0, owner)
        assert owner.any() == (not benson)


def test_priors_come_back_from_every_symmetry():
    maps = symmetries(SIZE)
    assert {tuple(m) for m in maps}.__len__() == 8
    for turn in range(8):
        trees, _ = position([])
        leaves = mcts.make_leaves(SIZE, 1)
        trees.sym[:] = maps[turn]
        search.select(trees, 0, 1, 1, 8, leaves, 0)
        wanted = np.random.default_rng(0).dirichlet(np.ones(26)).astype(np.float32)
        search.expand(trees, leaves, 0, 1, wanted[maps[turn]][None], np.zeros(1, np.float32))
        assert trees.p[trees.root[0]] == pytest.approx(wanted, abs=1e-6)


def test_pruning_follows_its_formula():
    trees, _ = position([])
    run(trees, 120, 4, 16)
    root, total = trees.root[0], int(trees.root_n[0])
    n, w, p = trees.n[root].copy(), trees.w[root].copy(), trees.p[root].astype(float)
    c = search.exploration(total)
    best = int(n.argmax())
    top = w[best] / (1 + n[best]) + c * math.sqrt(1 + total) * p[best] / (1 + n[best])
    expected = []
    for a in range(26):
        gap = top - w[a] / (1 + n[a])
        bound = int(c * p[a] * math.sqrt(total) / gap) if gap > 0 else 0
        expected.append(int(n[a]) if a == best else max(0, min(int(n[a]), bound)))
    mv.prune(trees, 0, np.zeros(trees.board.shape[2], np.int8))
    assert trees.n[root].tolist() == expected
    assert sum(expected) < n.sum()


def test_of_equally_visited_moves_the_better_one_is_what_pruning_measures_by():
    trees, _ = position([])
    run(trees, 1, 1, 8)
    root = trees.root[0]
    trees.n[root, [3, 9]], trees.w[root, [3, 9]], trees.root_n[0] = 40, (-10.0, 10.0), 81
    mv.prune(trees, 0, np.zeros(trees.board.shape[2], np.int8))
    assert trees.n[root, 9] == 40
    assert trees.n[root, 3] < 40


def test_where_all_visited_moves_are_barred_the_best_other_one_is_played():
    trees, _ = position([24])
    run(trees, 1, 1, 8)
    root, owner = trees.root[0], np.zeros(trees.board.shape[2], np.int8)
    trees.n[root, 12], owner[go.cell_of(12, SIZE)] = 5, go.BLACK
    trees.p[root, [7, 24]] = 0.9, 1.0  # 24 is taken
    assert mv.most_visited(trees, 0, owner) == 7
    owner[:] = go.BLACK
    assert mv.most_visited(trees, 0, owner) == 25


def test_where_no_score_is_a_number_no_stone_is_played_upon():
    trees, _ = position([0])
    run(trees, 1, 1, 8)
    trees.w[trees.root[0]] = np.nan
    assert trees.legal[trees.root[0], search.best_edge(trees, 0, trees.root[0])]


@pytest.mark.parametrize("fast_share", [1e-9, 0.0])
def test_a_slow_search_counts_the_visits_it_clears_and_without_fast_moves_clears_none(fast_share):
    trees, games = mcts.make_trees(SIZE, 1, 4000, KOMI), mv.make_games(1, 100)
    rules = RULES._replace(fast_share=fast_share, resign_low=-2.0, resign_high=-2.0)
    mv.begin_game(games, 0, 1, rules)
    events = mv.make_events(1, SIZE)
    run(trees, 32, 1, 8)
    visits, clears = trees.n[trees.root[0]].copy(), fast_share > 0
    mv.finish_moves(trees, games, rules, events)
    kept = int(visits[games.moves[0, 0]])
    assert kept > 0
    assert (events.example[0], games.slow[0], games.noise[0]) == (1, 1, 1)
    assert trees.root_n[0] == (0 if clears else kept)
    assert games.target[0] == 32 + kept
    assert trees.state[trees.root[0]] == (mcts.UNEXPANDED if clears else mcts.EXPANDED)


def after_search(moves: list[int], visited: dict[int, int], value: float):
    """A game whose search is done: visits of some moves, and Black's value of the root."""
    trees, _ = position(moves)
    games, events = mv.make_games(1, 100), mv.make_events(1, SIZE)
    run(trees, 1, 1, 8)
    root, total = trees.root[0], sum(visited.values())
    trees.n[root, list(visited)] = list(visited.values())
    trees.root_n[0], trees.root_w[0] = total, value * (1 + total)
    mv.begin_game(games, 0, 1, RULES)
    games.target[0] = total
    return trees, games, events


@pytest.mark.parametrize(
    ("moves", "value", "outcome"),
    [([12], -0.8, 0), ([12], 0.8, 1), ([12, 7], 0.8, 0), ([12, 7], -0.8, -1)],
)
def test_who_is_to_move_resigns_below_the_threshold_without_move_or_example(moves, value, outcome):
    trees, games, events = after_search(moves, {3: 20}, value)
    games.resign[0] = -0.75
    mv.finish_moves(trees, games, RULES, events)
    resigned = outcome != 0
    assert events.ended[0] == (mv.RESIGNED if resigned else mv.RUNNING)
    assert events.example[0] == (not resigned)
    assert trees.info[trees.root[0], go.PLIES] == len(moves) + (not resigned)
    if resigned:
        assert events.outcome[0] == outcome


def test_first_moves_are_drawn_by_visits_to_a_power_and_never_pass():
    trees, games, _ = after_search([], {3: 10, 8: 30, 25: 500}, 0.0)
    drawn = [mv.soft_pick(trees, 0, games.random[0], 0.98) for _ in range(4000)]
    assert set(drawn) == {3, 8}
    share = 10**0.98 / (10**0.98 + 30**0.98)
    assert drawn.count(3) / 4000 == pytest.approx(share, abs=0.03)
    only_pass, games, _ = after_search([], {25: 5}, 0.0)
    assert mv.soft_pick(only_pass, 0, games.random[0], 0.98) == 25


def test_four_passes_bar_the_other_side_from_its_eyes_for_the_rest_of_the_game():
    # Black lives in the corner with the eyes A5 and C5; White has only passed.
    two_eyes = [move for point in (1, 3, 5, 6, 7, 8) for move in (point, 25)]
    played = []
    for barred in (0, 1):
        trees, games, events = after_search(two_eyes, {0: 50, 20: 3}, 0.0)
        games.barred[0, 1] = barred
        mv.finish_moves(trees, games, RULES, events)
        played.append(games.moves[0, len(two_eyes)])
        assert (events.pi[0, 0] > 0) == (not barred)
    assert played == [0, 20]
    for passes, barred in ((2, 0), (3, 1)):
        trees, games, events = after_search(two_eyes, {25: 50}, 0.0)
        games.passes[0, 0] = passes
        mv.finish_moves(trees, games, RULES._replace(pass_alive_plies=99), events)
        assert games.barred[0].tolist() == [barred, 0]


def test_fast_moves_keep_their_tree_and_make_no_example():
    trees, games, events = after_search([12], {3: 20, 4: 5}, 0.0)
    games.slow[0] = 0
    mv.finish_moves(trees, games, RULES._replace(fast_share=1.0), events)
    assert events.example[0] == 0
    assert trees.root_n[0] == 20
    assert games.target[0] == 20 + RULES.fast_readouts
    assert (games.slow[0], games.noise[0]) == (0, 0)


def test_noise_mixes_legal_moves_only_and_stays_a_distribution():
    trees, _ = position(random_opening(3, 20))
    run(trees, 1, 1, 8)
    root = trees.root[0]
    before = trees.p[root].copy()
    mv.add_noise(trees, 0, np.full(1, 5, np.uint64), 0.43, 0.3)
    after = trees.p[root]
    assert after.sum() == pytest.approx(1.0, abs=1e-5)
    assert (after[trees.legal[root] == 0] == 0).all()
    assert (after >= 0.7 * before - 1e-6).all()


def test_gamma_variates_have_their_mean_and_variance():
    random = np.full(1, 9, np.uint64)
    for shape in (0.43, 3.0):
        drawn = np.array([mv.gamma(random, shape) for _ in range(20_000)])
        assert drawn.mean() == pytest.approx(shape, rel=0.05)
        assert drawn.var() == pytest.approx(shape, rel=0.1)


def test_self_play_is_the_same_again_and_its_examples_are_sound():
    first, second = (SelfPlay(SIZE, KOMI, 8, RULES, seed=3).play(fast_network, 6) for _ in range(2))
    assert [g.moves.tolist() for g in first] == [g.moves.tolist() for g in second]
    for game in first:
        assert game.pi.sum(axis=1) == pytest.approx(np.ones(len(game.pi)), abs=1e-5)
        assert len(game.planes) == len(game.pi) == len(game.n) <= len(game.moves) + 1
        replayed = SlowGo(SIZE)
        for action in game.moves:
            assert replayed.legal(int(action))
            replayed.play(int(action))
        if not game.resigned:
            assert game.outcome == (1.0 if replayed.score(KOMI) > 0 else -1.0)


def test_without_passing_the_first_pass_is_forced():
    rules = RULES._replace(pass_alive_plies=1000, resign_low=-2.0, resign_high=-2.0)
    player = SelfPlay(SIZE, KOMI, 4, rules, seed=3, allow_pass=False)
    for game in player.play(fast_network, 4):
        replayed = SlowGo(SIZE)
        for action in game.moves:
            if action == 25:
                assert not any(replayed.legal(a) for a in range(25))
                break
            replayed.play(int(action))


def test_match_games_depend_on_their_number_alone():
    rules = MatchRules(16, 2, 10, 100)
    settings = {"size": SIZE, "komi": KOMI, "rules": rules, "seed": 1}
    other = lambda planes: (fast_network(planes)[0], -fast_network(planes)[1])  # noqa: E731
    together = play_match(fast_network, other, range(6), **settings)
    apart = [play_match(fast_network, other, [n], **settings)[0] for n in range(6)]
    assert [g.moves.tolist() for g in together] == [g.moves.tolist() for g in apart]
    assert [g.won for g in together] == [g.won for g in apart]


def test_a_pool_that_runs_out_grows():
    small = mcts.make_trees(SIZE, 1, 4, KOMI)
    bigger = mcts.grow(small)
    assert len(bigger.parent) == 8
    assert bigger.top[0] == 7
    assert len({int(x) for x in bigger.free[:7]} | {int(bigger.root[0])}) == 8
    assert bigger.info[bigger.root[0], go.TO_PLAY] == go.BLACK


def test_ctrl_c_ends_a_compilation_that_swallows_it():
    with pytest.raises(KeyboardInterrupt), _interruptible():  # noqa: PT012
        with suppress(KeyboardInterrupt):  # as in a callback of the compiler
            signal.raise_signal(signal.SIGINT)
        raise RuntimeError("no compiled object yet")
    with pytest.raises(RuntimeError, match="no room"), _interruptible():
        raise RuntimeError("no room")


def test_ctrl_c_in_a_callback_of_the_compiler_prints_nothing_but_other_trouble(monkeypatch):
    shown = []
    monkeypatch.setattr("sys.unraisablehook", lambda lost: shown.append(lost.exc_type))
    press = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))
    fail = ctypes.CFUNCTYPE(None)(lambda: {}[0])
    hook = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), _interruptible():  # noqa: PT012
        press()
        fail()
    assert shown == [KeyError]
    assert sys.unraisablehook is hook


def test_a_compilation_in_the_background_ignores_ctrl_c_as_before():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with _interruptible():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.speed
@pytest.mark.slow
def test_search_does_15000_readouts_a_second_on_19x19():
    rng = np.random.default_rng(0)
    priors = rng.dirichlet(np.full(362, 0.3), size=64).astype(np.float32)
    values = rng.uniform(-0.3, 0.3, 64).astype(np.float32)
    player = SelfPlay(19, KOMI, 16, mv.Rules(), seed=1)
    best = 0.0
    for _ in range(5):  # the first rounds touch fresh memory; seconds are this thread's own
        before, start = player.readouts, time.thread_time()
        for _ in range(300):
            player.step(lambda planes: (priors[: len(planes)], values[: len(planes)]))
        best = max(best, (player.readouts - before) / (time.thread_time() - start))
    assert best >= 15_000, f"{best:.0f} readouts/s"
