"""The numeric gate: right variants pass, wrong ones do not, and nothing is left of either."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from recipes.speed.gate import FULL, REDUCED, Errors, Gate
from recipes.speed.variants import Settings, parse_variants
from tests.recipes.speed import planted
from tests.toy import ToyData, ToyModule, toy_trainer

HERE = "tests.recipes.speed.planted"


def config(precision="32-true", **warmup):
    defaults = {"compile": False, "compile_mode": "default", "memory_format": "contiguous"}
    return SimpleNamespace(
        trainer=SimpleNamespace(precision=precision),
        warmup=SimpleNamespace(**{**defaults, "matmul_precision": "highest", **warmup}),
    )


@pytest.fixture
def cli():
    return toy_cli()


def toy_cli():
    torch.manual_seed(0)
    module = ToyModule()
    module.net = nn.Sequential(
        nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1)
    )
    return SimpleNamespace(model=module, datamodule=ToyData(), config=config())


@pytest.fixture
def gate(cli):
    trainer = toy_trainer([], max_steps=1, limit_val_batches=0)
    trainer.fit(cli.model, cli.datamodule)
    batches = [[torch.randn(8, 2), torch.randn(8, 1)] for _ in range(3)]
    cli.trainer = trainer
    return Gate(cli, trainer, batches, settings(cli, "eager"))


def settings(cli, name):
    return Settings(cli, cli.trainer, parse_variants(name)[-1])


def test_the_reference_and_a_right_variant_have_no_errors(cli, gate):
    assert gate.errors(settings(cli, "eager")) == (0, 0)
    assert gate.errors(settings(cli, f"{HERE}.right")) == (0, 0)


@pytest.mark.parametrize(
    "name", ["larger_outputs", "lost_gradient", "first_batch_again", "no_update"]
)
def test_a_wrong_variant_is_caught(cli, gate, name):
    errors = gate.errors(settings(cli, f"{HERE}.{name}"))
    assert not errors.within(FULL), errors
    assert gate.errors(settings(cli, "eager")) == (0, 0)  # nothing is left of it


def test_a_lost_gradient_is_caught_where_the_loss_is_right_in_half_precision_too(cli, gate):
    errors = gate.errors(settings(cli, f"bf16+{HERE}.lost_gradient"))
    assert not errors.within(REDUCED)


def test_half_precision_is_within_its_tolerance(cli, gate):
    errors = gate.errors(settings(cli, "bf16"))
    assert errors.within(REDUCED), errors
    assert min(errors) > 1e-5  # it was computed in half precision


def test_a_network_that_amplifies_rounding_is_unclear_in_half_precision_only(cli, gate):
    # The toy hardly changes when its weights are rounded.
    assert max(gate.rounded) < 0.03
    assert gate.right(Errors(0.5, 0.5), REDUCED) is False
    gate.__dict__["rounded"] = Errors(0.09, 0.09)
    assert gate.right(Errors(0.5, 0.5), REDUCED) is None
    assert gate.right(Errors(1.0, 1.0), REDUCED) is False
    assert gate.right(Errors(math.nan, 0.5), REDUCED) is False
    assert gate.right(Errors(0.5, 0.5), FULL) is False
    assert gate.right(Errors(0.01, 0.01), REDUCED) is True


def test_fp32_is_unclear_only_where_fp32_itself_differs_from_run_to_run(cli, gate):
    assert gate.repeated == (0, 0)
    gate.__dict__["repeated"] = Errors(0.01, 0.05)  # as sums in any order on a GPU may make it
    assert gate.right(Errors(0.05, 0.4), FULL) is None
    assert gate.right(Errors(0.5, 0.4), FULL) is False


def test_what_is_not_a_number_is_wrong():
    assert not Errors(math.nan, 0.0).within(REDUCED)
    assert not Errors(0.0, math.nan).within(REDUCED)


def test_weights_buffers_dropout_and_random_numbers_are_restored(cli, gate):
    before = {name: x.clone() for name, x in cli.model.state_dict().items()}
    random = torch.get_rng_state()
    gate.errors(settings(cli, f"{HERE}.larger_outputs"))
    assert not torch.equal(cli.model.net[0].weight, before["net.0.weight"])
    gate.restart()
    assert torch.equal(torch.get_rng_state(), random)
    assert cli.model.net[3].p == 0.5
    for name, tensor in cli.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert planted.right  # the paths above name this module's functions
