"""Mini Go's network, checkpoints, loss, schedule and match."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modules.common.tensor_bundle import TensorBundle
from modules.minigo import MiniGoModule
from modules.minigo import module as minigo
from modules.minigo.checkpoint import load_bundle
from modules.minigo.inference import GraphedNets, network_of
from modules.minigo.module import WinRate, reference_net
from modules.minigo.net import DualNet
from tests.tools.tensor_bundle_writer import save_bundle

CPU = torch.device("cpu")


def small(**settings) -> DualNet:
    torch.manual_seed(0)
    return DualNet(**{"size": 5, "width": 8, "blocks": 1, "fc_width": 4, **settings})


def used(net: DualNet) -> DualNet:
    """The net after a few training passes, so that its running statistics are not 0 and 1."""
    net.train()
    for _ in range(3):
        net(torch.randint(0, 2, (16, 13, net.size, net.size)).float())
    return net.eval()


def test_reference_net_has_the_published_size():
    net = DualNet()
    assert sum(p.numel() for p in net.parameters()) == 736_671
    statistics = [b for n, b in net.named_buffers() if "running" in n]
    assert sum(b.numel() for b in statistics) == 1_670
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits, value = net.eval()(torch.zeros(1, 13, 19, 19))
    assert counter.get_total_flops() == pytest.approx(2 * 162.75e6, rel=1e-3)
    assert logits.shape == (1, 362)
    assert value.shape == (1,)
    assert [m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)] == [0.05] * 15


def test_checkpoint_comes_back_as_written(tmp_path):
    net = used(small())
    save_bundle(net, tmp_path / "model.ckpt-7", step=7)
    other = reference_net(tmp_path / "model.ckpt-7")
    assert (other.size, other.conv.weight.shape[0], len(other.blocks)) == (5, 8, 1)
    momentum, step = load_bundle(other, tmp_path / "model.ckpt-7")
    assert (momentum, step) == ({}, 7)
    planes = torch.randint(0, 2, (4, 13, 5, 5)).float()
    for ours, theirs in zip(net(planes), other.eval()(planes), strict=True):
        assert torch.equal(ours, theirs)


def test_checkpoint_has_tensorflows_names_and_order_of_axes(tmp_path):
    net = small()
    save_bundle(net, tmp_path / "c")
    bundle = TensorBundle(tmp_path / "c")
    assert bundle.entries["conv2d/kernel"].shape == (3, 3, 13, 8)
    assert bundle.entries["conv2d_3/kernel"].shape == (1, 1, 8, 2)
    assert bundle.entries["dense/kernel"].shape == (50, 26)
    assert "batch_normalization_3/gamma" not in bundle.entries
    kernel = bundle.read("dense_1/kernel")
    assert (net.value_fc1.weight.detach().numpy() == kernel.T).all()


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("conv.weight", float("nan"), "conv2d/kernel has values that are not finite"),
        ("value_fc2.bias", float("inf"), "dense_2/bias has values that are not finite"),
        ("bn.running_var", -1.0, "batch_normalization/moving_variance has negative values"),
    ],
)
def test_a_checkpoint_with_values_that_no_network_has_is_refused(tmp_path, part, value, words):
    net = small()
    net.state_dict()[part].view(-1)[0] = value
    save_bundle(net, tmp_path / "c")
    with pytest.raises(ValueError, match=f"{tmp_path}/c: {words}"):
        load_bundle(small(), tmp_path / "c")


def test_checkpoint_of_another_board_is_rejected(tmp_path):
    save_bundle(small(size=7), tmp_path / "c")
    with pytest.raises(ValueError, match="another board size than 5 x 5"):
        load_bundle(small(), tmp_path / "c")


def test_a_frozen_copy_gives_the_nets_own_answers():
    net = used(small())
    planes = np.random.default_rng(0).integers(0, 2, (6, 13, 5, 5)).astype(np.uint8)
    priors, values = network_of(net, CPU)(planes)
    logits, value = net(torch.from_numpy(planes).float())
    assert priors == pytest.approx(torch.softmax(logits, 1).detach().numpy(), abs=1e-5)
    assert values == pytest.approx(value.detach().numpy(), abs=1e-5)
    assert isinstance(net.bn, nn.BatchNorm2d)


def test_a_mixed_precision_trainer_leaves_the_match_in_single_precision():
    network = network_of(used(small()), CPU)
    planes = np.random.default_rng(0).integers(0, 2, (6, 13, 5, 5)).astype(np.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = network(planes)
    for ours, theirs in zip(mixed, network(planes), strict=True):
        assert (ours == theirs).all()


def test_games_go_through_one_set_of_graphs_per_role_made_for_their_largest_batch(monkeypatch):
    made: list[dict] = []

    def watched(*args, **settings):
        made.append(settings)
        return GraphedNets(*args, **settings)

    monkeypatch.setattr(minigo, "GraphedNets", watched)
    module = MiniGoModule(net=small, size=5, cuda_graph_play=True, eval_virtual_losses=3)
    module.target_net.set(small(width=4))
    module.warm_up_evaluation()
    assert made == []  # as in ``speed``, whose rounds play no games
    settings = {"games_at_once": 6, "virtual_losses": 2, "workers": 3, "eval_games": 10}
    module.attach_policy(type("D", (), settings)())
    for _ in range(2):
        module.warm_up_evaluation()
    match = {"plane_shape": (13, 5, 5), "largest": 30, "copies": 1}
    assert made == [{"plane_shape": (13, 5, 5), "largest": 12, "copies": 3}, match, match]
    planes = np.random.default_rng(0).integers(0, 2, (11, 13, 5, 5)).astype(np.uint8)
    networks = [module.playing(), *module._opponents()]
    for network, net in zip(networks, [module.net, module.net, small(width=4)], strict=True):
        for ours, theirs in zip(network(planes), network_of(net, CPU)(planes), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.016), (128, 0.016), (129, 0.16), (10_000, 0.16), (20_001, 0.0016)]
)
def test_learning_rate_counts_from_the_checkpoints_step(step, rate):
    module = MiniGoModule(net=small, size=5)
    assert module.step_learning_rate(step) == rate
    module.start_step = step
    assert module.step_learning_rate(0) == rate


def test_one_step_equals_the_written_loss_with_its_l2_part():
    torch.manual_seed(1)
    module = MiniGoModule(net=small, size=5)
    module.trainer = type("T", (), {"log_every_n_steps": 0})()  # type: ignore[assignment]
    twin = small()
    twin.load_state_dict(module.net.state_dict())
    batch = {
        "planes": torch.randint(0, 2, (8, 13, 5, 5), dtype=torch.uint8),
        "pi": torch.softmax(torch.randn(8, 26), 1),
        "outcome": torch.tensor([1.0, -1.0] * 4),
    }
    optimizer = module.configure_optimizers()["optimizer"]
    MiniGoModule.training_step(module, batch, 0).backward()
    optimizer.step()
    logits, value = twin(batch["planes"].float())
    policy = -(batch["pi"] * F.log_softmax(logits, 1)).sum(1).mean()
    loss = policy + 0.5 * ((value - batch["outcome"]) ** 2).mean()
    weights = [p for n, p in twin.named_parameters() if not n.endswith("bias")]
    loss = loss + 1e-4 * sum((p**2).sum() for p in weights) / 2
    loss.backward()
    for ours, theirs in zip(module.net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours, theirs - 0.016 * theirs.grad, atol=1e-7)


@pytest.mark.parametrize(
    ("batch_idx", "overlap", "begun"), [(0, True, 0), (2, True, 1), (2, False, 0)]
)
def test_new_games_begin_after_the_last_step_of_an_epoch_only(batch_idx, overlap, begun):
    calls: list[int] = []
    begin = {"begin_generation": lambda self: calls.append(1)}
    data = type("D", (), {"overlap": overlap, **begin})()
    module = MiniGoModule(net=small, size=5)
    module.trainer = type(  # type: ignore[assignment]
        "T", (), {"num_training_batches": 3, "world_size": 1, "datamodule": data}
    )()
    MiniGoModule.on_train_batch_end(module, None, {}, batch_idx)
    assert len(calls) == begun


def test_win_rate_counts_games_of_both_colours():
    rate = WinRate()
    for colour, won in ((0, True), (0, True), (1, False), (1, True)):
        rate.update(colour, won)
    values = {name: float(value) for name, value in rate.compute().items()}
    assert values == {"win_rate": 0.75, "win_rate_black": 1.0, "win_rate_white": 0.5}
    assert rate.compute()["win_rate"].dtype == torch.float64


def test_bad_settings_are_rejected_together():
    with pytest.raises(ValueError, match="lr_rates.*\n.*eval_readouts.*\nmax_plies"):
        MiniGoModule(net=small, size=5, lr_rates=[0.1], eval_readouts=0, max_plies=2049)


class Foreign(nn.Module):
    """A network whose outputs are chosen."""

    def __init__(self, outputs) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, planes):
        return self.outputs


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            (torch.zeros(2, 25), torch.zeros(2)),
            r"Foreign \(policy\) must .*\(2, 26\), but .*\(2, 25\)",
        ),
        # (B, 1) against (B,) would broadcast in the loss: every value towards the mean outcome.
        (
            (torch.zeros(2, 26), torch.zeros(2, 1)),
            r"Foreign \(value\) must .*\(2,\), but .*\(2, 1\)",
        ),
        (torch.zeros(2, 26), "tuple of policy logits and values"),
    ],
)
def test_a_net_without_policy_and_value_is_rejected_by_its_own_name(outputs, message):
    with pytest.raises(ValueError, match=message):
        MiniGoModule(net=lambda: Foreign(outputs), size=5).check_net()
    MiniGoModule(net=lambda: Foreign((torch.zeros(2, 26), torch.zeros(2))), size=5).check_net()
