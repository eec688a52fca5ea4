"""The comparison of two revisions: what it calls equal, and which demos it knows."""

import math
from pathlib import Path

import pytest

from tests import same_bits
from tests.tools.first_losses import digest, exact

ROOT = Path(__file__).resolve().parents[1]
STEMS = sorted(path.parent.name for path in ROOT.glob("recipes/presets/*/demo.yaml"))
OLD = {"loss 1": exact(0.1), "weights": "8173bab2c38a9171", "val/score": exact(0.5)}


def test_every_demo_can_be_compared():
    assert STEMS
    assert sorted([*same_bits.BATCH_SIZES, *same_bits.OWN_FLAGS]) == STEMS


def test_equal_figures_are_equal(capsys):
    assert same_bits.report("unet3d", OLD, dict(OLD))
    assert capsys.readouterr().out.count("equal") == 3


@pytest.mark.parametrize(
    "new",
    [
        {**OLD, "loss 1": exact(math.nextafter(0.1, 1))},
        {**OLD, "weights": "8173bab2c38a9172"},
        {name: value for name, value in OLD.items() if name != "val/score"},
        {**OLD, "val/other": exact(1)},
        {},
    ],
)
def test_one_bit_and_a_missing_figure_are_a_difference(new, capsys):
    assert not same_bits.report("unet3d", OLD, new)
    assert not same_bits.report("unet3d", new, OLD)


def test_a_named_exception_allows_what_it_says(monkeypatch, capsys):
    allowed = {
        ("unet3d", "val/score"): (1e-6, "another order of sums"),
        ("unet3d", "weights"): (math.inf, "so"),
    }
    monkeypatch.setattr(same_bits, "EXCEPTIONS", allowed)
    new = {**OLD, "val/score": exact(0.5000001), "weights": "0173bab2c38a9172"}
    assert same_bits.report("unet3d", OLD, new)
    assert "another order of sums" in capsys.readouterr().out
    assert not same_bits.report("unet3d", OLD, {**new, "val/score": exact(0.50001)})
    assert not same_bits.report("bert", OLD, new)


def test_digest_sees_one_bit_of_one_weight():
    torch = pytest.importorskip("torch")
    net = torch.nn.BatchNorm1d(3)
    before = digest(net)
    net.running_mean[1] = 1e-30
    assert digest(net) != before
