"""The per-epoch schedule: against torch's MultiStepLR driven as the reference drives it."""

import pytest
import torch

from modules.common.schedules import warmup_multistep


def reference_rates(epochs, *, rate, start, warmup, boundaries, factor):
    """The reference's loop: warm-up overwrites the rate before, MultiStepLR drops it after."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    decay = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(boundaries), factor)
    rates = []
    for epoch in range(1, epochs + 1):
        if epoch <= warmup:
            optimizer.param_groups[0]["lr"] = start + (rate - start) * epoch / warmup
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        decay.step()
    return rates


@pytest.mark.parametrize(
    ("warmup", "boundaries", "factor"),
    [
        (0, (), 1.0),
        (4, (), 1.0),
        (0, (3, 6), 0.5),
        (5, (8, 12), 0.1),
        (5, (2, 9), 0.5),
        (5, (4, 5), 0.5),
        (3, (6, 6), 0.5),
        (1, (1,), 0.25),
    ],
)
def test_schedule_equals_reference_loop(warmup, boundaries, factor):
    expected = reference_rates(
        16, rate=0.8, start=1e-4, warmup=warmup, boundaries=boundaries, factor=factor
    )
    got = [
        warmup_multistep(
            epoch,
            learning_rate=0.8,
            initial_learning_rate=1e-4,
            warmup_epochs=warmup,
            decay_boundary_epochs=boundaries,
            decay_factor=factor,
        )
        for epoch in range(1, 17)
    ]
    assert got == pytest.approx(expected, rel=1e-12)


def test_schedule_closed_reference_table():
    def rate(epoch):
        return warmup_multistep(
            epoch, learning_rate=0.8, initial_learning_rate=1e-4, warmup_epochs=200
        )

    assert rate(1) == pytest.approx(1e-4 + 0.7999 / 200, rel=1e-12)
    assert rate(100) == pytest.approx(1e-4 + 0.7999 / 2, rel=1e-12)
    assert rate(200) == rate(201) == rate(4000) == 0.8


def test_schedule_boundary_epoch_itself_uses_the_old_rate():
    def rate(epoch):
        return warmup_multistep(
            epoch, learning_rate=1.5, decay_boundary_epochs=[1700], decay_factor=0.5
        )

    assert (rate(1700), rate(1701)) == (1.5, 0.75)
