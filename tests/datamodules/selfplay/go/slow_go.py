"""Go and its tree search again, as plainly as possible: sets, dictionaries and no speed."""

from __future__ import annotations

import math

import numpy as np

BLACK, WHITE = 1, 2


class SlowGo:
    """A game on sets of points; actions as in ``datamodules.selfplay.go.board``."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.stones: dict[int, int] = {}
        self.to_play = BLACK
        self.passes = self.plies = 0
        self.boards = [{}]
        self.seen = {frozenset()}

    def near(self, point: int) -> list[int]:
        row, column = divmod(point, self.size)
        around = [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
        ok = range(self.size)
        return [r * self.size + c for r, c in around if r in ok and c in ok]

    def chain(self, stones: dict[int, int], point: int) -> tuple[set[int], set[int]]:
        found, todo, free = {point}, [point], set()
        while todo:
            for other in self.near(todo.pop()):
                if other not in stones:
                    free.add(other)
                elif stones[other] == stones[point] and other not in found:
                    found.add(other)
                    todo.append(other)
        return found, free

    def after(self, point: int) -> dict[int, int] | None:
        """Stones after a move, or None for suicide."""
        stones = dict(self.stones)
        stones[point] = self.to_play
        for other in self.near(point):
            if stones.get(other) == 3 - self.to_play:
                chain, free = self.chain(stones, other)
                if not free:
                    for stone in chain:
                        del stones[stone]
        return stones if self.chain(stones, point)[1] else None

    def legal(self, action: int) -> bool:
        if action == self.size**2:
            return True
        if action in self.stones:
            return False
        stones = self.after(action)
        return stones is not None and frozenset(stones.items()) not in self.seen

    def play(self, action: int) -> None:
        if action == self.size**2:
            self.passes += 1
        else:
            stones = self.after(action)
            assert stones is not None
            self.stones, self.passes = stones, 0
            self.seen.add(frozenset(stones.items()))
        self.boards.append(dict(self.stones))
        self.to_play = 3 - self.to_play
        self.plies += 1

    def regions(self, colour: int | None) -> list[set[int]]:
        """Connected points without stones of a colour (None: empty points)."""

        def inside(p: int) -> bool:
            return p not in self.stones if colour is None else self.stones.get(p) != colour

        left = {p for p in range(self.size**2) if inside(p)}
        found = []
        while left:
            region, todo = set(), [left.pop()]
            while todo:
                point = todo.pop()
                region.add(point)
                fresh = [p for p in self.near(point) if p in left]
                left -= set(fresh)
                todo += fresh
            found.append(region)
        return found

    def pass_alive(self, colour: int, benson: bool = False) -> set[int]:
        """Points of pass-alive regions, by the reference's rule or by Benson's."""
        liberties = {
            frozenset(self.chain(self.stones, p)[0]): self.chain(self.stones, p)[1]
            for p, c in self.stones.items()
            if c == colour
        }
        chains = set(liberties)
        border = lambda r: {c for c in chains if any(q in c for p in r for q in self.near(p))}  # noqa: E731
        regions = [(frozenset(r), border(r)) for r in self.regions(colour)]
        borders = dict(regions)
        empties = lambda r: {p for p in r if p not in self.stones}  # noqa: E731

        def lost(region: frozenset[int], dead: set[frozenset[int]]) -> bool:
            """Whether a region went with the dropped chains: they border it, or have a liberty."""
            return any(c in borders[region] if benson else liberties[c] & region for c in dead)

        alive = set(chains)
        while True:
            kept = [(r, b) for r, b in regions if not lost(r, chains - alive)]
            vital = lambda c, kept=kept: sum(c in b and empties(r) <= liberties[c] for r, b in kept)  # noqa: E731
            dead = {c for c in alive if vital(c) < 2}
            if not dead:
                break
            alive -= dead
        owned: set[int] = set()
        for region, b in regions:
            if not b or not b <= alive:
                continue
            lonely = [
                p
                for p in empties(region)
                if not any(self.stones.get(q) == colour for q in self.near(p))
            ]
            if len(lonely) <= 1:
                owned |= region
        return owned

    def score(self, komi: float, benson: bool = False) -> float:
        black, white = (self.pass_alive(colour, benson) for colour in (BLACK, WHITE))
        self_stones = self.stones
        self.stones = {**self.stones, **dict.fromkeys(black, BLACK), **dict.fromkeys(white, WHITE)}
        total = -komi
        for colour in self.stones.values():
            total += 1 if colour == BLACK else -1
        for region in self.regions(None):
            seen = {self.stones[q] for p in region for q in self.near(p) if q in self.stones}
            total += {frozenset({1}): 1, frozenset({2}): -1}.get(frozenset(seen), 0) * len(region)
        self.stones = self_stones
        return total

    def planes(self) -> np.ndarray:
        """(13, n*n) input planes."""
        out = np.zeros((13, self.size**2), np.uint8)
        for age, stones in enumerate(self.boards[::-1][:4]):
            for p, colour in stones.items():
                out[2 * age + (colour != self.to_play), p] = 1
        out[8] = self.to_play == BLACK
        for p in self.stones:
            out[8 + min(3, len(self.chain(self.stones, p)[1])), p] = 1
        for p in range(self.size**2):
            if self.legal(p):
                out[12, p] = any(
                    self.stones.get(q) == 3 - self.to_play
                    and len(self.chain(self.stones, q)[1]) == 1
                    for q in self.near(p)
                )
        return out

    def copy(self) -> SlowGo:
        other = SlowGo(self.size)
        other.stones, other.to_play = dict(self.stones), self.to_play
        other.passes, other.plies = self.passes, self.plies
        other.boards, other.seen = list(self.boards), set(self.seen)
        return other


class SlowNode:
    """A node that holds its own N and W, as the formulas are written."""

    def __init__(self, game: SlowGo, parent: SlowNode | None, prior: float, w: float) -> None:
        self.game, self.parent, self.prior = game, parent, prior
        self.n, self.w = 0, w
        self.children: dict[int, SlowNode] | None = None
        self.first = 0.0

    @property
    def sign(self) -> float:
        return 1.0 if self.game.to_play == BLACK else -1.0

    def best(self) -> int:
        c = 2 * (math.log((1 + self.n + 19652) / 19652) + 1.25)
        scores = []
        for a in range(self.game.size**2 + 1):
            child = self.children[a]
            q = child.w / (1 + child.n)
            u = c * math.sqrt(max(1, self.n - 1)) * child.prior / (1 + child.n)
            scores.append(q * self.sign + u - (0 if child.legal else 1000))
        top = max(scores)
        return next(a for a, s in enumerate(scores) if s >= top - 1e-12)

    def path(self) -> list[SlowNode]:
        return [self, *(self.parent.path() if self.parent else [])]

    def position(self) -> SlowGo:
        if self.game is None:
            self.game = self.parent.game.copy()
            self.game.play(self.action)
        return self.game

    def expand(self, priors: np.ndarray, value: float) -> None:
        game = self.game
        legal = np.array([game.legal(a) for a in range(game.size**2 + 1)])
        shares = np.where(legal, priors, 0)
        shares = shares / shares.sum()
        fpu = min(1.0, max(-1.0, value - 0.2 * self.sign))
        self.children = {}
        for a in range(game.size**2 + 1):
            child = SlowNode(None, self, float(shares[a]), fpu)
            child.action, child.legal = a, bool(legal[a])
            self.children[a] = child
        self.add(value)

    def add(self, value: float) -> None:
        """Back up to this root."""
        for node in self.path():
            node.n += 1
            node.w += value

    def lose(self, sign: float) -> None:
        """Virtual loss (1) or its end (-1)."""
        for node in self.path():
            node.w += sign * node.sign

    def leaf(self) -> SlowNode:
        node = self
        while node.position() and node.children is not None and node.game.passes < 2:
            node = node.children[node.best()]
        return node

    def batch(self, readouts: int, virtual_losses: int, tries: int, komi: float) -> list[SlowNode]:
        leaves = []
        while tries and len(leaves) < virtual_losses and self.n < readouts:
            tries -= 1
            node = self.leaf()
            if node.game.passes >= 2:
                node.add(1.0 if node.game.score(komi) > 0 else -1.0)
                continue
            node.lose(1.0)
            leaves.append(node)
            if node is self:
                break
        return leaves

    def search(self, network, readouts: int, virtual_losses: int, tries: int, komi: float) -> None:
        """Search from this root; ``network`` maps a game to priors and value."""
        while self.n < readouts:
            for leaf in self.batch(readouts, virtual_losses, tries, komi):
                leaf.lose(-1.0)
                if leaf.children is None:
                    leaf.expand(*network(leaf.game))
