"""The move that a trained network proposes in a given position."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from datamodules.selfplay.go import board as go
from datamodules.selfplay.go import search
from datamodules.selfplay.go import tree as mcts
from datamodules.selfplay.go.features import PLANES
from datamodules.selfplay.go.games import Network
from datamodules.selfplay.go.gtp import Player
from datamodules.selfplay.go.sgf import action_of, vertex
from datamodules.selfplay.go.sgf_reader import Position
from modules.minigo.inference import network_of

NUM_CANDIDATES = 5


class Proposal(NamedTuple):
    """A move, and the network's own opinion before any search."""

    move: int
    value: float  # -1 (White wins) to 1 (Black wins)
    candidates: list[tuple[int, float]]  # legal actions and their priors, most probable first


def propose(
    net: nn.Module, position: Position, device: torch.device, **search_settings: Any
) -> Proposal:
    """Search a position as in an evaluation game.

    Args:
        net: Maps planes to policy logits and values.
        position: The position.
        device: Where the network runs.
        **search_settings: ``readouts`` and ``virtual_losses``.

    Returns:
        The most visited move, and the network's opinion.
    """
    network = network_of(net, device)
    player = Player(network, position.size, komi=position.komi, **search_settings)
    for colour, action in position.plays:
        _command(player, f"play {colour} {vertex(action, position.size)}")
    move = _command(player, f"genmove {position.to_play}")
    value, candidates = _opinion(network, position)
    return Proposal(action_of(move, position.size), value, candidates)


def _command(player: Player, command: str) -> str:
    answer = player.answer(command) or "?"
    if not answer.startswith("="):
        raise ValueError(f"{command}: {answer.lstrip('? ').strip()}")
    return answer[1:].strip()


def _opinion(network: Network, position: Position) -> tuple[float, list[tuple[int, float]]]:
    """Return the network's value of a position and its priors of the best legal moves."""
    size, actions = position.size, position.actions()
    if len(actions) % 2 != "BW".index(position.to_play):
        actions.append(size * size)
    trees = mcts.make_trees(size, 1, 2 * len(actions) + 64, position.komi)
    for action in actions:
        trees.state[trees.root[0]] = mcts.UNEXPANDED  # also after two passes
        mcts.advance(trees, 0, action)
    planes = np.zeros((PLANES, size * size), np.uint8)
    search.root_planes(trees, 0, planes)
    priors, values = network(planes.reshape(1, PLANES, size, size))
    root = trees.root[0]
    legal = [
        (action, float(priors[0, action]))
        for action in range(size * size + 1)
        if go.is_legal(trees.board[root], trees.info[root], trees.history[0], action)
    ]
    best = sorted(legal, key=lambda pair: -pair[1])[:NUM_CANDIDATES]
    return float(values[0]), best
