"""Schedules against the references: U-Net3D's per epoch, DLRM's per step."""

import numpy as np
import pytest
import torch

from modules.common.schedules import warmup_hold_poly, warmup_multistep


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


def dlrm_reference_rates(steps, *, base, warmup, start, decay):
    """The reference's scheduler as it keeps its state: a last rate that plateau and end reuse."""
    last, rates = base, []
    for count in range(1, steps + 1):
        if count < warmup:
            last = base * (1.0 - (warmup - count) / warmup)
        elif start <= count < start + decay:
            last = max(0.0000001, base * ((decay - (count - start)) / decay) ** 2)
        rates.append(last)
    return rates


@pytest.mark.parametrize(
    ("base", "warmup", "start", "decay"),
    [(24.0, 10, 30, 20), (1.0, 5, 5, 60), (18.0, 8, 20, 1), (2.0, 3, 40, 0), (26.0, 2, 2, 7)],
)
def test_dlrm_schedule_equals_the_reference_with_its_state(base, warmup, start, decay):
    wanted = dlrm_reference_rates(70, base=base, warmup=warmup, start=start, decay=decay)
    ours = [
        warmup_hold_poly(
            c, learning_rate=base, warmup_steps=warmup, decay_start_step=start, decay_steps=decay
        )
        for c in range(1, 71)
    ]
    np.testing.assert_allclose(ours, wanted, rtol=1e-12)


def test_dlrm_schedule_at_the_published_settings():
    def rate(step):
        return warmup_hold_poly(
            step, learning_rate=24.0, warmup_steps=2750, decay_start_step=49315, decay_steps=27772
        )

    assert rate(1) == pytest.approx(24 / 2750)
    assert rate(2749) == rate(2750) == rate(49314) == pytest.approx(24 * 2749 / 2750)
    assert rate(49315) == 24.0
    assert rate(49315 + 13886) == pytest.approx(6.0)
    assert rate(10**6) == max(1e-7, 24 / 27772**2)
    assert warmup_hold_poly(1, learning_rate=1.0) == 1.0
