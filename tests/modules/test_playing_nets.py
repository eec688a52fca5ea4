"""Networks that play Go at fixed batch sizes, with weights that change, from many threads."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from datamodules.go.moves import Rules
from datamodules.go.players import playing_speed
from datamodules.go.selfplay import SelfPlay, compile_search
from modules.nets.minigo import DualNet
from modules.ops import playing_nets
from modules.ops.playing_nets import GraphedNets, batch_sizes, network_of

CPU = torch.device("cpu")
SHAPE = (13, 5, 5)


def net_of(seed: int) -> DualNet:
    """A small net with running statistics that are not 0 and 1."""
    torch.manual_seed(seed)
    net = DualNet(size=5, width=8, blocks=1, fc_width=4)
    for _ in range(3):
        net(torch.randint(0, 2, (16, *SHAPE)).float())
    return net


def positions(count: int, seed: int = 0, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (count, *shape)).astype(np.uint8)


def agree(ours, theirs, tolerance: float = 1e-6) -> bool:
    return all(
        len(a) == len(b) and np.allclose(a, b, atol=tolerance)
        for a, b in zip(ours, theirs, strict=True)
    )


def graphed(device=CPU, dtype=torch.float32, *, largest=20, copies=1) -> GraphedNets:
    return GraphedNets(net_of(9), device, dtype, plane_shape=SHAPE, largest=largest, copies=copies)


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(512, [64, 128, 192, 256, 320, 384, 448, 512]), (10, [2, 3, 4, 5, 7, 8, 9, 10]), (1, [1])],
)
def test_sizes_are_eighths_of_the_largest(largest, sizes):
    assert batch_sizes(largest) == sizes


def test_every_batch_gets_its_own_rows_answers():
    net = net_of(0)
    network, other = graphed().network(net), network_of(net, CPU)
    # Falling, so that the rows that fill a batch are those of the batch before.
    for count in (20, 13, 12, 1, 19, 3, 2):
        batch = positions(count, seed=count)
        assert agree(network(batch), other(batch))


def test_only_the_fixed_sizes_reach_the_network(monkeypatch):
    seen: set[int] = set()
    answer = playing_nets._priors_and_values

    def watched(net, planes_BPnn, dtype):
        seen.add(len(planes_BPnn))
        return answer(net, planes_BPnn, dtype)

    monkeypatch.setattr(playing_nets, "_priors_and_values", watched)
    network = graphed().network(net_of(0))
    for count in range(1, 21):
        network(positions(count))
    assert sorted(seen) == batch_sizes(20)


def test_a_network_keeps_the_weights_it_was_made_with():
    nets, net = graphed(), net_of(0)
    old, batch = nets.network(net), positions(7)
    before = [array.copy() for array in old(batch)]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
        net.bn.running_mean.add_(0.1)
    new = nets.network(net)
    for _ in range(2):  # in turn, as workers do that are at different rounds
        assert agree(new(batch), network_of(net, CPU)(batch))
        assert agree(old(batch), before)
    assert not agree(new(batch), before, 1e-3)


def hammer(nets: GraphedNets, players: list[nn.Module], dtype=torch.float32, tolerance=1e-6):
    """Ask from many threads, more than there are copies, with several weights at once."""
    device = next(players[0].parameters()).device
    networks = [(nets.network(net), network_of(net, device, dtype)) for net in players]

    def ask(number: int) -> bool:
        ours, theirs = networks[number % len(networks)]
        batch = positions(1 + number % 20, seed=number)
        return agree(ours(batch), theirs(batch), tolerance)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(200)))


def test_threads_do_not_get_each_others_answers():
    hammer(graphed(copies=2), [net_of(seed) for seed in range(3)])


def test_a_failing_evaluation_leaves_its_copy_to_the_next():
    network = graphed().network(net_of(0))
    with pytest.raises(RuntimeError, match="size of tensor"):
        network(positions(21))
    assert agree(network(positions(4)), network_of(net_of(0), CPU)(positions(4)))


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@gpu
# TF32 has 10 bits and bfloat16 7, and batches of other sizes may take other kernels.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 5e-3), (torch.bfloat16, 0.03)], ids=str
)
def test_captured_passes_answer_like_plain_ones_beside_a_training_network(dtype, tolerance):
    device = torch.device("cuda", 0)
    nets = graphed(device, dtype, copies=3)
    trained = DualNet().to(device)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.01)

    def train() -> None:
        for _ in range(50):
            logits, value = trained(torch.rand(256, 13, 19, 19, device=device))
            (logits.square().mean() + value.square().mean()).backward()
            optimizer.step()
            torch.cuda.synchronize()

    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(train)
        hammer(nets, [net_of(seed).to(device) for seed in range(2)], dtype, tolerance)
        training.result()


class Branching(nn.Module):
    """A net whose kernels depend on its input, which no graph can follow."""

    def forward(self, planes):
        scale = 2.0 if planes.sum().item() > 10 else 1.0
        return planes.flatten(1)[:, :26] * scale, planes.flatten(1)[:, 0]


@pytest.mark.gpu
@gpu
def test_a_net_that_no_graph_can_follow_is_refused():
    with pytest.raises(ValueError, match="Branching cannot be captured in a CUDA graph"):
        GraphedNets(
            Branching(), torch.device("cuda", 0), torch.float32,
            plane_shape=SHAPE, largest=8, copies=1,
        )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.speed
@gpu
def test_self_play_at_the_closed_settings_is_faster_through_graphs():
    device = torch.device("cuda", 0)
    workers, games = 8, 128
    compile_search()
    net = DualNet().to(device, memory_format=torch.channels_last)
    nets = GraphedNets(
        deepcopy(net), device, torch.bfloat16,
        plane_shape=(13, 19, 19), largest=4 * games, copies=workers,
    )  # fmt: skip
    rates = {}
    for name, network in (
        ("plain", network_of(net, device, torch.bfloat16)), ("graphs", nets.network(net))
    ):  # fmt: skip
        players = [SelfPlay(19, 7.5, games, Rules(), seed=seed) for seed in range(workers)]
        rates[name], moves = playing_speed(players, network, 20.0)
        print(f"{name}: {rates[name]:.0f} readouts/s, {moves:.0f} moves/s")
    assert rates["graphs"] > rates["plain"]
