"""DLRM's network: parameter count, arithmetic, first values, memory plan and speed."""

import ctypes
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from modules.dlrm import DLRMModule
from modules.dlrm.interaction import interact
from modules.dlrm.net import DLRM, TABLE_SIZES
from modules.dlrm.sparse_sgd import SparseSGD
from modules.recommendation import fused_embedding
from modules.recommendation.fused_embedding import FusedEmbedding

SIZES = (50, 3, 7, 20)
SMALL = {"table_sizes": SIZES, "embedding_width": 8, "bottom_widths": (16,), "top_widths": (12, 5)}


def inputs(num_rows=9, sizes=SIZES, seed=0):
    rng = np.random.default_rng(seed)
    ids = torch.from_numpy(rng.integers(sizes, size=(num_rows, len(sizes)), dtype=np.int32))
    return torch.from_numpy(rng.normal(size=(num_rows, 13)).astype(np.float32)), ids


def test_closed_network_has_the_reference_parameters():
    with torch.device("meta"):
        net = DLRM()
    assert sum(TABLE_SIZES) == 187_767_399
    assert sum(p.numel() for p in net.bottom.parameters()) == 171_392
    assert sum(p.numel() for p in net.top.parameters()) == 2_197_505
    assert sum(p.numel() for p in net.parameters()) == 24_036_595_969
    widths = [layer.in_features for layer in net.top if isinstance(layer, nn.Linear)]
    assert widths == [479, 1024, 1024, 512, 256]


def test_output_equals_the_formula_with_the_same_weights():
    torch.manual_seed(0)
    net = DLRM(**SMALL)
    dense, ids = inputs()
    state = net.state_dict()
    bounds = np.cumsum([0, *SIZES])

    def layer(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    for row in range(len(dense)):
        x = layer("bottom.2", layer("bottom.0", dense[row]).clamp(min=0)).clamp(min=0)
        tables = [state["tables.weight"][bounds[t] : bounds[t + 1]] for t in range(4)]
        vectors = [x, *(table[i] for table, i in zip(tables, ids[row].tolist(), strict=True))]
        pairs = [vectors[i] @ vectors[j] for i in range(5) for j in range(i)]
        hidden = torch.cat([x, torch.stack(pairs)])
        for name in ("top.0", "top.2"):
            hidden = layer(name, hidden).clamp(min=0)
        torch.testing.assert_close(net(dense, ids)[row], layer("top.4", hidden)[0])


class Separate(nn.Module):
    """The same network with an nn.EmbeddingBag per table, as the reference has it."""

    def __init__(self, net):
        super().__init__()
        self.bottom, self.top = net.bottom, net.top
        parts = net.tables.weight.detach().split(net.table_sizes)
        self.bags = nn.ModuleList(
            nn.EmbeddingBag.from_pretrained(p.clone(), freeze=False, mode="sum", sparse=True)
            for p in parts
        )

    def forward(self, dense, ids):
        x = self.bottom(dense)
        offsets = torch.arange(len(ids))
        vectors = [bag(ids[:, t].contiguous().long(), offsets) for t, bag in enumerate(self.bags)]
        features = torch.stack([x, *vectors], 1)
        i, j = torch.tril_indices(features.shape[1], features.shape[1], -1)
        products = torch.bmm(features, features.transpose(1, 2))[:, i, j]
        return self.top(torch.cat([x, products], 1)).squeeze(1)


def step(net, optimizer, dense, ids, labels):
    optimizer.zero_grad()
    loss = F.binary_cross_entropy_with_logits(net(dense, ids), labels)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def test_training_equals_separate_tables_and_torch_sgd():
    torch.manual_seed(1)
    ours, same = DLRM(**SMALL), DLRM(**SMALL)
    same.load_state_dict(ours.state_dict())
    theirs = Separate(same)
    a, b = SparseSGD(ours.parameters(), 0.5), torch.optim.SGD(theirs.parameters(), 0.5)
    for number in range(5):
        dense, ids = inputs(seed=number)
        labels = (torch.arange(9) % 3 == 0).float()
        torch.testing.assert_close(
            step(ours, a, dense, ids, labels), step(theirs, b, dense, ids, labels)
        )
    weights = torch.cat([bag.weight for bag in theirs.bags])
    torch.testing.assert_close(ours.tables.weight, weights)


def interact_by_formula(tables, dense, ids):
    vectors = tables.weight[ids + tables.offsets]
    features = torch.cat([dense[:, None], vectors], 1)
    pairs = [(features[:, i] * features[:, j]).sum(1) for i in range(5) for j in range(i)]
    return torch.cat([dense, torch.stack(pairs, 1)], 1)


@pytest.mark.parametrize("contiguous", [True, False])
def test_interaction_of_looked_up_rows_equals_its_formula_and_gradient(contiguous):
    torch.manual_seed(2)
    tables, (_, ids) = FusedEmbedding(SIZES, 8), inputs(num_rows=40)
    dense = torch.randn(40, 8)
    given = (dense, ids) if contiguous else (dense.T.contiguous().T, ids.T.contiguous().T)
    toward = torch.randn(40, 18)
    outputs, gradients = [], []

    def ours(dense, ids):
        return interact(dense, tables(ids))

    for features in (ours, lambda *given: interact_by_formula(tables, *given)):
        first = given[0].clone().requires_grad_()
        outputs.append(features(first, given[1]))
        grads = torch.autograd.grad(outputs[-1], (first, tables.weight), toward)
        gradients.append([grad.to_dense() for grad in grads])
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)


def test_rows_outside_the_tables_are_rejected_and_nan_and_infinity_kept():
    tables, dense = FusedEmbedding((2, 3), 4), torch.randn(2, 4)
    for row in (-3, 3):
        with pytest.raises(IndexError):
            tables(torch.tensor([[0, 1], [1, row]]))
    with torch.no_grad():
        tables.weight[3, 1] = float("nan")
        out = interact(dense, tables(torch.tensor([[0, 1], [1, 2]])))
        assert out.isnan().any(1).tolist() == [True, False]
        tables.weight[3, 1] = float("inf")
        assert interact(dense, tables(torch.tensor([[0, 1], [0, 1]]))).isinf().any()


def test_net_runs_under_autocast_and_trains():
    net = DLRM(**SMALL)
    dense, ids = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        output = net(dense, ids)
    torch.testing.assert_close(output.float(), net(dense, ids), rtol=0.02, atol=0.05)
    output.float().sum().backward()
    assert net.tables.weight.grad.is_sparse


def test_flops_of_a_step_are_those_of_its_products():
    net = DLRM(**SMALL)
    with FlopCounterMode(display=False) as counter:
        net(*inputs()).sum().backward()
    layers = [w.numel() for w in net.parameters() if w.ndim == 2 and w is not net.tables.weight]
    # Twice the forward pass backward, but for the input's gradient in the first layer; the dot
    # products of five vectors take one product forward and one backward.
    products = 3 * sum(layers) - 13 * 16 + 2 * 5 * 5 * 8
    assert counter.get_total_flops() == 9 * 2 * products


def test_step_touches_only_the_rows_looked_up():
    net = DLRM(**SMALL)
    before = net.tables.weight.detach().clone()
    dense, ids = inputs(num_rows=2)
    step(net, SparseSGD(net.parameters(), 1.0), dense, ids, torch.tensor([0.0, 1.0]))
    assert net.tables.weight.grad.is_sparse
    touched = set((ids + net.tables.offsets).flatten().tolist())
    changed = (net.tables.weight != before).any(1).nonzero().flatten().tolist()
    assert set(changed) <= touched
    assert changed


def test_accumulated_sparse_gradients_add_up():
    net = DLRM(**SMALL)
    dense, ids = inputs(num_rows=8)
    for part in (slice(0, 4), slice(4, 8)):
        (net(dense[part], ids[part]).mean() / 2).backward()
    parts = net.tables.weight.grad.to_dense()
    net.zero_grad()
    net(dense, ids).mean().backward()
    torch.testing.assert_close(parts, net.tables.weight.grad.to_dense())


def test_initial_values_have_the_reference_ranges(monkeypatch):
    monkeypatch.setattr(fused_embedding, "INIT_BLOCK_ROWS", 1000)
    torch.manual_seed(0)
    sizes = (4, 2500, 900)
    table = FusedEmbedding(sizes, 32)
    for part, rows in zip(table.weight.detach().split(sizes), sizes, strict=True):
        bound = rows**-0.5
        assert float(part.abs().max()) <= bound
        assert float(part.abs().max()) > 0.9 * bound
        assert float(part.std()) == pytest.approx(bound / 3**0.5, rel=0.15)
    blocks = table.weight.detach()[4:2004].split(1000)
    assert not torch.equal(blocks[0], blocks[1])
    net = DLRM(**{**SMALL, "top_widths": (1000, 800)})
    middle = net.top[2]
    assert float(middle.weight.detach().std()) == pytest.approx((2 / 1800) ** 0.5, rel=0.02)
    assert float(middle.bias.detach().std()) == pytest.approx((1 / 800) ** 0.5, rel=0.1)


def test_seed_determines_the_initial_values():
    def drawn(seed):
        torch.manual_seed(seed)
        return DLRM(**SMALL).tables.weight

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))


def test_tables_that_do_not_fit_are_rejected_with_the_plan(monkeypatch):
    monkeypatch.setattr(fused_embedding, "_free_bytes", lambda device: 80 * 2**30)
    with pytest.raises(ValueError, match="187,767,399 rows x 128 float32 = 89.5 GiB") as error:
        DLRM()
    assert "80.0 GiB free" in str(error.value)
    assert "--trainer.devices" in str(error.value)
    assert "\n" not in str(error.value)


def test_half_precision_tables_halve_the_plan_and_train():
    net = DLRM(**SMALL, table_dtype="bfloat16")
    assert "80 rows x 8 bfloat16 = 1.2 KiB" in net.tables.memory_plan()
    dense, ids = inputs()
    labels = (torch.arange(9) % 2).float()
    losses = [step(net, SparseSGD(net.parameters(), 0.3), dense, ids, labels) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]
    with pytest.raises(ValueError, match="allowed: float32, bfloat16, float16"):
        DLRM(**SMALL, table_dtype="int8")


def test_exchange_between_ranks_is_not_recompiled_in_every_step(monkeypatch):
    monkeypatch.setattr(fused_embedding, "_rank_and_world", lambda: (0, 2))
    monkeypatch.setattr(fused_embedding.dist, "all_to_all_single", lambda out, x, *_: out.copy_(x))
    monkeypatch.setattr(fused_embedding.dist, "get_world_size", lambda: 2)
    net, programs, made = DLRM(**SMALL), CompileCounter(), []
    net.compile(backend=programs)
    for seed in range(4):
        net(*inputs(seed=seed)).sum().backward()
        made.append(programs.frame_count)
    assert made == made[:1] * 4


def test_net_of_another_shape_is_rejected():
    DLRMModule(net=lambda: DLRM(**SMALL)).configure_model()

    class Wide(nn.Module):
        def forward(self, dense, ids):
            return torch.zeros(len(dense), 2)

    with pytest.raises(ValueError, match=r"Wide must .* shape \(2,\), but returned shape \(2, 2\)"):
        DLRMModule(net=Wide).configure_model()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_tables_keep_the_gradients_of_a_large_batch(dtype):
    torch.manual_seed(3)
    whole, half = DLRM(**SMALL), DLRM(**SMALL, table_dtype=dtype)
    half.load_state_dict(whole.state_dict())  # rounded
    whole.load_state_dict(half.state_dict())
    dense, ids = inputs()
    for net in (whole, half):
        for _ in range(2):  # also where they add up
            (net(dense, ids).mean() * 1e-6).backward()  # as small as in a mean over 100,000 rows
    wanted, got = (net.tables.weight.grad.to_dense().float() for net in (whole, half))
    torch.testing.assert_close(got, wanted, rtol=0.03, atol=0.01 * float(wanted.abs().max()))


@pytest.mark.parametrize(("rows", "good"), [(20, True), (19, False)])
def test_net_without_rows_for_the_data_is_rejected_before_training(rows, good):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(rows, 1)

        def forward(self, dense, ids):
            return self.table(ids).sum((1, 2))

    module = DLRMModule(net=Own)
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(table_sizes=(3, 20, 7)))
    if good:
        module.configure_model()
        return
    with pytest.raises(ValueError, match="Own failed on .* IndexError"):
        module.configure_model()


@pytest.mark.parametrize("strategy", [FSDPStrategy(), ModelParallelStrategy(), DDPStrategy()])
def test_strategies_that_shard_the_tables_again_are_rejected(strategy):
    module = DLRMModule()
    module._trainer = SimpleNamespace(strategy=strategy)
    if isinstance(strategy, DDPStrategy):
        module.setup("fit")
        return
    with pytest.raises(ValueError, match="by itself; use ddp"):
        module.setup("fit")


@pytest.mark.parametrize(("ranks", "precision"), [(2, "16-mixed"), (1, "16-mixed"), (2, "32-true")])
def test_ranks_with_own_tables_cannot_scale_the_loss(ranks, precision):
    module = DLRMModule()
    module._trainer = SimpleNamespace(strategy=None, world_size=ranks, precision=precision)
    if (ranks, precision) != (2, "16-mixed"):
        module.setup("fit")
        return
    with pytest.raises(ValueError, match="use bf16-mixed or 32-true"):
        module.setup("fit")


def test_inconsistent_schedule_is_rejected():
    with pytest.raises(ValueError, match="at least warmup_steps"):
        DLRMModule(warmup_steps=10, decay_start_step=5, decay_steps=3)
    with pytest.raises(ValueError, match="at least 0"):
        DLRMModule(learning_rate=-1.0)


@pytest.fixture
def fresh_pages_cost_nothing():
    """Let glibc's malloc keep what is freed, as it does once a process has run for a while.

    In a young process each of the 26 lookups gets fresh pages from the system, 40,000 page faults
    and 50 ms a step, which the separate tables pay and ours does not: that would flatter ours.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(parameter, 1 << 30)
    yield
    if hasattr(libc, "mallopt"):
        for parameter in (-3, -1):
            libc.mallopt(parameter, 32 << 20)  # where it ends by itself


@pytest.mark.speed
@pytest.mark.slow
def test_step_takes_no_longer_than_with_26_separate_tables(fresh_pages_cost_nothing):
    # The closed width and tables larger than any cache. The layers are the demo's: the products of
    # the closed ones (14 MFLOP a row) are the same on both sides and would hide the rest.
    num_rows, sizes = 8192, tuple(min(size, 20_000) for size in TABLE_SIZES)
    layers = {"bottom_widths": (64, 32), "top_widths": (128, 64)}
    ours, same = (DLRM(table_sizes=sizes, embedding_width=128, **layers) for _ in range(2))
    theirs = Separate(same)
    a, b = SparseSGD(ours.parameters(), 0.1), torch.optim.SGD(theirs.parameters(), 0.1)
    dense, _ = inputs(num_rows, sizes)
    # Categories of click logs are skewed: a power law, though a milder one than the real logs'.
    draw = np.random.default_rng(1).random((num_rows, len(sizes))) ** (1 / 0.35)
    ids = torch.from_numpy((np.array(sizes) * draw).astype(np.int32))
    labels = (torch.arange(num_rows) % 3 == 0).float()
    seconds: list[list[float]] = [[], []]
    for _ in range(5):
        for times, net, optimizer in ((seconds[0], ours, a), (seconds[1], theirs, b)):
            for _ in range(3):
                start = time.process_time()
                step(net, optimizer, dense, ids, labels)
                times.append(time.process_time() - start)
    fused, separate = (float(np.median(times[3:])) for times in seconds)
    print(f"step: {fused * 1e3:.0f} ms, separate tables {separate * 1e3:.0f} ms")
    assert fused / separate <= 1.0, (fused, separate)
