"""Makes the two networks of Mini Go's demo: a start, and a target that beats it.

    python -m tests.tools.minigo_demo_nets [FOLDER]

The start has learned from games without a network; the target is a later generation of one run of
the recipe's own self-play. Both are written as TensorFlow 1 checkpoints, as the real ones are.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.common.sampling import SampleKey
from datamodules.selfplay.demo import NETS, first_games
from datamodules.selfplay.go.games import MatchRules, SelfPlay, play_match
from datamodules.selfplay.go.moves import Rules
from datamodules.selfplay.go.records import Examples, game_examples
from datamodules.selfplay.window import WindowExamples, concatenate_examples
from modules.minigo.inference import network_of
from modules.minigo.net import DualNet
from tests.tools.tensor_bundle_writer import save_bundle

SIZE, KOMI, GAMES, BATCH, WINDOW = 5, 7.5, 128, 64, 3
TARGET_GENERATION, SEED = 8, 5
RULES = Rules(48, 12, 0.75, 0.43, 0.3, 2, 0.98, 10, -1.0, -0.9, 1, 100)
MATCH = MatchRules(readouts=24, virtual_losses=2, pass_alive_plies=10, max_plies=100)
CPU = torch.device("cpu")


def train(
    net: DualNet, optimizer: torch.optim.Optimizer, examples: Examples, rng: np.random.Generator
) -> None:
    """Train one pass over examples in random order, each under a random symmetry."""
    order = rng.permutation(len(examples.outcome))
    data = WindowExamples(examples, SIZE, int(rng.integers(2**31)))
    net.train()
    for first in range(0, len(order) - BATCH + 1, BATCH):
        batch = data.__getitems__([SampleKey(int(i), 0, 0) for i in order[first : first + BATCH]])
        logits, value = net(batch["planes"].float())
        loss: Tensor = F.cross_entropy(logits, batch["pi"])
        loss = loss + 0.5 * F.mse_loss(value, batch["outcome"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def win_rate(candidate: DualNet, target: DualNet) -> float:
    """Return the share of 128 games that the candidate wins, Black in every other one."""
    networks = network_of(candidate, CPU), network_of(target, CPU)
    games = play_match(*networks, range(128), size=SIZE, komi=KOMI, rules=MATCH, seed=SEED)
    return float(np.mean([game.won for game in games]))


def make(folder: Path) -> None:
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    net = DualNet(size=SIZE, width=16, blocks=2, fc_width=16)
    weights = [p for n, p in net.named_parameters() if not n.endswith("bias")]
    biases = [p for n, p in net.named_parameters() if n.endswith("bias")]
    groups = [{"params": weights, "weight_decay": 1e-4}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    window = [game_examples(first_games(SIZE, KOMI, GAMES), SIZE)]
    for _ in range(2):
        train(net, optimizer, window[0], rng)
    save_bundle(net, folder / "start")
    start = DualNet(size=SIZE, width=16, blocks=2, fc_width=16)
    start.load_state_dict(net.state_dict())
    player = SelfPlay(SIZE, KOMI, 96, RULES, seed=SEED, virtual_losses=2)
    for generation in range(1, TARGET_GENERATION + 1):
        games = player.play(network_of(net, CPU), GAMES)
        window = [*window, game_examples(games, SIZE)][-WINDOW:]
        train(net, optimizer, concatenate_examples(window), rng)
        plies = np.mean([len(game.moves) for game in games])
        black = np.mean([game.outcome > 0 for game in games])
        print(f"generation {generation}: {plies:.0f} plies, Black wins {black:.0%}, the start wins "
              f"{win_rate(start, net):.0%} of 128 games against it", flush=True)  # fmt: skip
    save_bundle(net, folder / "target")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else NETS)
