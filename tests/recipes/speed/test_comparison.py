"""Variants are compared in turn, and what is known is kept as it comes."""

from contextlib import contextmanager
from copy import deepcopy

import torch

from recipes.speed.comparison import compare_variants
from recipes.speed.variants import parse_variants
from tests.recipes.speed.test_gate import toy_cli
from tests.toy import toy_trainer

entered = []


@contextmanager
def fails_when_timed_again(module):
    """Pass the gate and one round, then fail as a kernel that is short of memory does."""
    entered.append(module)
    if len(entered) > 2:
        raise RuntimeError("out of memory")
    yield


def test_figures_are_noted_as_they_come_and_a_failure_takes_its_own_away():
    entered.clear()
    cli = toy_cli()
    cli.datamodule.batch_size = 8
    cli.variants = parse_variants(f"bf16,{__name__}.fails_when_timed_again")
    trainer = toy_trainer([], max_steps=1, limit_val_batches=0)
    trainer.fit(cli.model, cli.datamodule)
    batches = [[torch.randn(8, 2), torch.randn(8, 1)] for _ in range(2)]
    start = deepcopy(cli.model.state_dict())
    noted = []
    rows = compare_variants(
        cli, trainer, batches, 2, 2, note=lambda known: noted.append(deepcopy(known))
    )
    assert [len(known) for known in noted] == [1, 2, 3, 3, 3, 3, 3, 3, 3]
    assert noted[2][0]["samples_per_second"] is None
    assert noted[5][2]["samples_per_second"] > 0
    assert [row["error"] for row in rows] == [None, None, "RuntimeError: out of memory"]
    assert rows[1]["samples_per_second"] > 0
    assert rows[2]["samples_per_second"] is None
    assert all(torch.equal(start[name], x) for name, x in cli.model.state_dict().items())
