"""FBGEMM's tables train as our own, where it is installed; elsewhere one line says what to do."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from modules.dlrm_dcnv2 import DCNv2Module, fbgemm
from modules.dlrm_dcnv2.fbgemm import FbgemmTables
from modules.dlrm_dcnv2.net import DCNv2

SIZES, BAGS = (50, 3, 7), (4, 1, 2)
SMALL = {
    "table_sizes": SIZES, "bag_sizes": BAGS, "embedding_width": 8, "bottom_widths": (16,),
    "top_widths": (12, 5), "cross_layers": 2, "cross_rank": 3,
}  # fmt: skip
INSTALLED = importlib.util.find_spec("fbgemm_gpu") is not None


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    most = torch.tensor(SIZES).repeat_interleave(torch.tensor(BAGS))
    return {
        "dense": torch.randn(9, 13, generator=generator),
        "bags": (torch.rand(9, 7, generator=generator) * most).int(),
        "label": (torch.arange(9) % 3 == 0).to(torch.uint8),
    }


@pytest.mark.skipif(not INSTALLED, reason="needs the extra [fbgemm]")
def test_steps_equal_those_of_our_own_tables():
    torch.manual_seed(0)
    ours, theirs = DCNv2(**SMALL), DCNv2(**SMALL, kernels="fbgemm")
    rest = {k: v for k, v in ours.state_dict().items() if not k.startswith("tables")}
    theirs.load_state_dict(rest, strict=False)
    for rows, own in zip(
        theirs.tables.split(), ours.tables.weight.detach().split(SIZES), strict=True
    ):
        rows.copy_(own)
    modules = [DCNv2Module(net=lambda net=net: net, learning_rate=0.1) for net in (ours, theirs)]
    optimizers = []
    for module in modules:
        module.configure_model()
        optimizers.append(module.configure_optimizers()["optimizer"])
    for seed in range(4):
        losses = []
        for module, optimizer in zip(modules, optimizers, strict=True):
            optimizer.zero_grad()
            losses.append(module.training_step(batch(seed), 0))
            losses[-1].backward()
            optimizer.step()
        torch.testing.assert_close(*losses)
    torch.testing.assert_close(torch.cat(theirs.tables.split()), ours.tables.weight.detach())
    sums = optimizers[0].state[ours.tables.weight]["sum"]
    torch.testing.assert_close(torch.cat(theirs.tables.sums()), sums)


class Kernels(FbgemmTables):
    """Stands for FBGEMM's tables where they are not installed."""

    def __init__(self):
        torch.nn.Module.__init__(self)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"world_size": 2}, "several devices"),
        ({"accumulate_grad_batches": 2}, "--trainer.accumulate_grad_batches"),
        ({"gradient_clip_val": 1.0}, "--trainer.gradient_clip_val"),
        ({"precision": "16-mixed"}, "a scaled loss"),
    ],
)
def test_what_the_kernels_cannot_do_is_refused(given, words):
    """In Lightning's order: the network does not exist before configure_model."""
    module = DCNv2Module(net=lambda: torch.nn.Sequential(Kernels()))
    module._trainer = SimpleNamespace(strategy=None, **given)
    module.setup("fit")
    with pytest.raises(ValueError, match="one device") as error:
        module.configure_model()
    assert words in str(error.value)


def test_without_fbgemm_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fbgemm_gpu", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[fbgemm\]'") as error:
        DCNv2(**SMALL, kernels="fbgemm")
    assert fbgemm.MISSING in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_kernels_are_rejected():
    with pytest.raises(ValueError, match="allowed: torch, fbgemm"):
        DCNv2(**SMALL, kernels="cuda")
