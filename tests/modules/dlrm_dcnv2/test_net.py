"""DLRM-DCNv2's network: parameter count, arithmetic and first values."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from datamodules.criteo.multi_hot import bags, synthetic
from modules.dlrm_dcnv2 import DCNv2Module
from modules.dlrm_dcnv2.cross_net import LowRankCrossNet
from modules.dlrm_dcnv2.net import BAG_SIZES, TABLE_SIZES, DCNv2
from modules.recommendation import fused_embedding

SIZES, BAGS = (50, 3, 7), (4, 1, 2)
SMALL = {
    "table_sizes": SIZES, "bag_sizes": BAGS, "embedding_width": 8, "bottom_widths": (16,),
    "top_widths": (12, 5), "cross_layers": 2, "cross_rank": 3,
}  # fmt: skip


def inputs(num_rows=9, seed=0):
    rng = np.random.default_rng(seed)
    most = np.repeat(SIZES, BAGS)
    ids = rng.integers(most, size=(num_rows, len(most)), dtype=np.int32)
    return torch.from_numpy(rng.normal(size=(num_rows, 13)).astype(np.float32)), torch.from_numpy(
        ids
    )


def test_closed_network_has_the_reference_parameters():
    with torch.device("meta"):
        net = DCNv2()
    assert sum(TABLE_SIZES) == 204_184_588
    assert sum(BAG_SIZES) == 214
    parts = {"bottom": 171_392, "cross": 10_627_200, "top": 5_245_953, "tables": 26_135_627_264}
    for name, wanted in parts.items():
        assert sum(p.numel() for p in net.get_submodule(name).parameters()) == wanted, name
    assert sum(p.numel() for p in net.parameters()) == 26_151_671_809


def test_data_and_network_agree_on_tables_and_bags():
    assert (synthetic.TABLE_SIZES, bags.BAG_SIZES) == (TABLE_SIZES, BAG_SIZES)


def test_output_equals_the_formula_with_the_same_weights():
    torch.manual_seed(0)
    net = DCNv2(**SMALL)
    dense, ids = inputs()
    state, bounds = net.state_dict(), np.cumsum([0, *SIZES])

    def layer(name, x):
        return state[f"{name}.weight"] @ x + state[f"{name}.bias"]

    for row in range(len(dense)):
        x = layer("bottom.2", layer("bottom.0", dense[row]).clamp(min=0)).clamp(min=0)
        vectors, start = [x], 0
        for table, size in enumerate(BAGS):
            rows = state["tables.weight"][bounds[table] : bounds[table + 1]]
            vectors.append(sum(rows[i] for i in ids[row, start : start + size].tolist()))
            start += size
        first = x = torch.cat(vectors)
        for number in range(2):
            low = state[f"cross.down.{number}.weight"] @ x
            x = first * layer(f"cross.up.{number}", low) + x
        for name in ("top.0", "top.2"):
            x = layer(name, x).clamp(min=0)
        torch.testing.assert_close(net(dense, ids)[row], layer("top.4", x)[0])


def test_initial_values_have_the_reference_ranges():
    torch.manual_seed(0)
    cross = LowRankCrossNet(400, 2, 100)
    for weight in (cross.down[1].weight, cross.up[0].weight):
        assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / 500), rel=0.03)
    assert not cross.up[1].bias.any()
    net = DCNv2(**{**SMALL, "table_sizes": (4, 2500, 900), "top_widths": (1000, 800)})
    middle = net.top[2]
    assert isinstance(middle, nn.Linear)
    for values in (middle.weight, middle.bias):
        assert 0.9 / 1000**0.5 < float(values.detach().abs().max()) <= 1 / 1000**0.5
    for part, rows in zip(
        net.tables.weight.detach().split((4, 2500, 900)), (4, 2500, 900), strict=True
    ):
        assert 0.9 * rows**-0.5 < float(part.abs().max()) <= rows**-0.5


def test_a_step_of_the_module_equals_torchs_modules_and_optimizer():
    torch.manual_seed(1)
    ours = DCNv2(**SMALL)
    tables = [nn.Parameter(part.clone()) for part in ours.tables.weight.detach().split(SIZES)]
    rest = [
        p.detach().clone().requires_grad_() for n, p in ours.named_parameters() if "tables" not in n
    ]
    names = [n for n, _ in ours.named_parameters() if "tables" not in n]
    module = DCNv2Module(net=lambda: ours, learning_rate=0.1)
    module.configure_model()
    optimizer = module.configure_optimizers()["optimizer"]
    theirs = torch.optim.Adagrad([*tables, *rest], 0.1, eps=1e-8)
    for seed in range(3):
        dense, ids = inputs(seed=seed)
        label = (torch.arange(9) % 3 == 0).to(torch.uint8)
        optimizer.zero_grad()
        module.training_step({"dense": dense, "bags": ids, "label": label}, 0).backward()
        optimizer.step()
        state, start, vectors = dict(zip(names, rest, strict=True)), 0, []
        for table, size in zip(tables, BAGS, strict=True):
            vectors.append(F.embedding_bag(ids[:, start : start + size], table, mode="sum"))
            start += size
        bottom = torch.func.functional_call(
            ours.bottom, {n[7:]: v for n, v in state.items() if n.startswith("bottom")}, (dense,)
        )
        crossed = torch.func.functional_call(
            ours.cross, {n[6:]: v for n, v in state.items() if n.startswith("cross")},
            (torch.cat([bottom, *vectors], 1),),
        )  # fmt: skip
        logits = torch.func.functional_call(
            ours.top, {n[4:]: v for n, v in state.items() if n.startswith("top")}, (crossed,)
        )
        theirs.zero_grad()
        F.binary_cross_entropy_with_logits(logits.squeeze(1), label.float()).backward()
        theirs.step()
    torch.testing.assert_close(ours.tables.weight.detach(), torch.cat([*tables]).detach())
    for name, value in zip(names, rest, strict=True):
        torch.testing.assert_close(ours.get_parameter(name), value)


def test_tables_and_sums_that_do_not_fit_are_rejected_with_the_plan(monkeypatch):
    monkeypatch.setattr(fused_embedding, "_free_bytes", lambda device: 141 * 10**9)
    with pytest.raises(ValueError, match="97.4 GiB, 194.7 GiB with the optimizer's sums") as error:
        DCNv2()
    assert "--trainer.devices" in str(error.value)
    assert "table_dtype" not in str(error.value)


def test_a_negative_rate_is_rejected():
    with pytest.raises(ValueError, match="at least 0"):
        DCNv2Module(learning_rate=-0.1)
